//! The listeners on the network. They follow the configuration while connections that are open go on.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    http::{Caller, Peer, Scope},
    server::{Gate, serve_connection},
    settings::{Address, Addresses},
    trust::fingerprint,
};

/// Connections at a time, apart from those of the unix socket; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 1024;
/// Connections at a time from one address: nobody alone takes all of them.
const MAX_OF_ONE: usize = 256;
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a client may take to send the head of a request. Idle connections are closed after it as well.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// All listeners on the network.
pub struct Listeners {
    shared: Arc<Shared>,
    connections: TaskTracker,
    stop: CancellationToken,
    https: Option<Open>,
    metrics: Option<Open>,
}

/// What connections share.
struct Shared {
    acceptor: TlsAcceptor,
    gate: Gate,
    slots: Arc<Semaphore>,
    from: Mutex<HashMap<IpAddr, usize>>,
}

/// An open listener.
struct Open {
    address: Address,
    close: CancellationToken,
    task: JoinHandle<()>,
}

impl Listeners {
    /// None yet. What they accept is served by `gate` until `stop`; `connections` tells when the last has ended.
    pub fn new(acceptor: TlsAcceptor, gate: Gate, connections: TaskTracker, stop: CancellationToken) -> Self {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let shared = Arc::new(Shared { acceptor, gate, slots, from: Mutex::new(HashMap::new()) });
        Self { shared, connections, stop, https: None, metrics: None }
    }

    /// Listens on these addresses and on no others. If that fails all is as it was before, and the error tells why.
    pub async fn set(&mut self, wanted: &Addresses) -> Result<(), String> {
        let before = self.addresses();
        if *wanted == before {
            return Ok(());
        }
        // Those that go may be in the way of those that come.
        self.keep(wanted).await;
        let Err(error) = self.open(wanted).await else { return Ok(()) };
        self.keep(&before).await;
        if let Err(error) = self.open(&before).await {
            tracing::error!("{error}");
        }
        Err(error)
    }

    fn addresses(&self) -> Addresses {
        let address = |open: &Option<Open>| open.as_ref().map(|open| open.address.clone());
        Addresses { https: address(&self.https), metrics: address(&self.metrics) }
    }

    /// Closes those that are not wanted.
    async fn keep(&mut self, wanted: &Addresses) {
        for (open, wanted) in [(&mut self.https, &wanted.https), (&mut self.metrics, &wanted.metrics)] {
            if open.as_ref().map(|open| &open.address) != wanted.as_ref()
                && let Some(open) = open.take()
            {
                open.close.cancel();
                // Once its task has ended the address is free.
                let _ = open.task.await;
                tracing::info!(address = %open.address, "listens no more");
            }
        }
    }

    /// Opens those that are wanted and not open.
    async fn open(&mut self, wanted: &Addresses) -> Result<(), String> {
        let both = [
            (&mut self.https, &wanted.https, Scope::Api, "core.https_address"),
            (&mut self.metrics, &wanted.metrics, Scope::Metrics, "core.metrics_address"),
        ];
        for (open, wanted, scope, key) in both {
            if let (None, Some(address)) = (&open, wanted) {
                let listener = bind(address).await.map_err(|error| {
                    format!("Cannot listen on \"{address}\" ({key}): {error}; choose another address or port")
                })?;
                let close = self.stop.child_token();
                let door = Door { shared: self.shared.clone(), scope, stop: self.stop.clone() };
                let task = tokio::spawn(door.accept(listener, self.connections.clone(), close.clone()));
                tracing::info!(%address, "listens");
                *open = Some(Open { address: address.clone(), close, task });
            }
        }
        Ok(())
    }
}

async fn bind(address: &Address) -> io::Result<TcpListener> {
    match TcpListener::bind(address.socket()).await {
        // A host without IPv6.
        Err(error) if address.host.is_none() && error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port)).await
        }
        other => other,
    }
}

/// One listener's way in.
#[derive(Clone)]
struct Door {
    shared: Arc<Shared>,
    scope: Scope,
    /// Ends connections, which outlive their listener.
    stop: CancellationToken,
}

impl Door {
    async fn accept(self, listener: TcpListener, connections: TaskTracker, close: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                () = close.cancelled() => return,
                accepted = self.next(&listener) => accepted,
            };
            match accepted {
                Ok((stream, address, slot)) => {
                    if let Some(place) = Place::take(&self.shared, address.ip()) {
                        let door = self.clone();
                        connections.spawn(async move {
                            door.connection(stream, address).await;
                            drop((place, slot));
                        });
                    }
                }
                Err(error) => {
                    // Out of descriptors: they come back when a connection ends.
                    tracing::error!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn next(&self, listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
        let slot = self.shared.slots.clone().acquire_owned().await.map_err(io::Error::other)?;
        let (stream, address) = listener.accept().await?;
        Ok((stream, address, slot))
    }

    async fn connection(self, stream: TcpStream, address: SocketAddr) {
        // Finds out about clients that vanished without a word; without it they are found out when something is sent.
        let _ = rustix::net::sockopt::set_socket_keepalive(&stream, true);
        let _ = stream.set_nodelay(true);
        let handshake = tokio::select! {
            handshake = timeout(HANDSHAKE, self.shared.acceptor.accept(stream)) => handshake,
            () = self.stop.cancelled() => return,
        };
        let stream = match handshake {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::debug!(%address, %error, "no TLS connection came about"),
            Err(_) => return tracing::debug!(%address, "the handshake took too long"),
        };
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let certificate: Option<Arc<[u8]>> = certificate.map(|certificate| Arc::from(certificate.as_ref()));
        let fingerprint = certificate.as_deref().map(fingerprint);
        let caller = Caller {
            username: fingerprint.clone().unwrap_or_default(),
            protocol: "tls",
            address: SocketAddr::new(address.ip().to_canonical(), address.port()).to_string(),
        };
        let peer = Peer::Network { address: address.ip().to_canonical(), certificate, fingerprint, scope: self.scope };
        serve_connection(stream, HEADER_TIMEOUT, self.shared.gate.clone(), caller, peer, self.stop).await;
    }
}

/// A place among the connections of one address; dropping it gives it back.
struct Place {
    shared: Arc<Shared>,
    from: IpAddr,
}

impl Place {
    fn take(shared: &Arc<Shared>, from: IpAddr) -> Option<Self> {
        let mut places = shared.from.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = places.entry(from).or_default();
        if *taken >= MAX_OF_ONE {
            tracing::debug!(%from, "too many connections from one address");
            return None;
        }
        *taken += 1;
        Some(Self { shared: shared.clone(), from })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.shared.from.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = places.get_mut(&self.from) {
            *taken -= 1;
            if *taken == 0 {
                places.remove(&self.from);
            }
        }
    }
}

#[cfg(test)]
impl Listeners {
    /// Of a daemon that never gets ready.
    pub fn for_tests() -> Self {
        let dir = tempfile::tempdir().expect("a directory can be made");
        let identity = super::Identity::open(dir.path()).expect("a certificate can be made");
        let acceptor = super::acceptor(&identity).expect("it fits its key");
        Self::new(acceptor, Gate::new().1, TaskTracker::new(), CancellationToken::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<Address> {
        let socket: SocketAddr = text.parse().unwrap();
        Some(Address { host: Some(socket.ip()), port: socket.port() })
    }

    /// A port that no other test uses, and that the kernel gives to no connection (ip(7), `ip_local_port_range`).
    fn own_port() -> u16 {
        u16::try_from(10_000 + std::process::id() % 20_000).unwrap()
    }

    #[tokio::test]
    async fn listeners_follow_and_a_failure_changes_nothing() {
        let mut listeners = Listeners::for_tests();
        let port = own_port();
        let first = format!("127.0.0.37:{port}");
        let wanted = Addresses { https: address(&first), metrics: None };
        listeners.set(&wanted).await.unwrap();
        TcpStream::connect(&first).await.unwrap();
        // The same port of all addresses, which the first listener is in the way of.
        let all = Addresses { https: address(&format!("0.0.0.0:{port}")), metrics: None };
        listeners.set(&all).await.unwrap();
        TcpStream::connect(format!("127.0.0.38:{port}")).await.unwrap();
        let foreign = Addresses { https: address("192.0.2.1:8443"), metrics: None };
        let error = listeners.set(&foreign).await.unwrap_err();
        assert!(error.contains("192.0.2.1:8443") && error.contains("core.https_address"), "{error}");
        TcpStream::connect(format!("127.0.0.38:{port}")).await.unwrap();
        listeners.set(&Addresses::default()).await.unwrap();
        TcpStream::connect(&first).await.unwrap_err();
    }

    #[test]
    fn nobody_takes_all_places() {
        let shared = Listeners::for_tests().shared;
        let from = IpAddr::from([192, 0, 2, 1]);
        let places: Vec<_> = (0..MAX_OF_ONE).map(|_| Place::take(&shared, from).unwrap()).collect();
        assert!(Place::take(&shared, from).is_none());
        assert!(Place::take(&shared, IpAddr::from([192, 0, 2, 2])).is_some());
        drop(places);
        assert!(Place::take(&shared, from).is_some());
        assert!(shared.from.lock().unwrap().is_empty());
    }
}
