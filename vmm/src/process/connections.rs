//! The connections to the control socket.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use berth_supervisor::protocol::{Event, Input, RefusalKind, Reply, Request, SaveControl};
use berth_supervisor::transport::Endpoint;

/// Connections at once; the daemon needs a handful.
const MAX_CONNECTIONS: usize = 64;

/// Identifies a connection for its life; never used again.
pub type Id = u64;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Its request has not come yet.
    New,
    /// Hears of every event.
    Subscriber,
    /// Holds the console.
    Console,
    /// Asked for a save.
    Saver,
}

struct Connection {
    id: Id,
    endpoint: Endpoint,
    role: Role,
}

/// What a connection said.
#[derive(Debug)]
pub enum Said {
    /// Nothing that concerns the machine.
    Nothing,
    /// A request with its descriptors; to be answered.
    Request(Request, Vec<OwnedFd>),
    /// The machine is to end, since it was saved.
    EndSaved,
    /// The one that asked for a save is gone.
    SaverClosed,
    /// The one that held the console is gone.
    ConsoleClosed,
}

/// All connections. None of them is ever waited for: who does not read its messages is cut off.
#[derive(Default)]
pub struct Connections {
    open: Vec<Connection>,
    next: Id,
}

impl Connections {
    /// Takes a new connection, or closes it if there are too many.
    pub fn add(&mut self, endpoint: Endpoint) -> io::Result<()> {
        if self.open.len() >= MAX_CONNECTIONS {
            return Err(io::Error::other(format!("{MAX_CONNECTIONS} connections are open already")));
        }
        endpoint.set_nonblocking(true)?;
        self.open.push(Connection { id: self.next, endpoint, role: Role::New });
        self.next += 1;
        Ok(())
    }

    /// What to watch for input. When one is readable, call [`hear`](Self::hear) with its id.
    pub fn watched(&self) -> impl Iterator<Item = (Id, BorrowedFd<'_>)> {
        self.open.iter().map(|connection| (connection.id, connection.endpoint.as_fd()))
    }

    fn position(&self, id: Id) -> Option<usize> {
        self.open.iter().position(|connection| connection.id == id)
    }

    /// Reads one message.
    pub fn hear(&mut self, id: Id) -> Said {
        let Some(index) = self.position(id) else { return Said::Nothing };
        let connection = &self.open[index];
        let result = match connection.role {
            Role::New => connection.endpoint.recv::<Request>().map(|m| m.map(|(ask, fds)| Said::Request(ask, fds))),
            Role::Saver => connection.endpoint.recv::<SaveControl>().map(|m| m.map(|_| Said::EndSaved)),
            // A serial line has no size, and an event needs no answer.
            Role::Console | Role::Subscriber => connection.endpoint.recv::<Input>().map(|m| m.map(|_| Said::Nothing)),
        };
        match result {
            Ok(Some(said)) => said,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Said::Nothing
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let message =
                    format!("the request was not understood: {error}; daemon and berth-vmm differ in version");
                self.answer(id, &Reply::Refused { kind: RefusalKind::Other, message }, None);
                self.close(id)
            }
            Ok(None) | Err(_) => self.close(id),
        }
    }

    /// Closes a connection; tells what it held.
    fn close(&mut self, id: Id) -> Said {
        let closed = self.position(id).map(|index| self.open.swap_remove(index).role);
        match closed {
            Some(Role::Console) => Said::ConsoleClosed,
            Some(Role::Saver) => Said::SaverClosed,
            _ => Said::Nothing,
        }
    }

    /// Sends a last answer and closes the connection.
    pub fn answer(&mut self, id: Id, reply: &Reply, fd: Option<BorrowedFd<'_>>) {
        if let Some(index) = self.position(id) {
            let connection = self.open.swap_remove(index);
            // Who is gone needs no answer.
            let _ = connection.endpoint.send(reply, fd.as_slice());
        }
    }

    /// Refuses and closes.
    pub fn refuse(&mut self, id: Id, kind: RefusalKind, message: impl Into<String>) {
        self.answer(id, &Reply::Refused { kind, message: message.into() }, None);
    }

    /// Answers and keeps the connection for events.
    pub fn subscribe(&mut self, id: Id, reply: &Reply) {
        self.keep(id, Role::Subscriber, reply, None);
    }

    /// Keeps the connection, which asked for a save, without an answer.
    pub fn keep_saver(&mut self, id: Id) {
        if let Some(index) = self.position(id) {
            self.open[index].role = Role::Saver;
        }
    }

    /// Tells the one that asked for a save that it is done; false if it is gone.
    pub fn tell_saved(&mut self, id: Id) -> bool {
        self.position(id).is_some_and(|index| self.open[index].endpoint.send(&Reply::Done, &[]).is_ok())
    }

    /// Answers with the console's stream; the connection is its session. One that had it before is closed.
    pub fn give_console(&mut self, id: Id, stream: BorrowedFd<'_>) {
        self.close_console();
        self.keep(id, Role::Console, &Reply::Console, Some(stream));
    }

    /// Closes the connection that holds the console.
    pub fn close_console(&mut self) {
        self.open.retain(|connection| connection.role != Role::Console);
    }

    fn keep(&mut self, id: Id, role: Role, reply: &Reply, fd: Option<BorrowedFd<'_>>) {
        let Some(index) = self.position(id) else { return };
        self.open[index].role = role;
        if self.open[index].endpoint.send(reply, fd.as_slice()).is_err() {
            self.open.swap_remove(index);
        }
    }

    /// Tells all who subscribed.
    pub fn broadcast(&mut self, event: &Event) {
        let reply = Reply::Event(event.clone());
        self.open.retain(|connection| {
            if connection.role != Role::Subscriber {
                return true;
            }
            let sent = connection.endpoint.send(&reply, &[]);
            if let Err(error) = &sent {
                tracing::debug!(%error, "a subscriber does not listen and is cut off");
            }
            sent.is_ok()
        });
    }
}
