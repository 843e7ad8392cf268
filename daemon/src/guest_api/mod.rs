//! What instances are told when they ask about themselves: LXD's guest API on `/dev/lxd/sock`, plain HTTP with bare JSON.
//!
//! Whoever asks is hostile, and known by the socket on which they ask: all that a handler has of them is their own instance.

mod changes;
mod routes;

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use axum::serve::Listener;
use berth_instances::{Door, Instance};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};

use crate::{app::Shared, http::ApiResult};

/// Connections of one instance at a time; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 16;

/// Who asks.
#[derive(Clone)]
struct Asker {
    app: Shared,
    project: String,
    name: String,
}

impl Asker {
    fn instance(&self) -> ApiResult<Arc<Instance>> {
        Ok(self.app.instances.get(&self.project, &self.name)?)
    }
}

/// Answers on each socket that is opened.
pub async fn serve(app: Shared, mut opened: mpsc::UnboundedReceiver<Door>) {
    while let Some(door) = opened.recv().await {
        let Door { project, name, listener, closed } = door;
        let asker = Asker { app: app.clone(), project, name };
        tokio::spawn(async move {
            let listener = Limited { listener, slots: Arc::new(Semaphore::new(MAX_CONNECTIONS)) };
            // Without an end of its own: the connections end with the instance's processes.
            tokio::select! {
                result = axum::serve(listener, routes::router(asker.clone())).into_future() => {
                    tracing::warn!(instance = asker.name, "its guest API ended: {result:?}");
                }
                () = closed.cancelled() => {}
            }
        });
    }
}

/// The socket, so that one instance cannot use the daemon's descriptors up.
struct Limited {
    listener: UnixListener,
    slots: Arc<Semaphore>,
}

/// A connection that counts.
struct Counted {
    stream: UnixStream,
    _slot: OwnedSemaphorePermit,
}

impl Listener for Limited {
    type Io = Counted;
    type Addr = ();

    async fn accept(&mut self) -> (Counted, ()) {
        let Ok(slot) = self.slots.clone().acquire_owned().await else { return std::future::pending().await };
        let (stream, _) = Listener::accept(&mut self.listener).await;
        (Counted { stream, _slot: slot }, ())
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
