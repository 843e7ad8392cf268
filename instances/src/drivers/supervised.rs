//! What both drivers do alike: start a supervisor, and talk to its control socket.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::process::Stdio;

use berth_guest::protocol::WindowSize;
use berth_store::step;
use berth_supervisor::handshake::{HANDSHAKE_FD, PROTOCOL_VERSION, Proceed, Progress, Start};
use berth_supervisor::protocol::{CONTROL_SOCKET, Input, Reply, Request, SaveControl, Status};
use berth_supervisor::record::Identity;
use berth_supervisor::transport::{AsyncEndpoint, Endpoint};
use serde::Serialize;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use super::{ConsoleSession, Started};
use crate::error::{Error, Result};
use crate::sys;

/// A supervisor that waits for leave to let its instance run. Dropped before [`Launch::proceed`], it ends and
/// undoes what it made.
pub(crate) struct Launch {
    endpoint: AsyncEndpoint,
    child: Child,
    name: String,
}

/// What the supervisor told at [`Progress::Created`].
pub(crate) struct Created {
    /// Network namespace of a container.
    pub netns: Option<OwnedFd>,
}

impl Launch {
    /// Starts `program subcommand --run-dir RUN_DIR`, hands it the specification and waits until the instance is made.
    pub(crate) async fn begin<S: Serialize + Sync>(
        program: &Path,
        subcommand: &str,
        place: Place<'_>,
        spec: S,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(Self, Created)> {
        let (ours, theirs) = Endpoint::pair().map_err(Error::io("make a socket pair"))?;
        let mut command = Command::new(program);
        let log = open_log(place.log_dir)?;
        let errors = log.try_clone().map_err(Error::io("duplicate a log file"))?;
        command.arg(subcommand).arg("--run-dir").arg(place.run_dir);
        command.stdin(Stdio::null()).stdout(log).stderr(errors).current_dir("/");
        sys::hand_over(&mut command, theirs.into_fd(), HANDSHAKE_FD);
        let child = command.spawn().map_err(Error::io(format!(
            "start {} for instance \"{}\" (it belongs beside berthd)",
            program.display(),
            place.name
        )))?;
        // Before it is told what to do, so that none works on unknown to the next daemon, should this one be killed.
        let known = child.id().map_or(Ok(()), |pid| Identity::of(pid)?.save(place.run_dir));
        known.map_err(Error::io(format!("note the supervisor of instance \"{}\"", place.name)))?;
        step::done("supervisor started");
        // The command still holds the child's end; without it the child's death is seen here.
        drop(command);
        let endpoint = AsyncEndpoint::new(ours).map_err(Error::io("watch a socket"))?;
        let mut launch = Self { endpoint, child, name: place.name.to_owned() };
        let start = Start { protocol: PROTOCOL_VERSION, spec };
        if let Err(e) = launch.endpoint.send(&start, fds).await {
            return Err(match e.kind() {
                // It has ended already.
                std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset => launch.ended_early().await,
                _ => Error::io("hand over the specification")(e),
            });
        }
        match launch.next().await? {
            (Progress::Created { .. }, fds) => {
                step::done("instance made");
                Ok((launch, Created { netns: fds.into_iter().next() }))
            }
            (other, _) => Err(launch.unexpected(&other)),
        }
    }

    /// Lets the instance run and subscribes to its events.
    pub(crate) async fn proceed(mut self, run_dir: &Path) -> Result<Started> {
        self.endpoint.send(&Proceed, &[]).await.map_err(Error::io("let the instance run"))?;
        match self.next().await? {
            (Progress::Running, _) => step::done("instance runs"),
            (other, _) => return Err(self.unexpected(&other)),
        }
        let mut child = self.child;
        // The child is reaped whenever it ends; its end as such is told by its control socket.
        tokio::spawn(async move { child.wait().await });
        adopt(run_dir).await?.ok_or_else(|| {
            Error::Runtime(format!("instance \"{}\" ended while it started; its log tells why", self.name))
        })
    }

    async fn next(&mut self) -> Result<(Progress, Vec<OwnedFd>)> {
        match self.endpoint.recv::<Progress>().await {
            Ok(Some((Progress::Failed { message }, _))) => {
                let _ = self.child.wait().await;
                Err(Error::Runtime(message))
            }
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(self.ended_early().await),
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => Err(self.ended_early().await),
            Err(e) => Err(Error::io(format!("hear from the supervisor of instance \"{}\"", self.name))(e)),
        }
    }

    async fn ended_early(&mut self) -> Error {
        let how = self.child.wait().await.map_or_else(|e| e.to_string(), |status| status.to_string());
        Error::Runtime(format!(
            "the supervisor of instance \"{}\" ended early ({how}); its supervisor.log tells why",
            self.name
        ))
    }

    fn unexpected(&self, message: &Progress) -> Error {
        Error::Runtime(format!(
            "the supervisor of instance \"{}\" said {message:?} out of turn; do the programs belong to one version?",
            self.name
        ))
    }
}

/// Whose supervisor, and where it lives.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub name: &'a str,
    pub run_dir: &'a Path,
    pub log_dir: &'a Path,
}

fn open_log(log_dir: &Path) -> Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let path = log_dir.join("supervisor.log");
    std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&path)
        .map_err(Error::io(format!("open {}", path.display())))
}

/// Finds the supervisor of a run directory again; `None` if none lives.
pub(crate) async fn adopt(run_dir: &Path) -> Result<Option<Started>> {
    let action = || format!("find the supervisor in {}", run_dir.display());
    let Some(identity) = Identity::load(run_dir).map_err(Error::io(action()))? else { return Ok(None) };
    if identity.open().map_err(Error::io(action()))?.is_none() {
        return Ok(None);
    }
    // A supervisor that just ends has closed its socket before its process is gone.
    let Ok(events) = AsyncEndpoint::connect(&run_dir.join(CONTROL_SOCKET)) else { return Ok(None) };
    if events.send(&Request::Subscribe, &[]).await.is_err() {
        return Ok(None);
    }
    match events.recv::<Reply>().await {
        Ok(Some((Reply::Status(status), _))) => Ok(Some(Started { identity, events, status })),
        _ => Ok(None),
    }
}

/// A conversation on a control socket.
pub(crate) struct Conversation {
    endpoint: AsyncEndpoint,
}

impl Conversation {
    pub(crate) async fn open(run_dir: &Path, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Self> {
        let endpoint = AsyncEndpoint::connect(&run_dir.join(CONTROL_SOCKET))
            .map_err(|_| Error::State("the instance is not running; start it first".to_owned()))?;
        endpoint.send(request, fds).await.map_err(Error::io("ask the instance's supervisor"))?;
        Ok(Self { endpoint })
    }

    /// The next answer; a refusal is an error.
    pub(crate) async fn answer(&self) -> Result<(Reply, Vec<OwnedFd>)> {
        use berth_supervisor::protocol::RefusalKind;
        match self.endpoint.recv::<Reply>().await.map_err(Error::io("hear from the instance's supervisor"))? {
            Some((Reply::Refused { kind, message }, _)) => Err(match kind {
                RefusalKind::NotFound => Error::Exec { status: 127, message },
                RefusalKind::PermissionDenied => Error::Exec { status: 126, message },
                RefusalKind::Busy => Error::InUse(message),
                RefusalKind::NotSupported => Error::Invalid(message),
                RefusalKind::Other => Error::Runtime(message),
            }),
            Some(answer) => Ok(answer),
            None => Err(Error::Runtime("the instance ended meanwhile".to_owned())),
        }
    }

    pub(crate) async fn input(&self, input: &Input) -> Result<()> {
        self.endpoint.send(input, &[]).await.map_err(Error::io("reach the instance's supervisor"))
    }
}

/// An instance that was saved and stands still. Dropped, it goes on.
pub(crate) struct Standing(Conversation);

impl Standing {
    /// Saves an instance into two empty files.
    pub(crate) async fn save(run_dir: &Path, files: &[BorrowedFd<'_>]) -> Result<Self> {
        let conversation = Conversation::open(run_dir, &Request::Save, files).await?;
        match conversation.answer().await?.0 {
            Reply::Done => Ok(Self(conversation)),
            other => Err(out_of_turn(&other)),
        }
    }

    /// Ends it; its supervisor tells of that.
    pub(crate) async fn end(self) -> Result<()> {
        self.0.endpoint.send(&SaveControl::End, &[]).await.map_err(Error::io("end the saved instance"))?;
        step::done("saved instance ended");
        Ok(())
    }
}

/// Asks and waits for the one answer.
pub(crate) async fn ask(run_dir: &Path, request: &Request) -> Result<Reply> {
    let answer = Conversation::open(run_dir, request, &[]).await?.answer().await?.0;
    step::done("supervisor asked");
    Ok(answer)
}

/// The supervisor's present view.
pub(crate) async fn status(run_dir: &Path) -> Result<Status> {
    match ask(run_dir, &Request::Status).await? {
        Reply::Status(status) => Ok(status),
        other => Err(out_of_turn(&other)),
    }
}

pub(crate) fn out_of_turn(reply: &Reply) -> Error {
    Error::Runtime(format!("the supervisor answered {reply:?} out of turn"))
}

/// The network namespace of a container.
pub(crate) async fn network(run_dir: &Path) -> Result<OwnedFd> {
    let (reply, fds) = Conversation::open(run_dir, &Request::Network, &[]).await?.answer().await?;
    fds.into_iter().next().ok_or_else(|| out_of_turn(&reply))
}

/// Attaches to the console.
pub(crate) async fn console(run_dir: &Path, force: bool) -> Result<ConsoleSession> {
    let conversation = Conversation::open(run_dir, &Request::Console { force }, &[]).await?;
    let (reply, fds) = conversation.answer().await?;
    let Some(fd) = fds.into_iter().next() else { return Err(out_of_turn(&reply)) };
    let stream = std::os::unix::net::UnixStream::from(fd);
    stream.set_nonblocking(true).map_err(Error::io("watch the console"))?;
    let stream = UnixStream::from_std(stream).map_err(Error::io("watch the console"))?;
    let (resize, mut sizes) = mpsc::channel::<WindowSize>(4);
    tokio::spawn(async move {
        // Ends, and with it the session, when the client's half is dropped.
        while let Some(size) = sizes.recv().await {
            if conversation.input(&Input::Resize(size)).await.is_err() {
                break;
            }
        }
    });
    Ok(ConsoleSession { stream, resize })
}
