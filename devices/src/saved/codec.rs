//! Sections as bytes.

use std::io::{Read, Write};

use sha2::{Digest, Sha256};

use super::{Section, Sections, StateError};

/// First bytes of a saved state.
const MAGIC: &[u8; 8] = b"BERTHVMS";
/// Form of everything but the payloads.
const FORMAT: u32 = 1;
/// Most bytes of a whole state. A machine of 254 CPUs has about 8 MiB.
const MAX_SIZE: usize = 64 << 20;
/// Most sections: CPUs, devices with two each, and a few more.
const MAX_SECTIONS: usize = 4096;
/// Most bytes of one payload.
const MAX_PAYLOAD: usize = 4 << 20;
/// Bytes of the checksum at the end.
const DIGEST: usize = 32;

impl Sections {
    /// Writes all sections.
    pub fn write(&self, mut out: impl Write) -> Result<(), StateError> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&(self.0.len() as u32).to_le_bytes());
        for Section { kind, name, version, payload } in &self.0 {
            for text in [kind, name] {
                let len = u8::try_from(text.len()).map_err(|_| StateError::Damaged("a name is too long"))?;
                bytes.push(len);
                bytes.extend_from_slice(text.as_bytes());
            }
            bytes.extend_from_slice(&version.to_le_bytes());
            bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
            bytes.extend_from_slice(payload);
        }
        let digest = Sha256::digest(&bytes);
        bytes.extend_from_slice(&digest);
        Ok(out.write_all(&bytes)?)
    }

    /// Reads all sections; nothing of them is believed before the checksum is right.
    pub fn read(input: impl Read) -> Result<Self, StateError> {
        let mut bytes = Vec::new();
        input.take(MAX_SIZE as u64 + 1).read_to_end(&mut bytes)?;
        if !bytes.starts_with(MAGIC) {
            return Err(StateError::Foreign);
        }
        if bytes.len() > MAX_SIZE {
            return Err(StateError::Damaged("it is too long"));
        }
        let mut cursor = Cursor(&bytes[MAGIC.len()..]);
        match cursor.number()? {
            FORMAT => {}
            other => return Err(StateError::Format(other)),
        }
        let (body, digest) = bytes.split_at(bytes.len().saturating_sub(DIGEST));
        if Sha256::digest(body)[..] != *digest {
            return Err(StateError::Damaged("its checksum is wrong"));
        }
        let mut cursor = Cursor(body.get(MAGIC.len() + 4..).unwrap_or_default());
        let count = cursor.number()? as usize;
        if count > MAX_SECTIONS {
            return Err(StateError::Damaged("it has too many sections"));
        }
        let sections = (0..count).map(|_| cursor.section()).collect::<Result<_, _>>()?;
        if cursor.0.is_empty() { Ok(Self(sections)) } else { Err(StateError::Damaged("something follows its end")) }
    }
}

/// What is left to be read.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn bytes(&mut self, len: usize) -> Result<&'a [u8], StateError> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(StateError::Damaged("it is cut off"))?;
        self.0 = rest;
        Ok(head)
    }

    fn number(&mut self) -> Result<u32, StateError> {
        let bytes = self.bytes(4)?;
        Ok(u32::from_le_bytes(bytes.try_into().unwrap_or_default()))
    }

    fn text(&mut self) -> Result<String, StateError> {
        let len = self.bytes(1)?[0];
        let bytes = self.bytes(len.into())?;
        String::from_utf8(bytes.to_vec()).map_err(|_| StateError::Damaged("a name is no text"))
    }

    fn section(&mut self) -> Result<Section, StateError> {
        let (kind, name) = (self.text()?, self.text()?);
        let version = self.number()?;
        let len = self.number()? as usize;
        if len > MAX_PAYLOAD {
            return Err(StateError::Damaged("a section is too long"));
        }
        Ok(Section { kind, name, version, payload: self.bytes(len)?.to_vec() })
    }
}
