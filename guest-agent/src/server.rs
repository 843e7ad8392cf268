//! What the agent serves on each connection.

mod accounts;
mod connection;
mod power;
mod program;
mod session;

use std::{io, os::fd::OwnedFd, path::Path};

use berth_guest::{
    files, frame,
    protocol::{ErrorKind, GuestError, Reply, Request},
    state,
};

pub use connection::Connection;

/// Is there while the agent serves as init, which then takes the signals of busybox's init.
pub const INIT_MARK: &str = "/run/berth-init";

/// Serves the one request of a connection, a stream socket. A failed request is answered and is no error here; an
/// error means that the connection broke.
pub fn serve(socket: OwnedFd) -> io::Result<()> {
    let mut connection = Connection::new(socket);
    let Some(first) = frame::read(&mut connection)? else { return Ok(()) };
    let reply = match first.parse::<Request>() {
        Ok(Request::Exec(spec)) => return session::exec(connection, &spec),
        Ok(Request::Files(request)) => return files::serve_request(&mut connection, Path::new("/"), request),
        Ok(Request::State) => Reply::State(state::guest()),
        Ok(Request::Shutdown) => power::turn(power::Turn::Off),
        Ok(Request::Reboot) => power::turn(power::Turn::Reboot),
        Err(e) => Reply::Error(failure(ErrorKind::Invalid, e.to_string())),
    };
    frame::write_json(&mut connection, &reply)
}

fn failure(kind: ErrorKind, message: impl Into<String>) -> GuestError {
    GuestError { kind, message: message.into() }
}

#[cfg(test)]
mod tests;
