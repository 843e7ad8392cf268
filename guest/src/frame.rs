//! Framing: `u32` length of the payload (little endian), one byte of kind, payload.

use std::io::{self, Read, Write};

use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest payload either side accepts: a directory listing or an environment fits, a bomb does not.
pub const MAX_PAYLOAD: usize = 1024 * 1024;
/// Payload of data frames that this side sends.
pub const DATA_CHUNK: usize = 64 * 1024;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A JSON message.
    Json = 0,
    /// Input of a program.
    Stdin = 1,
    /// Output of a program, or of its terminal.
    Stdout = 2,
    /// Error output of a program.
    Stderr = 3,
    /// Content of a file.
    Data = 4,
}

impl TryFrom<u8> for Kind {
    type Error = io::Error;

    fn try_from(value: u8) -> io::Result<Self> {
        Ok(match value {
            0 => Self::Json,
            1 => Self::Stdin,
            2 => Self::Stdout,
            3 => Self::Stderr,
            4 => Self::Data,
            other => return Err(invalid(format!("unknown frame kind {other}"))),
        })
    }
}

/// One frame. An empty stream frame is the end of that stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it carries.
    pub kind: Kind,
    /// At most [`MAX_PAYLOAD`] bytes.
    pub payload: Vec<u8>,
}

impl Frame {
    /// A JSON frame; fails if the message is longer than [`MAX_PAYLOAD`].
    pub fn json<T: Serialize>(message: &T) -> io::Result<Self> {
        let payload = serde_json::to_vec(message)?;
        Ok(Self { kind: Kind::Json, payload })
    }

    /// The message in a JSON frame; any other kind of frame is an error.
    pub fn parse<T: DeserializeOwned>(&self) -> io::Result<T> {
        if self.kind != Kind::Json {
            return Err(invalid(format!("a message was expected, not a frame of kind {:?}", self.kind)));
        }
        serde_json::from_slice(&self.payload).map_err(|e| invalid(format!("malformed message: {e}")))
    }
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn header(kind: Kind, length: usize) -> io::Result<[u8; 5]> {
    if length > MAX_PAYLOAD {
        return Err(invalid(format!("a frame of {length} bytes is over the limit of {MAX_PAYLOAD}")));
    }
    let mut header = [0; 5];
    header[..4].copy_from_slice(&(length as u32).to_le_bytes());
    header[4] = kind as u8;
    Ok(header)
}

fn parse_header(header: [u8; 5]) -> io::Result<(Kind, usize)> {
    let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
    if length > MAX_PAYLOAD {
        return Err(invalid(format!("a frame of {length} bytes is over the limit of {MAX_PAYLOAD}")));
    }
    Ok((Kind::try_from(header[4])?, length))
}

/// Writes one frame.
pub fn write(out: &mut impl Write, kind: Kind, payload: &[u8]) -> io::Result<()> {
    out.write_all(&header(kind, payload.len())?)?;
    out.write_all(payload)?;
    out.flush()
}

/// Writes one JSON message.
pub fn write_json<T: Serialize>(out: &mut impl Write, message: &T) -> io::Result<()> {
    let frame = Frame::json(message)?;
    write(out, frame.kind, &frame.payload)
}

/// Reads one frame; `None` at the end of the stream.
pub fn read(input: &mut impl Read) -> io::Result<Option<Frame>> {
    let mut head = [0; 5];
    let first = loop {
        match input.read(&mut head[..1]) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => break other?,
        }
    };
    if first == 0 {
        return Ok(None);
    }
    input.read_exact(&mut head[1..])?;
    let (kind, length) = parse_header(head)?;
    let mut payload = vec![0; length];
    input.read_exact(&mut payload)?;
    Ok(Some(Frame { kind, payload }))
}

/// Writes one frame.
pub async fn write_async(out: &mut (impl AsyncWrite + Unpin), kind: Kind, payload: &[u8]) -> io::Result<()> {
    out.write_all(&header(kind, payload.len())?).await?;
    out.write_all(payload).await?;
    out.flush().await
}

/// Writes one JSON message.
pub async fn write_json_async<T: Serialize>(out: &mut (impl AsyncWrite + Unpin), message: &T) -> io::Result<()> {
    let frame = Frame::json(message)?;
    write_async(out, frame.kind, &frame.payload).await
}

/// Reads one frame; `None` at the end of the stream. Not cancel safe: a dropped call may lose part of a frame.
pub async fn read_async(input: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Frame>> {
    let mut head = [0; 5];
    if input.read(&mut head[..1]).await? == 0 {
        return Ok(None);
    }
    input.read_exact(&mut head[1..]).await?;
    let (kind, length) = parse_header(head)?;
    let mut payload = vec![0; length];
    input.read_exact(&mut payload).await?;
    Ok(Some(Frame { kind, payload }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = read(&mut bytes.as_slice());
        }

        #[test]
        fn what_is_written_is_read(payload in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let mut wire = Vec::new();
            write(&mut wire, Kind::Data, &payload).unwrap();
            let frame = read(&mut wire.as_slice()).unwrap().unwrap();
            prop_assert_eq!(frame, Frame { kind: Kind::Data, payload });
        }
    }

    #[test]
    fn a_length_over_the_cap_is_refused_before_it_is_allocated() {
        let mut wire = u32::MAX.to_le_bytes().to_vec();
        wire.push(0);
        assert!(read(&mut wire.as_slice()).is_err());
        assert!(write(&mut Vec::new(), Kind::Data, &vec![0; MAX_PAYLOAD + 1]).is_err());
    }
}
