//! Commands and consoles over websockets.

use bytes::Bytes;
use futures::{FutureExt as _, future::try_join3};
use http::Method;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};

use super::{
    Client, Endpoint, WebSocket,
    error::{Error, Result},
};
use crate::{
    exec::{InstanceConsoleControl, InstanceConsolePost, InstanceExecControl, InstanceExecPost},
    operations::Operation,
};

/// The streams of a command.
#[derive(Debug)]
pub enum ExecIo {
    /// A pseudo terminal.
    Terminal(Box<WebSocket>),
    /// Pipes.
    Pipes(Box<Pipes>),
}

/// The three pipes of a command.
#[derive(Debug)]
pub struct Pipes {
    /// Standard input.
    pub stdin: WebSocket,
    /// Standard output.
    pub stdout: WebSocket,
    /// Standard error.
    pub stderr: WebSocket,
}

/// A running command.
#[derive(Debug)]
pub struct ExecSession {
    client: Client,
    /// The operation as it began.
    pub operation: Operation,
    /// Its streams.
    pub io: ExecIo,
    /// Its control socket.
    pub control: WebSocket,
}

impl Client {
    /// Starts a command in an instance and connects to it. `wait_for_websocket` of the request is set.
    ///
    /// # Errors
    /// If the server refuses it or the sockets cannot be connected.
    pub async fn exec(&self, instance: &str, request: &InstanceExecPost) -> Result<ExecSession> {
        let request = InstanceExecPost { wait_for_websocket: true, ..request.clone() };
        let endpoint = Endpoint::new(&["instances", instance, "exec"]);
        let answer = self.request(Method::POST, &endpoint, Self::json(&request)?, None).await?;
        let operation: Operation = answer.into(endpoint.as_str())?;
        let (started, path) = (&operation, endpoint.as_str());
        let socket = |name: &'static str| async move {
            let Some(secret) = started.secret(name) else {
                return Err(Error::protocol(path, format!("there is no websocket `{name}`")));
            };
            self.operation_websocket(started, secret).await
        };
        // The control socket comes first: the command starts with the last of the others.
        let control = socket("control").await?;
        let io = if request.interactive {
            ExecIo::Terminal(Box::new(socket("0").await?))
        } else {
            let (stdin, stdout, stderr) = try_join3(socket("0"), socket("1"), socket("2")).await?;
            ExecIo::Pipes(Box::new(Pipes { stdin, stdout, stderr }))
        };
        Ok(ExecSession { client: self.clone(), operation, io, control })
    }

    /// Connects to the console of an instance.
    ///
    /// # Errors
    /// If the server refuses it or the sockets cannot be connected.
    pub async fn console(&self, instance: &str, request: &InstanceConsolePost) -> Result<ConsoleSession> {
        let endpoint = Endpoint::new(&["instances", instance, "console"]);
        let answer = self.request(Method::POST, &endpoint, Self::json(request)?, None).await?;
        let operation: Operation = answer.into(endpoint.as_str())?;
        let (Some(data), Some(control)) = (operation.secret("0"), operation.secret("control")) else {
            return Err(Error::protocol(endpoint.as_str(), "websockets are missing"));
        };
        let control = self.operation_websocket(&operation, control).await?;
        let stream = self.operation_websocket(&operation, data).await?;
        Ok(ConsoleSession { client: self.clone(), operation, stream, control })
    }
}

impl ExecSession {
    /// Connects the command to local streams until it ends, and returns the operation as it ended: it has the exit
    /// status, and an error if the command was not found or not executable. Without `stdin` its input is empty. Messages of `controls` go to the command.
    ///
    /// # Errors
    /// If a stream breaks or the server could not run the command.
    pub async fn run(
        self,
        stdin: Option<impl AsyncRead + Unpin + Send>,
        stdout: &mut (impl AsyncWrite + Unpin + Send),
        stderr: &mut (impl AsyncWrite + Unpin + Send),
        mut controls: mpsc::Receiver<InstanceExecControl>,
    ) -> Result<Operation> {
        let (mut control_reader, mut control) = self.control.split();
        let send_controls = async {
            while let Some(message) = controls.recv().await {
                let text = serde_json::to_string(&message).map_err(|error| Error::protocol("control", error))?;
                // The command may have ended meanwhile; the output tells.
                if control.send_text(&text).await.is_err() {
                    break;
                }
            }
            std::future::pending::<Result<()>>().await
        };
        // Pings on the control socket are only answered while it is read.
        let read_control = async {
            while let Ok(Some(_)) = control_reader.next().await {}
            std::future::pending::<Result<()>>().await
        };
        let (input, output) = match self.io {
            ExecIo::Terminal(socket) => {
                let (mut reader, writer) = socket.split();
                (writer, async move { reader.copy_to(stdout).await }.boxed())
            }
            ExecIo::Pipes(pipes) => {
                let Pipes { stdin, stdout: out, stderr: err } = *pipes;
                let (mut in_reader, writer) = stdin.split();
                let (mut out, _out_writer) = out.split();
                let (mut err, _err_writer) = err.split();
                let output = async move {
                    // A socket answers pings only while somebody reads from it.
                    let drain = async {
                        while let Ok(Some(_)) = in_reader.next().await {}
                        std::future::pending::<Result<()>>().await
                    };
                    let streams = async { futures::try_join!(out.copy_to(stdout), err.copy_to(stderr)) };
                    tokio::select! {
                        result = streams => result.map(|_| ()),
                        result = drain => result,
                    }
                };
                (writer, output.boxed())
            }
        };
        let feed = feed(input, stdin);
        tokio::select! {
            result = output => result?,
            result = feed => result?,
            result = send_controls => result?,
            result = read_control => result?,
        }
        // The sockets closed, so the end is near: no events are needed.
        self.client.wait_end(&self.operation).await
    }
}

/// Sends the whole input, then waits for ever. A command that ended before its input is no error.
async fn feed(mut writer: super::WebSocketWriter, stdin: Option<impl AsyncRead + Unpin + Send>) -> Result<()> {
    let sent = match stdin {
        Some(mut stdin) => writer.copy_from(&mut stdin).await,
        None => writer.end().await,
    };
    match sent {
        Err(error @ Error::Local { .. }) => Err(error),
        _ => std::future::pending().await,
    }
}

/// A connected console.
#[derive(Debug)]
pub struct ConsoleSession {
    client: Client,
    /// The operation as it began.
    pub operation: Operation,
    stream: WebSocket,
    control: WebSocket,
}

impl ConsoleSession {
    /// Connects the console to local streams until the instance stops or `input` ends; each message of `input` goes
    /// to the console. Returns whether the instance ended it.
    ///
    /// # Errors
    /// If a stream breaks.
    pub async fn run(
        self,
        mut input: mpsc::Receiver<Bytes>,
        output: &mut (impl AsyncWrite + Unpin + Send),
        mut controls: mpsc::Receiver<InstanceConsoleControl>,
    ) -> Result<bool> {
        let (mut reader, mut writer) = self.stream.split();
        let (mut control_reader, mut control) = self.control.split();
        let send_controls = async {
            while let Some(message) = controls.recv().await {
                let text = serde_json::to_string(&message).map_err(|error| Error::protocol("control", error))?;
                if control.send_text(&text).await.is_err() {
                    break;
                }
            }
            std::future::pending::<Result<bool>>().await
        };
        let read_control = async {
            while let Ok(Some(_)) = control_reader.next().await {}
            std::future::pending::<Result<bool>>().await
        };
        let feed = async {
            while let Some(data) = input.recv().await {
                if writer.send(data).await.is_err() {
                    return std::future::pending().await; // the reader sees the end
                }
            }
            Ok(false)
        };
        let show = async { reader.copy_to(output).await.map(|()| true) };
        let ended = tokio::select! {
            result = show => result?,
            result = feed => result?,
            result = send_controls => result?,
            result = read_control => result?,
        };
        if ended {
            // The reason, if the server has one to tell.
            self.client.wait_end(&self.operation).await?;
        }
        Ok(ended)
    }
}
