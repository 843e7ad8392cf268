//! Files of a guest.

use std::{
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, ReadBuf},
    net::UnixStream,
};

use super::{ClientError, receive, send, unexpected};
use crate::{
    frame::{self, DATA_CHUNK, Frame, Kind, MAX_PAYLOAD},
    protocol::{FileKind, FileRequest, FileStat, Ownership, Reply, Request, WriteMode},
};

/// Longest target of a link: the kernel's `PATH_MAX`.
const MAX_TARGET: u64 = 4096;

/// What became of a [`FileRequest`].
#[derive(Debug)]
pub enum FileSession {
    /// `Read` of a regular file: read the content from `body`.
    File {
        /// As it was when it was opened.
        stat: FileStat,
        /// The content.
        body: Body,
    },
    /// `Read` of a directory.
    Directory {
        /// As it was when it was opened.
        stat: FileStat,
        /// Its names, sorted.
        entries: Vec<String>,
    },
    /// `Read` of a symbolic link.
    Link {
        /// The link's own.
        stat: FileStat,
        /// What it says.
        target: Vec<u8>,
    },
    /// `Stat`.
    Stat(FileStat),
    /// `Write`: the file is open; send its content.
    Write(FileWriter),
    /// Everything else is done.
    Done,
}

/// Sends a file request and hands on what it gives.
pub async fn file(mut stream: UnixStream, request: FileRequest) -> Result<FileSession, ClientError> {
    let reads = matches!(request, FileRequest::Read { .. });
    send(&mut stream, &Request::Files(request)).await?;
    match receive(&mut stream).await? {
        Reply::File(stat) if reads => content(stream, stat).await,
        Reply::File(stat) => Ok(FileSession::Stat(stat)),
        Reply::Ready => Ok(FileSession::Write(FileWriter { stream })),
        Reply::Done => Ok(FileSession::Done),
        other => Err(unexpected(&other)),
    }
}

async fn content(mut stream: UnixStream, stat: FileStat) -> Result<FileSession, ClientError> {
    match stat.kind {
        FileKind::File => Ok(FileSession::File { stat, body: Body { stream, state: State::default() } }),
        FileKind::Directory => match receive(&mut stream).await? {
            Reply::Entries(entries) => Ok(FileSession::Directory { stat, entries }),
            other => Err(unexpected(&other)),
        },
        FileKind::Symlink => {
            let mut target = Vec::new();
            let mut body = Body { stream, state: State::default() }.take(MAX_TARGET);
            body.read_to_end(&mut target).await.map_err(ClientError::Connection)?;
            Ok(FileSession::Link { stat, target })
        }
        FileKind::Other => Err(ClientError::Unexpected(format!("{stat:?}"))),
    }
}

/// Reads a path; the answer is a file, a directory or a link.
pub async fn read(stream: UnixStream, path: &str) -> Result<FileSession, ClientError> {
    file(stream, FileRequest::Read { path: path.to_owned() }).await
}

/// Writes a file with the content of `from`; gives the number of bytes.
pub async fn write(
    stream: UnixStream,
    path: &str,
    mode: WriteMode,
    ownership: Ownership,
    from: impl AsyncRead,
) -> Result<u64, ClientError> {
    match file(stream, FileRequest::Write { path: path.to_owned(), mode, ownership }).await? {
        FileSession::Write(writer) => writer.copy_from(from).await,
        other => Err(ClientError::Unexpected(format!("{other:?}"))),
    }
}

/// A file of the guest, open for writing.
#[derive(Debug)]
pub struct FileWriter {
    stream: UnixStream,
}

impl FileWriter {
    /// Sends all of `from` and waits until the guest wrote it; gives the number of bytes.
    pub async fn copy_from(self, from: impl AsyncRead) -> Result<u64, ClientError> {
        let mut from = pin!(from);
        let (mut read, mut write) = self.stream.into_split();
        let mut answer = pin!(frame::read_async(&mut read));
        let mut buffer = vec![0; DATA_CHUNK];
        let mut total = 0;
        loop {
            // The guest answers early only if it failed.
            let n = tokio::select! {
                biased;
                early = &mut answer => return finish(early, total),
                n = from.read(&mut buffer) => n.map_err(ClientError::Source)?,
            };
            if let Err(e) = frame::write_async(&mut write, Kind::Data, &buffer[..n]).await {
                // Its reason is better than "broken pipe", if it gave one.
                finish(answer.await, total)?;
                return Err(ClientError::Connection(e));
            }
            if n == 0 {
                return finish(answer.await, total);
            }
            total += n as u64;
        }
    }
}

fn finish(answer: io::Result<Option<Frame>>, total: u64) -> Result<u64, ClientError> {
    match super::reply(answer)? {
        Reply::Done => Ok(total),
        other => Err(unexpected(&other)),
    }
}

/// Content of a file of the guest. Ends with an error if the guest could not read all of it.
#[derive(Debug)]
pub struct Body {
    stream: UnixStream,
    state: State,
}

/// Where in the sequence of frames a body is.
#[derive(Debug)]
enum State {
    Header { bytes: [u8; 5], filled: usize },
    Data { left: usize },
    Message { bytes: Vec<u8>, filled: usize },
    End,
}

impl Default for State {
    fn default() -> Self {
        Self::Header { bytes: [0; 5], filled: 0 }
    }
}

impl State {
    /// The state after a whole header.
    fn after(header: [u8; 5]) -> io::Result<Self> {
        let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        if length > MAX_PAYLOAD {
            return Err(broken(format!("the guest's agent sent a frame of {length} bytes")));
        }
        match Kind::try_from(header[4])? {
            Kind::Data if length == 0 => Ok(Self::End),
            Kind::Data => Ok(Self::Data { left: length }),
            Kind::Json => Ok(Self::Message { bytes: vec![0; length], filled: 0 }),
            other => Err(broken(format!("the guest's agent sent a frame of kind {other:?} within a file"))),
        }
    }
}

fn broken(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// Reads into `target`; no byte is an error, because the last frame did not come yet.
fn fill(stream: &mut UnixStream, context: &mut Context<'_>, target: &mut [u8]) -> Poll<io::Result<usize>> {
    let mut buffer = ReadBuf::new(target);
    ready!(Pin::new(stream).poll_read(context, &mut buffer))?;
    match buffer.filled().len() {
        0 => Poll::Ready(Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the guest's agent closed the connection in the midst of a file",
        ))),
        n => Poll::Ready(Ok(n)),
    }
}

impl AsyncRead for Body {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, state } = self.get_mut();
        loop {
            match state {
                State::End => return Poll::Ready(Ok(())),
                State::Header { bytes, filled } if *filled < bytes.len() => {
                    *filled += ready!(fill(stream, context, &mut bytes[*filled..]))?;
                }
                State::Header { bytes, .. } => *state = State::after(*bytes)?,
                State::Data { left: 0 } => *state = State::default(),
                State::Data { left } => {
                    let length = out.remaining().min(*left);
                    if length == 0 {
                        return Poll::Ready(Ok(()));
                    }
                    let n = ready!(fill(stream, context, out.initialize_unfilled_to(length)))?;
                    out.advance(n);
                    *left -= n;
                    return Poll::Ready(Ok(()));
                }
                State::Message { bytes, filled } if *filled < bytes.len() => {
                    *filled += ready!(fill(stream, context, &mut bytes[*filled..]))?;
                }
                State::Message { bytes, .. } => {
                    let frame = Frame { kind: Kind::Json, payload: std::mem::take(bytes) };
                    *state = State::End;
                    return Poll::Ready(Err(match super::reply(Ok(Some(frame))) {
                        Ok(other) => broken(unexpected(&other).to_string()),
                        Err(error) => io::Error::other(error),
                    }));
                }
            }
        }
    }
}
