//! Network interfaces of an instance that is being started or has ended.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;

use berth_network::{MacAddr, Networks, NicLimits, NicRequest};

use crate::error::{Error, Result};
use crate::model::{Config, Instance};
use crate::plan;
use crate::values::parse_mac;

/// The interfaces of one start. [`Nics::host_names`] tells which links were made, also after a failure.
pub(crate) struct Nics<'a> {
    networks: &'a Networks,
    requests: Vec<NicRequest>,
    limits: BTreeMap<String, NicLimits>,
    attached: Vec<(String, String)>,
    connection: Connection,
}

/// When a virtual machine's interfaces are put on their networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Connection {
    AtOnce,
    Later,
}

impl<'a> Nics<'a> {
    /// The interfaces that `instance` wants.
    pub(crate) fn wanted(networks: &'a Networks, instance: &Instance) -> Result<Self> {
        Self::of(networks, instance, requests(instance)?)
    }

    /// The same for a virtual machine that nobody is to hear of, before [`connect`] if ever.
    pub(crate) fn unconnected(networks: &'a Networks, instance: &Instance) -> Result<Self> {
        Ok(Self { connection: Connection::Later, ..Self::wanted(networks, instance)? })
    }

    /// Those that `after` wants and `before`, as far as it has them, does not.
    pub(crate) fn added(networks: &'a Networks, before: &Instance, after: &Instance) -> Result<Self> {
        Self::of(networks, after, difference(after, before)?)
    }

    fn of(networks: &'a Networks, instance: &Instance, requests: Vec<NicRequest>) -> Result<Self> {
        let limits = limits(instance)?;
        Ok(Self { networks, requests, limits, attached: Vec::new(), connection: Connection::AtOnce })
    }

    /// Moves one end of a new link for each interface into a container's network namespace.
    pub(crate) async fn attach_container(&mut self, netns: &OwnedFd) -> Result<()> {
        for request in &self.requests {
            let namespace = netns.try_clone().map_err(Error::io("duplicate a descriptor"))?;
            let nic = self.networks.attach_container(request, namespace).await?;
            self.attached.push((request.device.clone(), nic.host_name.clone()));
            if let Some(limits) = self.limits.get(&request.device) {
                self.networks.limit(&nic.host_name, *limits).await?;
            }
        }
        Ok(())
    }

    /// Makes a tap device for each interface of a virtual machine.
    pub(crate) async fn attach_vm(&mut self) -> Result<Vec<Tap>> {
        let mut taps = Vec::new();
        for request in &self.requests {
            let (host_name, fd) = self.networks.make_tap(request).await?;
            self.attached.push((request.device.clone(), host_name.clone()));
            if self.connection == Connection::AtOnce {
                self.networks.connect_tap(request, &host_name).await?;
            }
            taps.push(Tap { device: request.device.clone(), fd, hwaddr: request.hwaddr.0, mtu: request.mtu });
        }
        Ok(taps)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Device and host link of each interface made so far.
    pub(crate) fn host_names(&self) -> &[(String, String)] {
        &self.attached
    }
}

/// The host's end of a virtual machine's interface.
pub(crate) struct Tap {
    pub device: String,
    pub fd: OwnedFd,
    pub hwaddr: [u8; 6],
    pub mtu: Option<u32>,
}

/// The interfaces of `one`, as far as they are in place or yet to be, that `other` has not got in the same way.
fn difference(one: &Instance, other: &Instance) -> Result<Vec<NicRequest>> {
    let in_place =
        |instance: &Instance, request: &NicRequest| instance.volatile.contains_key(&host_name_key(&request.device));
    let others: Vec<_> = requests(other)?.into_iter().filter(|request| in_place(other, request)).collect();
    Ok(requests(one)?.into_iter().filter(|request| !others.contains(request)).collect())
}

/// Limits the interfaces that a container has in place as it wants them.
pub(crate) async fn limit(networks: &Networks, instance: &Instance) -> Result<()> {
    let limits = limits(instance)?;
    for request in requests(instance)? {
        if let Some(host_name) = instance.volatile.get(&host_name_key(&request.device)) {
            networks.limit(host_name, limits.get(&request.device).copied().unwrap_or_default()).await?;
        }
    }
    Ok(())
}

/// The limits of the NICs that have any, by device.
fn limits(instance: &Instance) -> Result<BTreeMap<String, NicLimits>> {
    let nics = plan::nics(&instance.expanded_devices, instance.kind).map_err(Error::Invalid)?;
    let limits = nics.into_iter().map(|(device, nic)| {
        let [ingress, egress] = [nic.limits.ingress, nic.limits.egress].map(|bits| bits.map(bytes));
        (device, NicLimits { ingress, egress })
    });
    Ok(limits.filter(|(_, limits)| *limits != NicLimits::default()).collect())
}

/// Bits to bytes; less than a byte is rounded up, since none would be something else.
pub(crate) fn bytes(bits: NonZeroU64) -> NonZeroU64 {
    NonZeroU64::new(bits.get().div_ceil(8)).unwrap_or(NonZeroU64::MIN)
}

/// Takes away the interfaces that `before` has in place and `after` does not want so; tells which.
pub(crate) async fn detach_gone(networks: &Networks, before: &Instance, after: &Instance) -> Result<Vec<String>> {
    let wanted = requests(after)?;
    let mut gone = Vec::new();
    for request in requests(before)?.into_iter().filter(|request| !wanted.contains(request)) {
        if let Some(host_name) = before.volatile.get(&host_name_key(&request.device)) {
            networks.detach(&request, host_name).await?;
            gone.push(request.device);
        }
    }
    Ok(gone)
}

/// Puts the interfaces that a virtual machine is remembered to have on their networks, as far as they are not.
pub(crate) async fn connect(networks: &Networks, instance: &Instance) -> Result<()> {
    for request in requests(instance)? {
        if let Some(host_name) = instance.volatile.get(&host_name_key(&request.device)) {
            networks.connect_tap(&request, host_name).await?;
        }
    }
    Ok(())
}

/// Takes away the links that `instance` has. Harmless if they are gone.
pub(crate) async fn detach_all(networks: &Networks, instance: &Instance) -> Result<()> {
    for request in requests(instance)? {
        // A daemon that was killed while it made a link could not remember its name.
        let host_name = instance.volatile.get(&host_name_key(&request.device)).map_or("", String::as_str);
        networks.detach(&request, host_name).await?;
    }
    Ok(())
}

/// Key under which the host link of a device is remembered.
pub(crate) fn host_name_key(device: &str) -> String {
    format!("volatile.{device}.host_name")
}

/// End of the keys under which MAC addresses are remembered.
pub(crate) const HWADDR: &str = ".hwaddr";

/// Key under which the made-up MAC address of a device is remembered.
pub(crate) fn hwaddr_key(device: &str) -> String {
    format!("volatile.{device}{HWADDR}")
}

/// MAC addresses for the NICs that have none yet, in Berth's (Xen's, as LXD's) range 00:16:3e.
pub(crate) fn invent_addresses(instance: &Instance) -> Result<Config> {
    let nics = plan::nics(&instance.expanded_devices, instance.kind).map_err(Error::Invalid)?;
    let missing = nics
        .into_iter()
        .filter(|(device, nic)| nic.hwaddr.is_none() && !instance.volatile.contains_key(&hwaddr_key(device)));
    Ok(missing
        .map(|(device, _)| {
            let [a, b, c]: [u8; 3] = rand::random();
            (hwaddr_key(&device), format!("00:16:3e:{a:02x}:{b:02x}:{c:02x}"))
        })
        .collect())
}

fn requests(instance: &Instance) -> Result<Vec<NicRequest>> {
    let nics = plan::nics(&instance.expanded_devices, instance.kind).map_err(Error::Invalid)?;
    nics.into_iter()
        .map(|(device, nic)| {
            let remembered = instance.volatile.get(&hwaddr_key(&device));
            let hwaddr = match (nic.hwaddr, remembered) {
                (Some(mac), _) => mac,
                (None, Some(text)) => parse_mac(text).map_err(Error::Invalid)?,
                (None, None) => return Err(Error::Runtime(format!("device \"{device}\" has no MAC address yet"))),
            };
            Ok(NicRequest {
                instance: instance.uuid,
                instance_name: instance.name.clone(),
                project: instance.project.clone(),
                name: nic.name.unwrap_or_else(|| device.clone()),
                device,
                network: nic.link.name().to_owned(),
                hwaddr: MacAddr(hwaddr),
                mtu: nic.mtu,
                ipv4: nic.ipv4,
                ipv6: nic.ipv6,
            })
        })
        .collect()
}
