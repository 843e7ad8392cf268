//! What clients ask.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use berth_guest::protocol::ExecSpec;
use berth_supervisor::console::AttachError;
use berth_supervisor::protocol::{Event, Input, RefusalKind, Reply, Request, RunState, Status};
use berth_supervisor::transport::Endpoint;

use super::devices::Step;
use super::serve::{Connection, Role, Server};
use super::session::{Next, Session};
use super::stats::{self, NetworkQuery};
use crate::error::{Context, Result};
use crate::exec::Instructions;
use crate::files::Join;
use crate::{process, sys};

/// SIGRTMIN+3 as glibc counts, which is what systemd means by it.
const SYSTEMD_HALT: i32 = 37;

impl Server {
    /// A client has sent something, or is gone.
    pub(super) fn on_socket(&mut self, mut connection: Connection) -> Option<Connection> {
        if matches!(connection.role, Role::Asking) {
            return match connection.endpoint.recv() {
                Ok(Some((request, fds))) => self.on_request(connection, request, fds),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => Some(connection),
                Ok(None) => None,
                Err(e) => {
                    let reply = refuse(RefusalKind::Other, format!("the request was not understood: {e}"));
                    let _ = connection.endpoint.send(&reply, &[]);
                    None
                }
            };
        }
        match connection.endpoint.recv::<Input>() {
            Ok(Some((input, _))) => {
                match (&mut connection.role, &input) {
                    (Role::Exec(session), _) => session.input(&input),
                    (Role::Console(number), Input::Resize(size)) => self.terminal.resize(*number, *size),
                    _ => {}
                }
                Some(connection)
            }
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => Some(connection),
            Ok(None) | Err(_) => {
                match connection.role {
                    Role::Exec(session) => self.children.extend(session.kill()),
                    Role::Console(number) => self.terminal.detach(number),
                    Role::Change(change) => self.abandon(&change),
                    Role::Asking | Role::Subscribed | Role::Stats(_) => {}
                }
                None
            }
        }
    }

    /// Something that is done for a client has gone on.
    pub(super) fn on_work(&mut self, mut connection: Connection) -> Option<Connection> {
        if let Role::Change(change) = connection.role {
            let step = self.changed(change);
            let reply = match step {
                Ok(Step::Wait(change)) => {
                    connection.role = Role::Change(change);
                    return Some(connection);
                }
                Ok(Step::Over(reply)) => reply,
                Err(e) => refuse(RefusalKind::Other, e.to_string()),
            };
            let _ = connection.endpoint.send(&reply, &[]);
            return None;
        }
        match &mut connection.role {
            Role::Exec(session) => match session.on_ready() {
                Ok(Next::Wait) => Some(connection),
                Ok(Next::Started(reply, master)) => {
                    let fds: Vec<_> = master.iter().map(AsFd::as_fd).collect();
                    // If the client is gone its socket tells so next.
                    let _ = connection.endpoint.send(&reply, &fds);
                    Some(connection)
                }
                Ok(Next::Over(reply)) => {
                    let _ = connection.endpoint.send(&reply, &[]);
                    None
                }
                Err(e) => {
                    let _ = connection.endpoint.send(&refuse(RefusalKind::Other, e.to_string()), &[]);
                    if let Role::Exec(session) = connection.role {
                        self.children.extend(session.kill());
                    }
                    None
                }
            },
            Role::Stats(query) => match query.on_ready() {
                None => Some(connection),
                Some(network) => {
                    let reply = Reply::Stats(stats::collect(&self.container, network));
                    let _ = connection.endpoint.send(&reply, &[]);
                    None
                }
            },
            Role::Asking | Role::Subscribed | Role::Console(_) | Role::Change(_) => Some(connection),
        }
    }

    fn on_request(&mut self, mut connection: Connection, request: Request, fds: Vec<OwnedFd>) -> Option<Connection> {
        let mut handed: Option<OwnedFd> = None;
        let outcome = match request {
            Request::Status => Ok((Some(self.status()), None)),
            Request::Subscribe => Ok((Some(self.status()), Some(Role::Subscribed))),
            Request::Console { force } => match self.terminal.attach(force) {
                Ok((stream, number)) => {
                    handed = Some(stream);
                    Ok((Some(Reply::Console), Some(Role::Console(number))))
                }
                Err(e @ AttachError::Busy) => Err((RefusalKind::Busy, e.to_string())),
                Err(AttachError::Io(e)) => Err((RefusalKind::Other, e.to_string())),
            },
            Request::Pause => self.pause(true).map(done).map_err(other),
            Request::Resume => self.pause(false).map(done).map_err(other),
            Request::Shutdown => self.shut_down().map(done),
            Request::Kill => {
                self.kill_requested = true;
                self.container.kill();
                Ok(done(()))
            }
            Request::Save => {
                Err((RefusalKind::NotSupported, "the run state of a container cannot be saved".to_owned()))
            }
            Request::Exec(spec) => self.exec(spec, &fds).map(|session| (None, Some(Role::Exec(session)))),
            Request::Files => self.files().map_err(other).map(|stream| {
                handed = Some(stream);
                (Some(Reply::Files), None)
            }),
            Request::Change(spec) => self.change(spec).map_err(other).map(|change| match change {
                None => done(()),
                Some(change) => (None, Some(Role::Change(change))),
            }),
            Request::Network => self.container.init().network().map_err(other).map(|network| {
                handed = Some(network);
                (Some(Reply::Network), None)
            }),
            Request::Stats => NetworkQuery::start(&self.container).map_err(other).map(|(query, child)| {
                self.children.push(child);
                (None, Some(Role::Stats(query)))
            }),
        };
        let (reply, role) = outcome.unwrap_or_else(|(kind, message)| (Some(refuse(kind, message)), None));
        if let Some(reply) = reply {
            let fds: Vec<_> = handed.iter().map(AsFd::as_fd).collect();
            connection.endpoint.send(&reply, &fds).ok()?;
        }
        connection.role = role?;
        Some(connection)
    }

    fn status(&self) -> Reply {
        let pid = self.container.init().pid.as_raw_nonzero().get() as u32;
        Reply::Status(Status { state: self.state, pid, agent: None, panic: None, times: None })
    }

    fn pause(&mut self, pause: bool) -> Result<()> {
        let state = if pause { RunState::Paused } else { RunState::Running };
        if self.state != state {
            self.container.cgroups.freeze(pause)?;
            self.state = state;
            self.broadcast(&Event::State(state));
        }
        Ok(())
    }

    fn shut_down(&self) -> Result<(), (RefusalKind, String)> {
        self.check_not_paused()?;
        let init = self.container.init();
        let program = std::fs::read_link(format!("/proc/{}/exe", init.pid.as_raw_nonzero()));
        let signal = if program.is_ok_and(|path| is_systemd(&path)) { SYSTEMD_HALT } else { libc::SIGPWR };
        sys::pidfd_signal(init.pidfd.as_fd(), signal).context("ask the container's init to shut down").map_err(other)
    }

    fn check_not_paused(&self) -> Result<(), (RefusalKind, String)> {
        match self.state {
            RunState::Running => Ok(()),
            RunState::Paused => {
                let name = &self.container.spec.name;
                Err((RefusalKind::Busy, format!("the container {name} is frozen; unfreeze it first")))
            }
        }
    }

    fn exec(&mut self, spec: ExecSpec, fds: &[OwnedFd]) -> Result<Session, (RefusalKind, String)> {
        self.check_not_paused()?;
        let expected = if spec.terminal.is_some() { 0 } else { 3 };
        if spec.command.is_empty() || fds.len() != expected {
            let text = format!("a command and {expected} descriptors are needed to run a program");
            return Err((RefusalKind::Other, text));
        }
        let start = || {
            let cgroups = self.container.cgroups.joinable()?;
            let instructions = Instructions { spec, rlimits: self.container.spec.rlimits.clone() };
            Session::start(&self.binary, instructions, self.container.init().pidfd.as_fd(), fds, &cgroups)
        };
        let (session, helper) = start().map_err(other)?;
        self.children.push(helper);
        Ok(session)
    }

    /// Starts a file server and returns the client's end.
    fn files(&mut self) -> Result<OwnedFd> {
        let (client, server) = std::os::unix::net::UnixStream::pair().context("make a socket pair")?;
        let (socket, remote) = Endpoint::pair().context("make a socket pair")?;
        let helper = self.binary.spawn("files-join", remote.into_fd())?;
        let told = socket.send(&Join, &[self.container.init().pidfd.as_fd(), server.as_fd()]);
        if told.is_err() {
            process::kill(helper.as_fd());
        }
        self.children.push(helper);
        told.context("instruct the file server")?;
        Ok(client.into())
    }
}

fn is_systemd(program: &Path) -> bool {
    program.file_name().is_some_and(|name| name == "systemd")
}

fn done((): ()) -> (Option<Reply>, Option<Role>) {
    (Some(Reply::Done), None)
}

fn other(e: crate::error::Error) -> (RefusalKind, String) {
    (RefusalKind::Other, e.to_string())
}

fn refuse(kind: RefusalKind, message: String) -> Reply {
    Reply::Refused { kind, message }
}
