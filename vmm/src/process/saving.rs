//! Saving a machine while its process goes on serving.

use std::fs::File;
use std::os::fd::OwnedFd;

use super::connections::Id;
use crate::machine::Guest;
use crate::state::SaveError;
use crate::state::ram::{RamId, RamWriter};

/// A save that is under way, or done and waits for what its connection says.
pub struct Saving {
    /// Who asked.
    pub connection: Id,
    /// Some until all is written.
    writer: Option<RamWriter>,
}

impl Saving {
    /// Writes everything but the RAM of a paused machine.
    pub fn begin(guest: &mut impl Guest, connection: Id, state: OwnedFd, ram: OwnedFd) -> Result<Self, SaveError> {
        let id = RamId::draw().map_err(SaveError::Ram)?;
        guest.save(id)?.write(File::from(state))?;
        Ok(Self { connection, writer: Some(RamWriter::new(guest.memory(), ram.into(), id)?) })
    }

    /// Whether there is more to write.
    pub fn writing(&self) -> bool {
        self.writer.is_some()
    }

    /// Writes the next piece; true when that was the last.
    pub fn step(&mut self) -> Result<bool, SaveError> {
        let Some(writer) = &mut self.writer else { return Ok(false) };
        let done = writer.step()?;
        if done {
            self.writer = None;
        }
        Ok(done)
    }
}
