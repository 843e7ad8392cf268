//! Programs in a guest.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use super::{ClientError, receive, send, unexpected};
use crate::{
    frame::{self, DATA_CHUNK, Kind},
    protocol::{ExecControl, ExecSpec, Reply, Request},
};

/// Bytes of each stream held on the host. A reader that is slow holds up the program, as with a pipe.
const BUFFER: usize = 4 * DATA_CHUNK;
/// Control messages held on the host.
const CONTROLS: usize = 16;

/// A program that runs in a guest.
///
/// Read both outputs or drop the one that is not wanted: a full buffer holds up the other output and the exit.
#[derive(Debug)]
pub struct Exec {
    /// Process id in the guest.
    pub pid: u32,
    /// Input of the program; shut down or dropped, it gives the program end of file.
    pub stdin: DuplexStream,
    /// Output of the program, or of its terminal.
    pub stdout: DuplexStream,
    /// Error output of the program; at its end at once with a terminal.
    pub stderr: DuplexStream,
    /// Window sizes and signals; may be cloned and dropped.
    pub control: mpsc::Sender<ExecControl>,
    /// The end of the program. Dropping it kills the program.
    pub exit: Exit,
}

/// Future of a program's exit status: 0..=255, 128 + signal number if it was killed.
#[derive(Debug)]
pub struct Exit {
    status: oneshot::Receiver<Result<i32, ClientError>>,
    tasks: [JoinHandle<()>; 2],
}

impl Future for Exit {
    type Output = Result<i32, ClientError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.status).poll(context).map(|status| status.unwrap_or(Err(ClientError::Closed)))
    }
}

impl Drop for Exit {
    fn drop(&mut self) {
        // Both halves of the connection are dropped with the tasks, and its loss kills the program.
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Runs a program. Returns when it was started; an error of the guest means that it was not.
pub async fn exec(mut stream: UnixStream, spec: ExecSpec) -> Result<Exec, ClientError> {
    let terminal = spec.terminal.is_some();
    send(&mut stream, &Request::Exec(spec)).await?;
    let pid = match receive(&mut stream).await? {
        Reply::Started { pid } => pid,
        other => return Err(unexpected(&other)),
    };
    let (read, write) = stream.into_split();
    let (stdin, stdin_end) = tokio::io::duplex(BUFFER);
    let (stdout, stdout_end) = tokio::io::duplex(BUFFER);
    let (stderr, stderr_end) = tokio::io::duplex(BUFFER);
    let (control, controls) = mpsc::channel(CONTROLS);
    let (told, status) = oneshot::channel();
    let outputs = [Some(stdout_end), (!terminal).then_some(stderr_end)];
    let incoming = tokio::spawn(async move {
        // Nobody may wait for the exit any more.
        let _ = told.send(incoming(read, outputs).await);
    });
    let outgoing = tokio::spawn(outgoing(write, stdin_end, controls));
    let exit = Exit { status, tasks: [incoming, outgoing] };
    Ok(Exec { pid, stdin, stdout, stderr, control, exit })
}

/// Hands output on until the program ended.
async fn incoming(mut read: OwnedReadHalf, mut outputs: [Option<DuplexStream>; 2]) -> Result<i32, ClientError> {
    loop {
        let frame = frame::read_async(&mut read).await.map_err(ClientError::Connection)?.ok_or(ClientError::Closed)?;
        let output = match frame.kind {
            Kind::Stdout => &mut outputs[0],
            Kind::Stderr => &mut outputs[1],
            _ => match super::reply(Ok(Some(frame)))? {
                Reply::Exited { status } => return Ok(status),
                other => return Err(unexpected(&other)),
            },
        };
        if frame.payload.is_empty() {
            *output = None;
        } else if let Some(writer) = output
            && writer.write_all(&frame.payload).await.is_err()
        {
            // The reader was dropped: its output is not wanted.
            *output = None;
        }
    }
}

/// Sends input and control messages; ends when there can be no more, or with the connection.
async fn outgoing(mut write: OwnedWriteHalf, mut stdin: DuplexStream, mut controls: mpsc::Receiver<ExecControl>) {
    let mut buffer = vec![0; DATA_CHUNK];
    let (mut stdin_open, mut controls_open) = (true, true);
    while stdin_open || controls_open {
        let sent = tokio::select! {
            n = stdin.read(&mut buffer), if stdin_open => {
                let n = n.unwrap_or(0);
                stdin_open = n > 0;
                frame::write_async(&mut write, Kind::Stdin, &buffer[..n]).await
            }
            control = controls.recv(), if controls_open => match control {
                Some(control) => frame::write_json_async(&mut write, &control).await,
                None => {
                    controls_open = false;
                    Ok(())
                }
            },
        };
        if sent.is_err() {
            // The reading half learns why and tells it.
            break;
        }
    }
    // An owned half shuts its direction down when it is dropped, which the guest would take for the loss of the
    // connection: it is kept until the program ended.
    std::future::pending::<()>().await;
}
