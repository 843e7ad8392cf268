//! What a network card is, and how the guest sees that.

use std::num::NonZeroU64;
use std::os::fd::OwnedFd;

use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MAC,
    VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU, VIRTIO_NET_F_STATUS, VIRTIO_NET_S_LINK_UP,
};

/// Descriptors of each queue.
pub const QUEUE_SIZE: u16 = 256;
/// Bytes of the header before each frame, `virtio_net_hdr_v1`.
pub const HEADER: usize = 12;
/// Largest frame with header: a TCP segment of 64 KiB to be cut later, with Ethernet and VLAN header.
pub const MAX_FRAME: usize = HEADER + 18 + 65_535;

const OFFLOADS: u64 = 1 << VIRTIO_NET_F_CSUM
    | 1 << VIRTIO_NET_F_GUEST_CSUM
    | 1 << VIRTIO_NET_F_HOST_TSO4
    | 1 << VIRTIO_NET_F_HOST_TSO6
    | 1 << VIRTIO_NET_F_HOST_ECN
    | 1 << VIRTIO_NET_F_GUEST_TSO4
    | 1 << VIRTIO_NET_F_GUEST_TSO6
    | 1 << VIRTIO_NET_F_GUEST_ECN;

/// Features of a card.
pub const FEATURES: u64 =
    OFFLOADS | 1 << VIRTIO_NET_F_MAC | 1 << VIRTIO_NET_F_MTU | 1 << VIRTIO_NET_F_STATUS | 1 << VIRTIO_NET_F_MRG_RXBUF;

/// What a network card is.
#[derive(Debug)]
pub struct NetConfig {
    /// Name of its thread and in the log: `net0`.
    pub name: String,
    /// A tap device opened with `IFF_TAP | IFF_NO_PI | IFF_VNET_HDR`; made non-blocking here.
    pub tap: OwnedFd,
    /// MAC address of the guest's card.
    pub mac: [u8; 6],
    /// MTU told to the guest.
    pub mtu: u16,
    /// See [`NetLimits`].
    pub limits: NetLimits,
}

/// Most that a card may carry, in bytes a second, headers of virtio not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NetLimits {
    /// To the guest.
    pub ingress: Option<NonZeroU64>,
    /// From the guest.
    pub egress: Option<NonZeroU64>,
}

/// The configuration structure.
pub fn space(mac: [u8; 6], mtu: u16, link_up: bool) -> [u8; 12] {
    let mut space = [0; 12];
    space[..6].copy_from_slice(&mac);
    let status = if link_up { VIRTIO_NET_S_LINK_UP as u16 } else { 0 };
    space[6..8].copy_from_slice(&status.to_le_bytes());
    // One queue pair, though the field is read only with multiqueue.
    space[8..10].copy_from_slice(&1u16.to_le_bytes());
    space[10..].copy_from_slice(&mtu.to_le_bytes());
    space
}

/// Bytes of the largest frame, with header, that the host may send to a guest with these features.
pub fn largest_received(features: u64, mtu: u16) -> usize {
    let segments = 1 << VIRTIO_NET_F_GUEST_TSO4 | 1 << VIRTIO_NET_F_GUEST_TSO6;
    if features & segments != 0 { MAX_FRAME } else { HEADER + 18 + usize::from(mtu.max(1500)) }
}
