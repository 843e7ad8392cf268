//! Which compression a file has, told by its first bytes, and how it is undone.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

/// What the first bytes tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A squashfs filesystem.
    Squashfs,
    /// A qcow2 disk image.
    Qcow2,
    /// gzip.
    Gzip,
    /// xz.
    Xz,
    /// The older LZMA format.
    Lzma,
    /// zstd.
    Zstd,
    /// bzip2.
    Bzip2,
    /// Neither of these: maybe a plain tar archive.
    Plain,
}

/// Memory xz may use to decompress; level 9 needs 65 MiB.
const XZ_MEMORY: u64 = 256 << 20;
/// Largest zstd window (as a power of two); level 22 with `--ultra` needs 27.
const ZSTD_WINDOW_LOG: u32 = 27;

/// Tells the format from the beginning of a file.
pub fn detect(head: &[u8]) -> Format {
    match head {
        [b'h', b's', b'q', b's', ..] => Format::Squashfs,
        [b'Q', b'F', b'I', 0xfb, ..] => Format::Qcow2,
        [0x1f, 0x8b, ..] => Format::Gzip,
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Format::Xz,
        [0x5d, 0, 0, _, ..] => Format::Lzma,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Format::Zstd,
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Format::Bzip2,
        _ => Format::Plain,
    }
}

/// Tells the format of `file`, which is rewound.
pub fn of_file(file: &mut File) -> io::Result<Format> {
    let mut head = Vec::new();
    file.by_ref().take(8).read_to_end(&mut head)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(detect(&head))
}

/// A reader of the decompressed bytes; `None` if the format is no compression this build knows.
pub fn reader<'a>(format: Format, raw: impl Read + 'a) -> io::Result<Option<Box<dyn Read + 'a>>> {
    let raw = BufReader::with_capacity(128 << 10, raw);
    Ok(Some(match format {
        Format::Plain => Box::new(raw),
        Format::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(raw)),
        Format::Xz => {
            let stream = liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY, liblzma::stream::CONCATENATED)?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(raw, stream))
        }
        Format::Lzma => {
            let stream = liblzma::stream::Stream::new_lzma_decoder(XZ_MEMORY)?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(raw, stream))
        }
        Format::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(raw)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
        Format::Bzip2 | Format::Squashfs | Format::Qcow2 => return Ok(None),
    }))
}
