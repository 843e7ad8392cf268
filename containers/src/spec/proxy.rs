//! Connections that are passed on between host and container.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Most addresses of one proxy: its sockets are handed on in one message.
const ADDRESSES_MAX: usize = 60;

/// A proxy: who connects on one side is connected on the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proxy {
    /// Where it listens; it connects on the other side.
    pub bind: Side,
    /// What it listens on.
    pub listen: Vec<Address>,
    /// Where it connects: one address for all, or as many as are listened on.
    pub connect: Vec<Address>,
    /// Begin each connection with a line that tells the client's address (HAProxy's PROXY protocol, version 1).
    pub proxy_protocol: bool,
    /// Owner of the unix sockets it listens on, by the ids of that side.
    pub socket: SocketOwner,
    /// User that it connects as, by the ids of that side.
    pub uid: u32,
    /// Group that it connects as.
    pub gid: u32,
}

/// One of the two sides of a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The host.
    Host,
    /// The container.
    Instance,
}

/// An address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Address {
    /// TCP.
    Tcp(SocketAddr),
    /// UDP.
    Udp(SocketAddr),
    /// Unix stream socket: an absolute path, or an abstract name after `@`.
    Unix(String),
}

/// Owner and permissions of a unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SocketOwner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permissions.
    pub mode: u32,
}

impl Proxy {
    /// Where connections to address number `index` go.
    pub fn target(&self, index: usize) -> &Address {
        self.connect.get(index).unwrap_or(&self.connect[0])
    }

    /// Refuses what cannot work.
    pub fn check(&self) -> Result<(), String> {
        if self.listen.is_empty() || self.listen.len() > ADDRESSES_MAX {
            return Err(format!("it listens on {} addresses; it can be 1 to {ADDRESSES_MAX}", self.listen.len()));
        }
        if self.connect.len() != 1 && self.connect.len() != self.listen.len() {
            return Err(format!(
                "it listens on {} addresses and connects to {}; it must be as many or one",
                self.listen.len(),
                self.connect.len()
            ));
        }
        for (index, from) in self.listen.iter().enumerate() {
            let to = self.target(index);
            if matches!(from, Address::Udp(_)) != matches!(to, Address::Udp(_)) {
                return Err("udp can be passed on to udp only, tcp and unix to tcp and unix".to_owned());
            }
            if self.proxy_protocol && !matches!((from, to), (Address::Tcp(_), Address::Tcp(_) | Address::Unix(_))) {
                return Err("proxy_protocol is for listening on tcp only".to_owned());
            }
            for address in [from, to] {
                address.check()?;
            }
        }
        Ok(())
    }
}

impl Address {
    fn check(&self) -> Result<(), String> {
        /// `sun_path` without its final zero (unix(7)).
        const PATH_MAX: usize = 107;
        match self {
            Self::Unix(name) if name.len() > PATH_MAX => {
                Err(format!("the name of a unix socket may have {PATH_MAX} bytes, \"{name}\" has more"))
            }
            Self::Unix(name) if name.contains('\0') || !(name.starts_with('/') || name.starts_with('@')) => {
                Err(format!("\"{name}\" is neither an absolute path nor an abstract name after @"))
            }
            _ => Ok(()),
        }
    }
}
