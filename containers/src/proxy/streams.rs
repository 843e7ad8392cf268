//! TCP and unix stream sockets.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::sockets::greeting;
use crate::spec::Address;

/// Connections at a time for each address; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 4096;

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

enum Accepting {
    Tcp(TcpListener),
    Unix(UnixListener),
}

pub(super) struct Listener {
    accepting: Accepting,
    target: Arc<Address>,
    greets: bool,
}

impl Listener {
    pub(super) fn new(fd: OwnedFd, address: &Address, target: Address, greets: bool) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        let accepting = match address {
            Address::Unix(_) => Accepting::Unix(UnixListener::from_std(fd.into())?),
            Address::Tcp(_) | Address::Udp(_) => Accepting::Tcp(TcpListener::from_std(fd.into())?),
        };
        Ok(Self { accepting, target: Arc::new(target), greets })
    }

    pub(super) async fn serve(self) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            let (client, greeting) = match self.accept().await {
                Ok(accepted) => accepted,
                // The client has gone again.
                Err(_) => continue,
            };
            let target = self.target.clone();
            tokio::spawn(async move {
                // Either end may go away at any time; that is between the two.
                let _ = pass_on(client, greeting, &target).await;
                drop(slot);
            });
        }
    }

    async fn accept(&self) -> io::Result<(Box<dyn Duplex>, Option<String>)> {
        match &self.accepting {
            Accepting::Tcp(listener) => {
                let (stream, client) = listener.accept().await?;
                // What is small and single, as a key press, is not to wait for more.
                stream.set_nodelay(true)?;
                let line = if self.greets { Some(line(client, &stream)?) } else { None };
                Ok((Box::new(stream), line))
            }
            Accepting::Unix(listener) => Ok((Box::new(listener.accept().await?.0), None)),
        }
    }
}

fn line(client: SocketAddr, stream: &TcpStream) -> io::Result<String> {
    Ok(greeting(client, stream.local_addr()?))
}

async fn pass_on(mut client: Box<dyn Duplex>, greeting: Option<String>, target: &Address) -> io::Result<()> {
    let mut server: Box<dyn Duplex> = match target {
        Address::Unix(name) => {
            // An abstract name begins with a zero here.
            let path = name.strip_prefix('@').map_or_else(|| name.clone(), |name| format!("\0{name}"));
            Box::new(UnixStream::connect(path).await?)
        }
        Address::Tcp(address) | Address::Udp(address) => {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Box::new(stream)
        }
    };
    if let Some(greeting) = greeting {
        server.write_all(greeting.as_bytes()).await?;
    }
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}
