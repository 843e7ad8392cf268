//! The ELF kernel inside a bzImage (Documentation/arch/x86/boot.rst of Linux).

use std::io::{self, Read};

use crate::unpack::decode::{self, Format};

/// Largest kernel, unpacked.
pub const KERNEL_MAX: u64 = 512 << 20;

const LZ4_LEGACY: u32 = 0x184c_2102;
/// A block of the legacy LZ4 format unpacks to at most this.
const LZ4_BLOCK: usize = 8 << 20;

/// Why a kernel cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Not a bzImage, or one that contradicts itself.
    #[error("not a valid bzImage: {0}")]
    Malformed(&'static str),
    /// Compressed in a way this build cannot undo.
    #[error("the kernel is compressed in a way Berth cannot undo")]
    Compression,
    /// Damaged data.
    #[error("the kernel cannot be decompressed: {0}")]
    Damaged(#[from] io::Error),
}

fn u16_at(data: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(data.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(data.get(at..at + 4)?.try_into().ok()?))
}

/// Whether `data` is an ELF file.
pub fn is_elf(data: &[u8]) -> bool {
    data.starts_with(b"\x7fELF")
}

/// Whether `data` is a bzImage new enough to tell where its payload is.
pub fn is_bzimage(data: &[u8]) -> bool {
    data.get(0x202..0x206) == Some(b"HdrS") && u16_at(data, 0x206).is_some_and(|version| version >= 0x208)
}

/// The release a bzImage says it is, e.g. `6.1.0-9-amd64`.
pub fn release(data: &[u8]) -> Option<String> {
    if !is_bzimage(data) {
        return None;
    }
    let at = usize::from(u16_at(data, 0x20e).filter(|&at| at != 0)?) + 0x200;
    let text = data.get(at..)?.iter().take(256).take_while(|&&b| b != 0).copied().collect();
    let word = String::from_utf8(text).ok()?.split_whitespace().next()?.to_owned();
    usable_release(&word).then_some(word)
}

/// Whether `release` can be a directory name below `/lib/modules`.
pub fn usable_release(release: &str) -> bool {
    !release.is_empty()
        && release.len() <= 128
        && !release.starts_with('.')
        && release.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+~".contains(&b))
}

fn payload(data: &[u8]) -> Result<&[u8], KernelError> {
    if !is_bzimage(data) {
        return Err(KernelError::Malformed("no boot header of version 2.08 or later"));
    }
    let cut = KernelError::Malformed("cut short");
    let sectors = match data.get(0x1f1) {
        Some(0) => 4,
        Some(&n) => usize::from(n),
        None => return Err(cut),
    };
    let (Some(offset), Some(length)) = (u32_at(data, 0x248), u32_at(data, 0x24c)) else { return Err(cut) };
    let start = (sectors + 1) * 512 + offset as usize;
    data.get(start..).and_then(|rest| rest.get(..length as usize)).ok_or(KernelError::Malformed("payload out of file"))
}

/// Unpacks the ELF kernel.
pub fn extract(data: &[u8]) -> Result<Vec<u8>, KernelError> {
    let payload = payload(data)?;
    let kernel = decompress(payload, KERNEL_MAX)?;
    if is_elf(&kernel) { Ok(kernel) } else { Err(KernelError::Malformed("the payload is no ELF kernel")) }
}

/// Decompresses a kernel's payload, which is followed by its size in four bytes.
pub fn decompress(payload: &[u8], cap: u64) -> Result<Vec<u8>, KernelError> {
    if u32_at(payload, 0) == Some(LZ4_LEGACY) {
        return lz4(&payload[4..], cap);
    }
    let mut reader: Box<dyn Read + '_> = match decode::detect(payload) {
        Format::Gzip => Box::new(flate2::bufread::GzDecoder::new(payload)),
        Format::Xz => Box::new(liblzma::bufread::XzDecoder::new(payload)),
        Format::Lzma => {
            let stream = liblzma::stream::Stream::new_lzma_decoder(256 << 20).map_err(io::Error::from)?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(payload, stream))
        }
        Format::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(payload)?.single_frame()),
        Format::Plain if is_elf(payload) => Box::new(payload),
        _ => return Err(KernelError::Compression),
    };
    let mut out = Vec::new();
    reader.by_ref().take(cap + 1).read_to_end(&mut out)?;
    within(out, cap)
}

fn within(out: Vec<u8>, cap: u64) -> Result<Vec<u8>, KernelError> {
    if out.len() as u64 > cap { Err(KernelError::Malformed("unpacks to more than 512 MiB")) } else { Ok(out) }
}

fn lz4(mut data: &[u8], cap: u64) -> Result<Vec<u8>, KernelError> {
    let mut out = Vec::new();
    let mut block = vec![0; LZ4_BLOCK];
    while let Some(size) = u32_at(data, 0) {
        let size = size as usize;
        // Another magic begins a concatenated frame; the last four bytes are the kernel's size.
        if size == LZ4_LEGACY as usize {
            data = &data[4..];
            continue;
        }
        let Some(compressed) = data[4..].get(..size).filter(|_| size > 0) else { break };
        let count = lz4_flex::block::decompress_into(compressed, &mut block)
            .map_err(|e| KernelError::Damaged(io::Error::new(io::ErrorKind::InvalidData, e)))?;
        out.extend_from_slice(&block[..count]);
        out = within(out, cap)?;
        data = &data[4 + size..];
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn elf(size: usize) -> Vec<u8> {
        let mut data = b"\x7fELF".to_vec();
        data.extend((0..size as u32).flat_map(|n| (n / 7).wrapping_mul(2_654_435_761).to_le_bytes()));
        data
    }

    fn image(compressed: &[u8], size: usize, append: bool) -> Vec<u8> {
        let mut payload = compressed.to_vec();
        if append {
            payload.extend((size as u32).to_le_bytes());
        }
        let mut image = vec![0; 5 * 512 + 100];
        image[0x1f1] = 4;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
        image[0x20e..0x210].copy_from_slice(&0x100u16.to_le_bytes());
        image[0x300..0x310].copy_from_slice(b"6.1.0-1-x (a@b)\0");
        image[0x248..0x24c].copy_from_slice(&100u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.extend(payload);
        image.extend([0xaa; 32]);
        image
    }

    fn lz4_legacy(data: &[u8]) -> Vec<u8> {
        let mut out = LZ4_LEGACY.to_le_bytes().to_vec();
        for chunk in data.chunks(LZ4_BLOCK) {
            let block = lz4_flex::block::compress(chunk);
            out.extend((block.len() as u32).to_le_bytes());
            out.extend(block);
        }
        out
    }

    #[test]
    fn every_compression_comes_back() {
        let kernel = elf(1 << 20);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&kernel).expect("gzip");
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&kernel).expect("xz");
        let options = liblzma::stream::LzmaOptions::new_preset(1).expect("preset");
        let lzma = liblzma::stream::Stream::new_lzma_encoder(&options).expect("lzma");
        let mut lzma = liblzma::write::XzEncoder::new_stream(Vec::new(), lzma);
        lzma.write_all(&kernel).expect("lzma");
        for (name, compressed, append) in [
            ("gzip", gzip.finish().expect("gzip"), false),
            ("xz", xz.finish().expect("xz"), true),
            ("lzma", lzma.finish().expect("lzma"), true),
            ("zstd", zstd::encode_all(&kernel[..], 1).expect("zstd"), true),
            ("lz4", lz4_legacy(&kernel), true),
            ("none", kernel.clone(), false),
        ] {
            let image = image(&compressed, kernel.len(), append);
            assert!(extract(&image).unwrap_or_else(|e| panic!("{name}: {e}")) == kernel, "{name}");
            assert_eq!(release(&image).as_deref(), Some("6.1.0-1-x"));
        }
    }

    #[test]
    fn bombs_stop_at_the_cap() {
        let bomb = zstd::encode_all(io::repeat(0).take(64 << 20), 1).expect("zstd");
        assert!(matches!(decompress(&bomb, 1 << 20), Err(KernelError::Malformed(_))));
        assert!(matches!(decompress(&lz4_legacy(&vec![0; 32 << 20]), 9 << 20), Err(KernelError::Malformed(_))));
    }

    #[test]
    fn unknown_compression_is_told_apart() {
        assert!(matches!(extract(&image(b"\x89LZO....", 9, true)), Err(KernelError::Compression)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(mut data in proptest::collection::vec(any::<u8>(), 0x260..0x1000), header: bool) {
            if header {
                data[0x202..0x206].copy_from_slice(b"HdrS");
                data[0x207] = 2;
            }
            let _ = extract(&data);
            let _ = release(&data);
        }

        #[test]
        fn any_payload_is_survived(kind in 0usize..5, tail in proptest::collection::vec(any::<u8>(), 0..500)) {
            let magic: &[u8] = [&b"\x02\x21\x4c\x18"[..], b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0", b"\x1f\x8b", b"\x5d\0\0\x80"][kind];
            let _ = decompress(&[magic, &tail].concat(), 1 << 20);
        }
    }
}
