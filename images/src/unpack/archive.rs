//! Opening a tar archive in whatever compression.

use std::fs::File;
use std::io::{self, Read};
use std::process::{Child, ChildStdout, Stdio};

use super::decode::{self, Format};
use super::tool;
use crate::wire::{Failure, JobResult};

/// Tells the format of `file` and rewinds it.
pub fn format_of(file: &mut File) -> JobResult<Format> {
    decode::of_file(file).map_err(Failure::from_io("read the image file"))
}

/// The decompressed bytes of the archive in `file`.
pub fn open(mut file: File) -> JobResult<Box<dyn Read>> {
    let format = format_of(&mut file)?;
    match format {
        Format::Bzip2 => Ok(Box::new(External::start("bzip2", file)?)),
        Format::Squashfs | Format::Qcow2 => Err(Failure::invalid(
            "expected a tar archive, found a filesystem or disk image; check the order of the files",
        )),
        _ => decode::reader(format, file)
            .map_err(Failure::from_io("start decompression"))?
            .ok_or_else(|| Failure::invalid("unknown compression of the image's archive; use gzip, xz or zstd")),
    }
}

/// A decompressor that is a program.
struct External {
    child: Child,
    output: ChildStdout,
    done: bool,
}

impl External {
    fn start(program: &str, file: File) -> JobResult<Self> {
        let mut command = tool::command(program);
        command.arg("-dc").stdin(Stdio::from(file)).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(tool::cannot_start(program))?;
        let output = child.stdout.take().ok_or_else(|| Failure::internal("no output of the decompressor"))?;
        Ok(Self { child, output, done: false })
    }
}

impl Read for External {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.output.read(buffer)?;
        if count == 0 && !buffer.is_empty() && !self.done {
            self.done = true;
            if !self.child.wait()?.success() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the decompressor reports damaged data"));
            }
        }
        Ok(count)
    }
}

impl Drop for External {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
