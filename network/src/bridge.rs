//! A bridge on the host: made, corrected and removed.

use std::io;

use rtnetlink::packet_route::address::AddressScope;
use rtnetlink::packet_route::link::InfoKind;

use crate::config::BridgeSpec;
use crate::error::NetworkError;
use crate::link::{Link, Links};
use crate::mac::MacAddr;
use crate::subnet::Net;
use crate::sysctl;

/// A bridge that is there.
#[derive(Debug)]
pub(crate) struct Laid {
    pub index: u32,
    /// It was made just now, so nothing is in it.
    pub made: bool,
    /// What falls short.
    pub warnings: Vec<String>,
}

/// Whether the link is the bridge with this hardware address, and so ours: nobody else has it.
fn is_ours(link: &Link, mac: Option<MacAddr>) -> bool {
    link.kind == Some(InfoKind::Bridge) && link.mac.is_some() && link.mac == mac
}

/// Sees to it that the bridge is there, up, and has its addresses and no others. What is right is not touched.
pub(crate) async fn lay(links: &Links, spec: &BridgeSpec) -> Result<Laid, NetworkError> {
    let name = &spec.name;
    let failed = || NetworkError::link(format!("set up bridge {name:?}"));
    let mac = spec.hwaddr.unwrap_or_else(MacAddr::random_local);
    let mut made = false;
    let link = match links.find(name).await.map_err(failed())? {
        Some(link) => link,
        None => {
            match links.add_bridge(name, mac, spec.mtu).await {
                Ok(()) => made = true,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed()(error)),
            }
            let gone = || failed()(io::ErrorKind::NotFound.into());
            links.find(name).await.map_err(failed())?.ok_or_else(gone)?
        }
    };
    if !is_ours(&link, Some(mac)) {
        return Err(NetworkError::LinkTaken(name.clone()));
    }
    let laid = complete(links, spec, link.index, made, !link.up || link.mtu != spec.mtu).await;
    if laid.is_err() && made {
        let _ = links.delete(link.index).await;
    }
    laid
}

async fn complete(links: &Links, spec: &BridgeSpec, index: u32, made: bool, raise: bool) -> Result<Laid, NetworkError> {
    let name = &spec.name;
    let failed = || NetworkError::link(format!("set up bridge {name:?}"));
    if raise {
        links.raise(index, spec.mtu).await.map_err(failed())?;
    }
    let settings = spec.clone();
    let prepared = tokio::task::spawn_blocking(move || sysctl::prepare(&settings)).await;
    let mut warnings = prepared.unwrap_or_default();
    let mut missing: Vec<Net> = spec.ipv4.into_iter().chain(spec.ipv6).collect();
    for address in links.addresses(index).await.map_err(failed())? {
        if let Some(at) = missing.iter().position(|net| *net == address.net) {
            missing.swap_remove(at);
        } else if address.scope == AddressScope::Universe {
            links.remove_address(address).await.map_err(failed())?;
        }
    }
    for net in missing {
        match links.add_address(index, net).await {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            // A host without IPv6, or with IPv6 switched off for this link: the network works without it.
            Err(error) if net.addr().is_ipv6() => {
                warnings.push(format!("IPv6 is not available: cannot add {net}: {error}"));
            }
            Err(source) => {
                return Err(NetworkError::Link { what: format!("add address {net} to bridge {name:?}"), source });
            }
        }
    }
    Ok(Laid { index, made, warnings })
}

/// Whether another link got one of the bridge's subnets at the same time.
///
/// Two daemons on one host may choose the same subnet before either can see it. Afterwards both can: the link that was
/// made later yields, and that is the same one from either side.
pub(crate) async fn clashes(links: &Links, spec: &BridgeSpec, index: u32) -> Result<bool, NetworkError> {
    let routes = links.routes().await.map_err(NetworkError::link("read the routes"))?;
    let nets: Vec<Net> = spec.ipv4.into_iter().chain(spec.ipv6).collect();
    // Routes to the host's own addresses may go through the loopback link, which is number 1.
    let older = routes.iter().filter(|(_, link)| link.is_some_and(|link| link > 1 && link < index));
    Ok(older.into_iter().any(|(route, _)| nets.iter().any(|net| net.overlaps(route))))
}

/// Removes the bridge if it is there and ours.
pub(crate) async fn remove(links: &Links, name: &str, mac: Option<MacAddr>) -> Result<(), NetworkError> {
    let failed = || NetworkError::link(format!("remove bridge {name:?}"));
    match links.find(name).await.map_err(failed())? {
        Some(link) if is_ours(&link, mac) => links.delete(link.index).await.map_err(failed()),
        _ => Ok(()),
    }
}
