//! Compressing what is written.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::process::{Child, ChildStdin, Stdio};

use crate::unpack::tool;

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
    /// xz.
    Xz,
    /// The older LZMA format.
    Lzma,
    /// bzip2.
    Bzip2,
}

impl Compression {
    /// By the name that clients know; no name is LXD's default.
    pub fn parse(name: &str) -> Result<Self, String> {
        match name {
            "" | "gzip" => Ok(Self::Gzip),
            "none" => Ok(Self::None),
            "zstd" => Ok(Self::Zstd),
            "xz" => Ok(Self::Xz),
            "lzma" => Ok(Self::Lzma),
            "bzip2" => Ok(Self::Bzip2),
            other => Err(format!(
                "compression \"{}\" is not supported; use none, gzip, zstd, xz, lzma or bzip2",
                other.escape_debug()
            )),
        }
    }

    /// What the name of a compressed file ends in.
    pub fn ending(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gzip => ".gz",
            Self::Zstd => ".zst",
            Self::Xz => ".xz",
            Self::Lzma => ".lzma",
            Self::Bzip2 => ".bz2",
        }
    }

    /// As the helper takes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Xz => "xz",
            Self::Lzma => "lzma",
            Self::Bzip2 => "bzip2",
        }
    }
}

/// Level of gzip(1).
const GZIP: u32 = 6;
/// Level of zstd(1).
const ZSTD: i32 = 3;
/// Preset of xz(1); a higher one takes more memory of whoever unpacks it.
const XZ: u32 = 6;

/// A file that is compressed as it is written.
pub enum Compressor {
    /// As it is.
    None(BufWriter<File>),
    /// gzip.
    Gzip(flate2::write::GzEncoder<BufWriter<File>>),
    /// zstd.
    Zstd(zstd::stream::write::Encoder<'static, BufWriter<File>>),
    /// xz or LZMA.
    Xz(liblzma::write::XzEncoder<BufWriter<File>>),
    /// A program, such as bzip2.
    External(External),
}

/// A compressor that is a program.
pub struct External {
    child: Child,
    input: ChildStdin,
}

impl External {
    fn start(program: &str, out: File) -> io::Result<Self> {
        let mut command = tool::command(program);
        command.arg("-c").stdin(Stdio::piped()).stdout(Stdio::from(out));
        let mut child = command.spawn().map_err(|e| io::Error::new(e.kind(), format!("start {program}: {e}")))?;
        let input = child.stdin.take().ok_or_else(|| io::Error::other("no input of the compressor"))?;
        Ok(Self { child, input })
    }

    fn finish(self) -> io::Result<()> {
        let Self { mut child, input } = self;
        drop(input);
        let status = child.wait()?;
        if status.success() { Ok(()) } else { Err(io::Error::other(format!("the compressor failed ({status})"))) }
    }
}

impl Compressor {
    /// Writes to `file`.
    pub fn new(file: File, compression: Compression) -> io::Result<Self> {
        if compression == Compression::Bzip2 {
            return Ok(Self::External(External::start("bzip2", file)?));
        }
        let file = BufWriter::with_capacity(1 << 20, file);
        Ok(match compression {
            Compression::None | Compression::Bzip2 => Self::None(file),
            Compression::Gzip => Self::Gzip(flate2::write::GzEncoder::new(file, flate2::Compression::new(GZIP))),
            Compression::Zstd => Self::Zstd(zstd::stream::write::Encoder::new(file, ZSTD)?),
            Compression::Xz => Self::Xz(liblzma::write::XzEncoder::new(file, XZ)),
            Compression::Lzma => {
                let options = liblzma::stream::LzmaOptions::new_preset(XZ)?;
                let stream = liblzma::stream::Stream::new_lzma_encoder(&options)?;
                Self::Xz(liblzma::write::XzEncoder::new_stream(file, stream))
            }
        })
    }

    /// Writes out what is left.
    pub fn finish(self) -> io::Result<()> {
        let file = match self {
            Self::None(file) => file,
            Self::Gzip(encoder) => encoder.finish()?,
            Self::Zstd(encoder) => encoder.finish()?,
            Self::Xz(encoder) => encoder.finish()?,
            Self::External(program) => return program.finish(),
        };
        file.into_inner().map(drop).map_err(io::IntoInnerError::into_error)
    }
}

impl Write for Compressor {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::None(out) => out.write(bytes),
            Self::Gzip(out) => out.write(bytes),
            Self::Zstd(out) => out.write(bytes),
            Self::Xz(out) => out.write(bytes),
            Self::External(out) => out.input.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::None(out) => out.flush(),
            Self::Gzip(out) => out.flush(),
            Self::Zstd(out) => out.flush(),
            Self::Xz(out) => out.flush(),
            Self::External(out) => out.input.flush(),
        }
    }
}
