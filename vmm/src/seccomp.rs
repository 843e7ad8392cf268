//! What each thread of the process may ask of the kernel. The lists of device threads are with the devices.
//!
//! | thread | made | filter |
//! |---|---|---|
//! | a device's | with the machine | its [`ThreadKind`](berth_devices::worker::ThreadKind)'s |
//! | loader | reads kernel and initrd, which come from the guest's disk, and ends | [`loader`] |
//! | virtual CPU | with the machine | [`vcpu`] |
//! | owner | with the process | [`owner`], once the machine is built |

use std::io;
use std::sync::Arc;

use berth_devices::seccomp::{Filter, Restricted};
use berth_devices::worker::ThreadSetup;
use kvm_bindings::{
    KVMIO, kvm_clock_data, kvm_debugregs, kvm_ioeventfd, kvm_irq_routing, kvm_irqchip, kvm_irqfd, kvm_lapic_state,
    kvm_mp_state, kvm_msrs, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use libc::{_IO, _IOR, _IOW, _IOWR};

const fn ioctl(request: libc::Ioctl) -> Restricted {
    Restricted::with(libc::SYS_ioctl, 1, request as u32)
}

/// Requests to KVM that a virtual CPU makes (linux/kvm.h) to run the guest: KVM_RUN, KVM_GET_REGS (for messages) and
/// KVM_KVMCLOCK_CTRL.
const RUN: [Restricted; 3] = [ioctl(_IO(KVMIO, 0x80)), ioctl(_IOR::<kvm_regs>(KVMIO, 0x81)), ioctl(_IO(KVMIO, 0xad))];

/// What a virtual CPU does for the guest that writes registers of interrupts and notifications: KVM_SET_GSI_ROUTING.
const ROUTE: Restricted = ioctl(_IOW::<kvm_irq_routing>(KVMIO, 0x6a));

/// The same, and what the owner does when devices go with the machine: KVM_IOEVENTFD, KVM_IRQFD.
const EVENTS: [Restricted; 2] = [ioctl(_IOW::<kvm_ioeventfd>(KVMIO, 0x79)), ioctl(_IOW::<kvm_irqfd>(KVMIO, 0x76))];

/// What saves a machine, in the order of [`crate::state`]: KVM_GET_IRQCHIP and KVM_GET_CLOCK; KVM_GET_MP_STATE, …_TSC_KHZ,
/// …_REGS, …_SREGS, …_XSAVE, …_XCRS, …_DEBUGREGS, …_LAPIC, …_MSRS and …_VCPU_EVENTS of CPUs.
const SAVE: [Restricted; 12] = [
    ioctl(_IOWR::<kvm_irqchip>(KVMIO, 0x62)),
    ioctl(_IOR::<kvm_clock_data>(KVMIO, 0x7c)),
    ioctl(_IOR::<kvm_mp_state>(KVMIO, 0x98)),
    ioctl(_IO(KVMIO, 0xa3)),
    ioctl(_IOR::<kvm_regs>(KVMIO, 0x81)),
    ioctl(_IOR::<kvm_sregs>(KVMIO, 0x83)),
    ioctl(_IOR::<kvm_xsave>(KVMIO, 0xa4)),
    ioctl(_IOR::<kvm_xcrs>(KVMIO, 0xa6)),
    ioctl(_IOR::<kvm_debugregs>(KVMIO, 0xa1)),
    ioctl(_IOR::<kvm_lapic_state>(KVMIO, 0x8e)),
    ioctl(_IOWR::<kvm_msrs>(KVMIO, 0x88)),
    ioctl(_IOR::<kvm_vcpu_events>(KVMIO, 0x9f)),
];

/// For the threads of devices.
pub fn devices() -> ThreadSetup {
    Arc::new(|kind| kind.filter()?.enter())
}

/// For the thread of a virtual CPU.
pub fn vcpu() -> io::Result<Filter> {
    Filter::new(&[libc::SYS_timerfd_settime], &[&RUN[..], &[ROUTE], &EVENTS].concat())
}

/// For the thread that reads kernel and initrd.
pub fn loader() -> io::Result<Filter> {
    let calls = [libc::SYS_fstat, libc::SYS_lseek, libc::SYS_pread64, libc::SYS_readv, libc::SYS_statx];
    // Its readers have descriptors of their own.
    Filter::new(&calls, &[Restricted::with(libc::SYS_fcntl, 1, libc::F_DUPFD_CLOEXEC as u32)])
}

/// For the owner of the machine, once that is built.
pub fn owner() -> io::Result<Filter> {
    let calls = [
        libc::SYS_accept4,
        libc::SYS_ftruncate,
        libc::SYS_lseek,
        libc::SYS_poll,
        libc::SYS_ppoll,
        libc::SYS_pread64,
        libc::SYS_pwrite64,
        libc::SYS_recvfrom,
        libc::SYS_recvmsg,
        libc::SYS_sendmsg,
        libc::SYS_sendto,
        libc::SYS_writev,
    ];
    let others = [
        ioctl(libc::FIONBIO),
        // The console's connections.
        Restricted::with(libc::SYS_socketpair, 0, libc::AF_UNIX as u32),
    ];
    Filter::new(&calls, &[&others[..], &EVENTS, &SAVE].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(numbers: &[u32]) -> Vec<Restricted> {
        numbers.iter().map(|number| ioctl((*number).into())).collect()
    }

    #[test]
    fn requests_have_the_numbers_of_the_kernel() {
        assert_eq!(RUN, *requests(&[0xae80, 0x8090_ae81, 0xaead]));
        assert_eq!(ROUTE, requests(&[0x4008_ae6a])[0]);
        assert_eq!(EVENTS, *requests(&[0x4040_ae79, 0x4020_ae76]));
        let save = [
            0xc208_ae62,
            0x8030_ae7c,
            0x8004_ae98,
            0xaea3,
            0x8090_ae81,
            0x8138_ae83,
            0x9000_aea4,
            0x8188_aea6,
            0x8080_aea1,
            0x8400_ae8e,
            0xc008_ae88,
            0x8040_ae9f,
        ];
        assert_eq!(SAVE, *requests(&save));
    }

    #[test]
    fn the_filters_compile() {
        assert!(vcpu().is_ok() && loader().is_ok() && owner().is_ok());
    }
}
