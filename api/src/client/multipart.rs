//! `multipart/form-data`, for images of two files: written to the server, and read from it, as streams.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::{
    RawResponse,
    error::{Error, Result},
};

/// Largest block of headers of a part.
const MAX_HEADERS: usize = 16 << 10;
/// Longest boundary, by RFC 2046.
const MAX_BOUNDARY: usize = 70;

/// The bytes before the contents of a part.
#[must_use]
pub fn part_head(boundary: &str, field: &str, filename: &str) -> String {
    let clean = |text: &str| text.replace(['"', '\r', '\n', '\\'], "_");
    format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"{}\"; filename=\"{}\"\r\nContent-Type: \
         application/octet-stream\r\n\r\n",
        clean(field),
        clean(filename)
    )
}

/// The bytes after the contents of a part.
pub const PART_TAIL: &str = "\r\n";

/// The bytes after the last part.
#[must_use]
pub fn end(boundary: &str) -> String {
    format!("--{boundary}--\r\n")
}

/// The boundary named by a `Content-Type`, if that is multipart.
#[must_use]
pub fn boundary(content_type: &str) -> Option<&str> {
    let rest = content_type.strip_prefix("multipart/")?;
    let value = rest.split(';').find_map(|part| part.trim().strip_prefix("boundary="))?.trim_matches('"');
    (!value.is_empty() && value.len() <= MAX_BOUNDARY).then_some(value)
}

/// A part's names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PartHead {
    /// Name of the field.
    pub field: String,
    /// Name of the file; hostile until checked.
    pub filename: String,
}

/// Splits a multipart stream into its parts.
#[derive(Debug)]
pub struct Splitter {
    buffer: BytesMut,
    delimiter: Vec<u8>,
    finished: bool,
}

/// What a [`Splitter`] found.
#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Data(Bytes),
    PartEnd,
    NeedMore,
}

impl Splitter {
    /// A splitter for this boundary.
    #[must_use]
    pub fn new(boundary: &str) -> Self {
        // The first boundary has no line end before it: pretend that it has.
        let mut buffer = BytesMut::new();
        buffer.extend_from_slice(b"\r\n");
        Self { buffer, delimiter: format!("\r\n--{boundary}").into_bytes(), finished: false }
    }

    /// The contents up to the next boundary, as far as the buffer has them for sure.
    fn piece(&mut self) -> Piece {
        if let Some(at) = find(&self.buffer, &self.delimiter) {
            if at > 0 {
                return Piece::Data(self.buffer.split_to(at).freeze());
            }
            // The two bytes after the boundary tell whether another part follows.
            if self.buffer.len() < self.delimiter.len() + 2 {
                return Piece::NeedMore;
            }
            let _ = self.buffer.split_to(self.delimiter.len());
            self.finished = self.buffer.starts_with(b"--");
            let _ = self.buffer.split_to(2);
            return Piece::PartEnd;
        }
        // The end of the buffer may be the begin of a boundary.
        let sure = self.buffer.len().saturating_sub(self.delimiter.len() - 1);
        if sure == 0 { Piece::NeedMore } else { Piece::Data(self.buffer.split_to(sure).freeze()) }
    }

    /// The headers of a part, when the buffer has them all.
    fn head(&mut self) -> Result<Option<PartHead>> {
        let Some(at) = find(&self.buffer, b"\r\n\r\n") else {
            if self.buffer.len() > MAX_HEADERS {
                return Err(Error::protocol("the upload", "the headers of a part are too long"));
            }
            return Ok(None);
        };
        let block = self.buffer.split_to(at + 4);
        Ok(Some(parse_head(&String::from_utf8_lossy(&block))))
    }

    /// Reads the stream's next part into what `open` makes of its names; `None` after the last part.
    ///
    /// # Errors
    /// If the connection breaks, the stream is no multipart stream, or the output fails.
    pub async fn next_head(&mut self, response: &mut RawResponse) -> Result<Option<PartHead>> {
        loop {
            match self.piece() {
                Piece::Data(_) => {} // what is before the first boundary
                Piece::PartEnd => break,
                Piece::NeedMore => self.fill(response).await?,
            }
        }
        if self.finished {
            return Ok(None);
        }
        loop {
            if let Some(head) = self.head()? {
                return Ok(Some(head));
            }
            self.fill(response).await?;
        }
    }

    /// Copies the contents of the part whose head was read.
    ///
    /// # Errors
    /// If the connection breaks, the stream ends too early, or the output fails.
    pub async fn copy_part(
        &mut self,
        response: &mut RawResponse,
        output: &mut (impl AsyncWrite + Unpin),
        mut received: impl FnMut(u64),
    ) -> Result<()> {
        let local = |source| Error::Local { what: "cannot write the received data".into(), source };
        while find(&self.buffer, &self.delimiter) != Some(0) {
            match self.piece() {
                Piece::Data(data) => {
                    output.write_all(&data).await.map_err(local)?;
                    received(data.len() as u64);
                }
                Piece::PartEnd | Piece::NeedMore => self.fill(response).await?,
            }
        }
        output.flush().await.map_err(local)
    }

    async fn fill(&mut self, response: &mut RawResponse) -> Result<()> {
        match response.chunk().await? {
            Some(data) => {
                self.buffer.extend_from_slice(&data);
                Ok(())
            }
            None => Err(Error::protocol("the download", "it ended in the middle of a file")),
        }
    }
}

fn parse_head(block: &str) -> PartHead {
    let line = block.lines().find(|line| line.to_ascii_lowercase().starts_with("content-disposition:"));
    let parameter = |name: &str| {
        line.and_then(|line| {
            line.split(';')
                .find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('=').map(|v| v.trim_matches('"')))
        })
        .unwrap_or_default()
        .to_owned()
    };
    PartHead { field: parameter("name"), filename: parameter("filename") }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Splits a whole stream that comes in pieces of `step` bytes.
    fn split(stream: &[u8], step: usize) -> Vec<(PartHead, Vec<u8>)> {
        let mut splitter = Splitter::new("BOUNDARY");
        let mut parts: Vec<(PartHead, Vec<u8>)> = Vec::new();
        let mut chunks = stream.chunks(step);
        let mut in_head = false;
        loop {
            if in_head {
                match splitter.head().unwrap() {
                    Some(head) => {
                        parts.push((head, Vec::new()));
                        in_head = false;
                    }
                    None => splitter.buffer.extend_from_slice(chunks.next().expect("more data")),
                }
                continue;
            }
            match splitter.piece() {
                Piece::Data(data) => {
                    if let Some(part) = parts.last_mut() {
                        part.1.extend_from_slice(&data);
                    }
                }
                Piece::PartEnd if splitter.finished => return parts,
                Piece::PartEnd => in_head = true,
                Piece::NeedMore => splitter.buffer.extend_from_slice(chunks.next().expect("more data")),
            }
        }
    }

    proptest! {
        #[test]
        fn parts_come_back_whole(
            first in proptest::collection::vec(any::<u8>(), 0..300),
            second in "[\r\n-]*(--BOUND|BOUNDARY|\r\n--BOUNDAR)?[\r\n-]*",
            step in 1_usize..64,
        ) {
            prop_assume!(!second.contains("\r\n--BOUNDARY"));
            let mut stream = part_head("BOUNDARY", "metadata", "meta.tar.xz").into_bytes();
            stream.extend_from_slice(&first);
            stream.extend_from_slice(PART_TAIL.as_bytes());
            stream.extend_from_slice(part_head("BOUNDARY", "rootfs", "root.squashfs").as_bytes());
            stream.extend_from_slice(second.as_bytes());
            stream.extend_from_slice(PART_TAIL.as_bytes());
            stream.extend_from_slice(end("BOUNDARY").as_bytes());
            let parts = split(&stream, step);
            prop_assert_eq!(parts.len(), 2);
            prop_assert_eq!(&parts[0].0.filename, "meta.tar.xz");
            prop_assert_eq!(&parts[0].1, &first);
            prop_assert_eq!(&parts[1].0.field, "rootfs");
            prop_assert_eq!(&parts[1].1, second.as_bytes());
        }
    }

    #[test]
    fn boundaries_are_found() {
        assert_eq!(boundary("multipart/form-data; boundary=abc"), Some("abc"));
        assert_eq!(boundary("multipart/form-data; charset=x; boundary=\"a b\""), Some("a b"));
        assert_eq!(boundary("application/octet-stream"), None);
        assert_eq!(boundary("multipart/form-data; boundary="), None);
    }
}
