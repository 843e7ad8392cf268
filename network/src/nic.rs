//! The network cards of instances.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use berth_store::step;
use rand::Rng;
use rtnetlink::packet_route::link::InfoKind;
use uuid::Uuid;

use crate::config;
use crate::dnsmasq::{self, Files};
use crate::document;
use crate::error::NetworkError;
use crate::leases::{self, Host};
use crate::link::{Link, Links, VethSpec};
use crate::mac::MacAddr;
use crate::manager::Networks;
use crate::{files, tap};

/// How many random names are tried for a host's end.
const ATTEMPTS: usize = 16;

/// One file for each host end on the network, so that a bridge that had to be made anew gets its ports back, and none is
/// forgotten.
const PORTS: &str = "ports";

/// What an instance wants of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicRequest {
    /// The instance.
    pub instance: Uuid,
    /// Its name, which is the one in the network's DNS.
    pub instance_name: String,
    /// Its project.
    pub project: String,
    /// Name of the device in the instance's configuration.
    pub device: String,
    /// The network: a managed one, or a bridge of the host.
    pub network: String,
    /// Hardware address of the instance's end.
    pub hwaddr: MacAddr,
    /// Name of the link inside a container.
    pub name: String,
    /// Longest packet, if other than the network's.
    pub mtu: Option<u32>,
    /// The address that DHCP is to give, if a certain one.
    pub ipv4: Option<Ipv4Addr>,
    /// Likewise for DHCPv6.
    pub ipv6: Option<Ipv6Addr>,
}

/// A network card that is in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nic {
    /// Name of the host's end.
    pub host_name: String,
    /// Longest packet.
    pub mtu: u32,
}

/// The kind of a host's end, which its name begins with.
#[derive(Clone, Copy)]
enum Port {
    Veth,
    Tap,
}

impl Port {
    fn prefix(self) -> &'static str {
        match self {
            Port::Veth => "veth",
            Port::Tap => "tap",
        }
    }

    fn random_name(self) -> String {
        format!("{}{:08x}", self.prefix(), rand::rng().random::<u32>())
    }
}

/// A new tap; none if its name is taken.
async fn open_tap(name: &str) -> io::Result<Option<OwnedFd>> {
    let name = name.to_owned();
    match tokio::task::spawn_blocking(move || tap::open(&name)).await.map_err(io::Error::other)? {
        Ok(tap) => Ok(Some(tap)),
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let reason = "the kernel has no tap devices (/dev/net/tun): load its module tun";
            Err(io::Error::new(io::ErrorKind::NotFound, reason))
        }
        Err(error) => Err(error),
    }
}

/// Whether a name is one that we give to host ends.
pub(crate) fn is_port_name(name: &str) -> bool {
    [Port::Veth, Port::Tap].iter().any(|port| {
        let digits = name.strip_prefix(port.prefix());
        digits.is_some_and(|rest| {
            rest.len() == 8 && rest.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        })
    })
}

impl Networks {
    /// Gives a container its card: a veth pair with one end in the bridge and the other in `netns`, where it has its
    /// final name but is still down.
    pub async fn attach_container(&self, request: &NicRequest, netns: OwnedFd) -> Result<Nic, NetworkError> {
        let bridge = self.bridge_for(request).await?;
        let mtu = request.mtu.unwrap_or(bridge.mtu);
        let failed = || NetworkError::link(describe(request));
        for _ in 0..ATTEMPTS {
            let host_name = Port::Veth.random_name();
            // Both names of the pair are refused alike, so whose it was has to be looked up beforehand.
            if self.inner.links.find(&host_name).await.map_err(failed())?.is_some() {
                continue;
            }
            self.register(request, &host_name).await?;
            step::done("network card announced");
            let spec = VethSpec {
                host_name: &host_name,
                bridge: bridge.index,
                mtu,
                peer_name: &request.name,
                peer_mac: request.hwaddr,
                netns: netns.as_fd(),
            };
            if let Err(error) = self.inner.links.add_veth(&spec).await {
                self.unregister(request, &[host_name]).await?;
                return Err(failed()(error));
            }
            step::done("network card made");
            return Ok(Nic { host_name, mtu });
        }
        Err(failed()(io::ErrorKind::AlreadyExists.into()))
    }

    /// Makes a virtual machine's card, with the virtio-net header of 12 bytes; gives its name and its end. Until
    /// [`connect_tap`](Self::connect_tap) it leads nowhere and takes no frame.
    ///
    /// The link is there as long as the descriptor or a copy of it is open.
    pub async fn make_tap(&self, request: &NicRequest) -> Result<(String, OwnedFd), NetworkError> {
        // What can never be connected is told at once.
        self.bridge_for(request).await?;
        let failed = || NetworkError::link(describe(request));
        for _ in 0..ATTEMPTS {
            let host_name = Port::Tap.random_name();
            if let Some(tap) = open_tap(&host_name).await.map_err(failed())? {
                return Ok((host_name, tap));
            }
        }
        Err(failed()(io::ErrorKind::AlreadyExists.into()))
    }

    /// Puts a virtual machine's card on its network. One that is in a bridge stays as it is.
    pub async fn connect_tap(&self, request: &NicRequest, host_name: &str) -> Result<(), NetworkError> {
        let bridge = self.bridge_for(request).await?;
        let failed = || NetworkError::link(describe(request));
        let gone = || failed()(io::ErrorKind::NotFound.into());
        let link = self.inner.links.find(host_name).await.map_err(failed())?.ok_or_else(gone)?;
        if link.controller.is_some() {
            return Ok(());
        }
        self.register(request, host_name).await?;
        let mtu = request.mtu.unwrap_or(bridge.mtu);
        self.inner.links.join(link.index, bridge.index, mtu).await.map_err(failed())?;
        step::done("network card connected");
        Ok(())
    }

    /// Takes a card away; it does not matter what there is of it. If `host_name` is empty, what was announced of it goes.
    pub async fn detach(&self, request: &NicRequest, host_name: &str) -> Result<(), NetworkError> {
        let mut host_names = self.announced(request).await?;
        host_names.extend(Some(host_name.to_owned()).filter(|name| is_port_name(name)));
        for host_name in &host_names {
            let failed = || NetworkError::link(format!("remove {host_name} of instance {:?}", request.instance_name));
            if let Some(link) = self.inner.links.find(host_name).await.map_err(failed())? {
                self.inner.links.delete(link.index).await.map_err(failed())?;
            }
            self.police_no_more(host_name).await?;
        }
        self.unregister(request, &host_names).await?;
        // The link itself may have gone with the network namespace of its other end, which is no step of ours.
        step::done("network card forgotten");
        Ok(())
    }

    /// The host ends that the card was announced with.
    async fn announced(&self, request: &NicRequest) -> Result<Vec<String>, NetworkError> {
        let ports = self.inner.dir_of(&request.network).join(PORTS);
        let mut entries = match tokio::fs::read_dir(&ports).await {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(NetworkError::path(ports)(error)),
        };
        let mut found = Vec::new();
        while let Some(entry) = entries.next_entry().await.map_err(NetworkError::path(&ports))? {
            let name = entry.file_name().to_string_lossy().into_owned();
            let owner = files::read(&entry.path()).await?;
            if is_port_name(&name) && owner.is_some_and(|owner| owner == owner_of(request)) {
                found.push(name);
            }
        }
        Ok(found)
    }

    /// The bridge that the request is about. A managed network that does not work is given another chance.
    async fn bridge_for(&self, request: &NicRequest) -> Result<Link, NetworkError> {
        let name = &request.network;
        let stored = document::by_name(&*self.inner.store, name).await?;
        let link = self.inner.links.find(name).await.map_err(NetworkError::link(describe(request)))?;
        let broken = self.inner.runtime.failure(name).is_some() || link.is_none();
        let link = match (&stored, broken) {
            (Some(stored), true) => {
                let spec = config::parse(name, &stored.doc.config)?;
                if let Err(error) = self.inner.bring_up_again(&spec).await {
                    return Err(NetworkError::Unavailable { network: name.clone(), reason: error.to_string() });
                }
                self.inner.links.find(name).await.map_err(NetworkError::link(describe(request)))?
            }
            _ => link,
        };
        match link {
            Some(link) if link.kind == Some(InfoKind::Bridge) => Ok(link),
            Some(_) => {
                let reason = "it is not a bridge, so instances cannot be put on it".to_owned();
                Err(NetworkError::Unavailable { network: name.clone(), reason })
            }
            None => Err(NetworkError::NotFound(name.clone())),
        }
    }

    /// Tells dnsmasq and the next daemon about a card.
    async fn register(&self, request: &NicRequest, host_name: &str) -> Result<(), NetworkError> {
        let dir = self.inner.dir_of(&request.network);
        if document::by_name(&*self.inner.store, &request.network).await?.is_none() {
            return Ok(());
        }
        files::make_dir(&dir.join(PORTS), 0o700).await?;
        files::write(&dir.join(PORTS).join(host_name), &owner_of(request)).await?;
        let host = Host {
            mac: request.hwaddr,
            ipv4: request.ipv4,
            ipv6: request.ipv6,
            name: leases::host_name(&request.project, &request.instance_name),
        };
        files::make_dir(&Files::new(&dir).hosts(), 0o755).await?;
        if leases::remember(&Files::new(&dir), &host).await? {
            dnsmasq::reload(&dir)?;
        }
        Ok(())
    }

    async fn unregister(&self, request: &NicRequest, host_names: &[String]) -> Result<(), NetworkError> {
        let dir = self.inner.dir_of(&request.network);
        for host_name in host_names {
            files::remove(&dir.join(PORTS).join(host_name)).await?;
        }
        if leases::forget(&Files::new(&dir), request.hwaddr).await? {
            dnsmasq::reload(&dir)?;
        }
        Ok(())
    }
}

/// Whose a host end is, as its file in [`PORTS`] says.
fn owner_of(request: &NicRequest) -> String {
    format!("{} {}", request.instance.simple(), request.device)
}

fn describe(request: &NicRequest) -> String {
    let NicRequest { device, instance_name, network, .. } = request;
    format!("put {device} of instance {instance_name:?} on network {network:?}")
}

/// Puts the host ends of running instances back into a bridge that was made anew; each keeps the MTU that it has.
pub(crate) async fn rejoin(links: &Links, dir: &Path, bridge: u32) -> Result<(), NetworkError> {
    let ports = dir.join(PORTS);
    let mut entries = match tokio::fs::read_dir(&ports).await {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(NetworkError::path(ports)(error)),
    };
    while let Some(entry) = entries.next_entry().await.map_err(NetworkError::path(&ports))? {
        let name = entry.file_name().to_string_lossy().into_owned();
        let what = || NetworkError::link(format!("put {name} back on its network"));
        match links.find(&name).await.map_err(what())? {
            Some(link) if is_port_name(&name) && link.controller.is_none() => {
                links.join(link.index, bridge, link.mtu).await.map_err(what())?;
            }
            Some(_) => {}
            // Its instance has ended meanwhile.
            None => {
                files::remove(&entry.path()).await?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_its_own_names() {
        for port in [Port::Veth, Port::Tap] {
            let name = port.random_name();
            assert!(is_port_name(&name) && name.len() <= 15, "{name}");
        }
        for other in ["", "veth0", "vethABCDEF01", "tap0", "eth0", "tapdeadbeef1"] {
            assert!(!is_port_name(other), "{other}");
        }
    }
}
