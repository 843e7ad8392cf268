//! Compressing what is written.

use std::fs::File;
use std::io::{self, BufWriter, Write};

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
}

impl Compression {
    /// By the name that clients know; no name is LXD's default.
    pub fn parse(name: &str) -> Result<Self, String> {
        match name {
            "" | "gzip" => Ok(Self::Gzip),
            "none" => Ok(Self::None),
            "zstd" => Ok(Self::Zstd),
            "xz" => Ok(Self::Xz),
            other => {
                Err(format!("compression \"{}\" is not supported; use none, gzip, zstd or xz", other.escape_debug()))
            }
        }
    }

    /// As the helper takes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Xz => "xz",
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
    /// xz.
    Xz(liblzma::write::XzEncoder<BufWriter<File>>),
}

impl Compressor {
    /// Writes to `file`.
    pub fn new(file: File, compression: Compression) -> io::Result<Self> {
        let file = BufWriter::with_capacity(1 << 20, file);
        Ok(match compression {
            Compression::None => Self::None(file),
            Compression::Gzip => Self::Gzip(flate2::write::GzEncoder::new(file, flate2::Compression::new(GZIP))),
            Compression::Zstd => Self::Zstd(zstd::stream::write::Encoder::new(file, ZSTD)?),
            Compression::Xz => Self::Xz(liblzma::write::XzEncoder::new(file, XZ)),
        })
    }

    /// Writes out what is left.
    pub fn finish(self) -> io::Result<()> {
        let file = match self {
            Self::None(file) => file,
            Self::Gzip(encoder) => encoder.finish()?,
            Self::Zstd(encoder) => encoder.finish()?,
            Self::Xz(encoder) => encoder.finish()?,
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
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::None(out) => out.flush(),
            Self::Gzip(out) => out.flush(),
            Self::Zstd(out) => out.flush(),
            Self::Xz(out) => out.flush(),
        }
    }
}
