//! Proxies of a running container: a process for each.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use berth_supervisor::transport::Endpoint;
use rustix::process::Pid;

use crate::devices::{Listening, namespace};
use crate::error::{Context, Result};
use crate::process::{self, OwnBinary};
use crate::proxy::Instructions;
use crate::spec::{Address, Proxy, Side};

/// See the module's text. Dropped, they end and their sockets vanish from the host's file system.
#[derive(Debug, Default)]
pub(super) struct Proxies {
    running: BTreeMap<String, Running>,
}

/// The sockets of one proxy.
pub(super) type Sockets = BTreeMap<Listening, OwnedFd>;

#[derive(Debug)]
struct Running {
    proxy: Proxy,
    /// Kept for a successor that listens on the same addresses.
    sockets: Sockets,
    helper: OwnedFd,
}

fn wanted(proxy: &Proxy) -> impl Iterator<Item = Listening> {
    proxy.listen.iter().map(|address| Listening { side: proxy.bind, address: address.clone(), owner: proxy.socket })
}

impl Proxies {
    /// The sockets that are missing for what is wanted.
    pub(super) fn missing(&self, new: &BTreeMap<String, Proxy>) -> BTreeMap<String, Vec<Listening>> {
        let lacks = |(name, proxy): (&String, &Proxy)| {
            let have = self.running.get(name).map(|running| &running.sockets);
            let lacking: Vec<_> = wanted(proxy).filter(|w| have.is_none_or(|have| !have.contains_key(w))).collect();
            (!lacking.is_empty()).then(|| (name.clone(), lacking))
        };
        new.iter().filter_map(lacks).collect()
    }

    /// Runs exactly those of `new`, with the sockets `made` for them. Returns the new processes, to be reaped.
    pub(super) fn set(
        &mut self,
        new: &BTreeMap<String, Proxy>,
        mut made: BTreeMap<String, Sockets>,
        binary: &OwnBinary,
        init: Pid,
    ) -> Result<Vec<OwnedFd>> {
        let mut old = std::mem::take(&mut self.running);
        let mut started = Vec::new();
        for (name, proxy) in new {
            let mut sockets = made.remove(name).unwrap_or_default();
            match old.remove(name) {
                Some(running) if running.proxy == *proxy => {
                    self.running.insert(name.clone(), running);
                    continue;
                }
                Some(running) => sockets.extend(running.end(|socket| wanted(proxy).any(|wanted| wanted == *socket))),
                None => {}
            }
            let helper = start(binary, proxy, &sockets, init)?;
            started.push(helper.try_clone().context("copy a descriptor")?);
            self.running.insert(name.clone(), Running { proxy: proxy.clone(), sockets, helper });
        }
        for running in old.into_values() {
            running.end(|_| false);
        }
        Ok(started)
    }
}

impl Drop for Proxies {
    fn drop(&mut self) {
        for running in std::mem::take(&mut self.running).into_values() {
            running.end(|_| false);
        }
    }
}

impl Running {
    /// Ends the process; returns the sockets to be kept, the others vanish.
    fn end(self, keep: impl Fn(&Listening) -> bool) -> Sockets {
        process::kill(self.helper.as_fd());
        // It may have been reaped already. Until it is gone its copies of the sockets listen on.
        let _ = process::wait(self.helper.as_fd());
        let (kept, gone): (Sockets, Sockets) = self.sockets.into_iter().partition(|(socket, _)| keep(socket));
        for socket in gone.into_keys() {
            if let Listening { side: Side::Host, address: Address::Unix(path), .. } = socket
                && path.starts_with('/')
            {
                // Somebody may have taken it away already.
                let _ = std::fs::remove_file(path);
            }
        }
        kept
    }
}

fn start(binary: &OwnBinary, proxy: &Proxy, sockets: &Sockets, init: Pid) -> Result<OwnedFd> {
    let namespaces = [namespace(init, "user")?, namespace(init, "mnt")?, namespace(init, "net")?];
    let listening = wanted(proxy).filter_map(|wanted| sockets.get(&wanted));
    let fds: Vec<_> = namespaces.iter().chain(listening).map(AsFd::as_fd).collect();
    let (socket, remote) = Endpoint::pair().context("make a socket pair")?;
    let helper = binary.spawn("proxy", remote.into_fd())?;
    if let Err(e) = socket.send(&Instructions { proxy: proxy.clone() }, &fds) {
        process::kill(helper.as_fd());
        return Err(e).context("instruct a proxy");
    }
    Ok(helper)
}
