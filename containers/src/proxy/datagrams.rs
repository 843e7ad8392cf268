//! UDP. A client is known by its address; what comes back is for whoever asked.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::task::JoinSet;

use crate::spec::Address;

/// Clients at a time; what comes from others meanwhile is lost, as datagrams may be.
const CLIENTS_MAX: usize = 4096;
/// A client of which nothing is heard and to whom nothing is said for so long is forgotten.
const QUIET: Duration = Duration::from_secs(180);
/// Longest datagram.
const DATAGRAM_MAX: usize = 65_535;

pub(super) struct Listener {
    socket: Arc<UdpSocket>,
    target: SocketAddr,
}

impl Listener {
    pub(super) fn new(fd: OwnedFd, target: &Address) -> io::Result<Self> {
        let (Address::Udp(target) | Address::Tcp(target)) = target else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self { socket: Arc::new(UdpSocket::from_std(fd.into())?), target: *target })
    }

    pub(super) async fn serve(self) {
        let mut clients: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
        let mut answering = JoinSet::new();
        let mut buffer = vec![0; DATAGRAM_MAX];
        loop {
            tokio::select! {
                Some(gone) = answering.join_next() => {
                    if let Ok(client) = gone {
                        clients.remove(&client);
                    }
                }
                received = self.socket.recv_from(&mut buffer) => {
                    // An error is of an earlier datagram to a client that is gone.
                    let Ok((length, client)) = received else { continue };
                    let server = match clients.get(&client) {
                        Some(server) => server.clone(),
                        None if clients.len() < CLIENTS_MAX => {
                            let Ok(server) = self.connect().await else { continue };
                            let server = Arc::new(server);
                            clients.insert(client, server.clone());
                            answering.spawn(answer(server.clone(), self.socket.clone(), client));
                            server
                        }
                        None => continue,
                    };
                    // Nobody may be listening there.
                    let _ = server.send(&buffer[..length]).await;
                }
            }
        }
    }

    async fn connect(&self) -> io::Result<UdpSocket> {
        let any: SocketAddr = match self.target {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any).await?;
        socket.connect(self.target).await?;
        Ok(socket)
    }
}

/// Passes answers back until there are none for a while; returns whose they were.
async fn answer(server: Arc<UdpSocket>, socket: Arc<UdpSocket>, client: SocketAddr) -> SocketAddr {
    let mut buffer = vec![0; DATAGRAM_MAX];
    while let Ok(received) = tokio::time::timeout(QUIET, server.recv(&mut buffer)).await {
        if let Ok(length) = received {
            let _ = socket.send_to(&buffer[..length], client).await;
        }
    }
    client
}
