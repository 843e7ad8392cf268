//! MSI-X: the table and pending bits that live in a BAR, and the seam to the interrupt controller.

use std::io;

use serde::{Deserialize, Serialize};
use tracing::warn;
use vmm_sys_util::eventfd::EventFd;

use crate::limit::Warnings;

/// Capability id of MSI-X.
pub const CAPABILITY_ID: u8 = 0x11;
/// Bytes of a table entry.
pub const ENTRY_SIZE: usize = 16;
/// Most vectors of a function.
pub const MAX_VECTORS: u16 = 2048;

const CONTROL_ENABLE: u16 = 1 << 15;
const CONTROL_MASK: u16 = 1 << 14;
const ENTRY_MASKED: u8 = 1;

/// What a device writes to raise an interrupt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MsiMessage {
    /// Guest physical address (of a local APIC).
    pub address: u64,
    /// Value written there.
    pub data: u32,
}

/// The machine's side of one device's MSI-X vectors.
///
/// The eventfd of a vector exists for the life of the backend; a device thread writes it to raise the interrupt, at
/// any time. While a vector is masked the eventfd must *not* be connected (KVM: de-assigned irqfd), so that a raised
/// interrupt stays in its counter, where the pending bits are read from and from where KVM delivers it on unmasking.
/// All vectors start masked.
pub trait MsixBackend: Send {
    /// Sets what vector `vector` sends, and whether it may. Called on a vCPU thread when the guest changes the table,
    /// the function mask or the enable bit; not called for changes of a message while the vector stays masked.
    fn set_vector(&mut self, vector: u16, message: MsiMessage, masked: bool) -> io::Result<()>;
    /// The eventfd that raises `vector`.
    fn irqfd(&self, vector: u16) -> &EventFd;
}

/// What outlives the process of a function's MSI-X. The control word is in its configuration space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedMsix {
    table: Vec<[u8; ENTRY_SIZE]>,
    pending: Vec<u16>,
}

/// MSI-X state of one function.
pub struct Msix {
    backend: Box<dyn MsixBackend>,
    /// The table as the guest sees it.
    table: Vec<[u8; ENTRY_SIZE]>,
    /// What the backend was told last; `None` is masked.
    sent: Vec<Option<MsiMessage>>,
    enabled: bool,
    masked: bool,
    warnings: Warnings,
}

impl Msix {
    /// `count` vectors, all masked, MSI-X off.
    pub fn new(backend: Box<dyn MsixBackend>, count: u16) -> Self {
        let mut entry = [0; ENTRY_SIZE];
        entry[12] = ENTRY_MASKED;
        let count = usize::from(count.clamp(1, MAX_VECTORS));
        let (table, sent) = (vec![entry; count], vec![None; count]);
        Self { backend, table, sent, enabled: false, masked: false, warnings: Warnings::default() }
    }

    /// Body of the capability for a table and pending bits at these offsets of BAR `bar`, and its write mask.
    pub fn capability(&self, bar: u8, table: u32, pending: u32) -> ([u8; 10], [u8; 2]) {
        let mut body = [0; 10];
        body[..2].copy_from_slice(&(self.table.len() as u16 - 1).to_le_bytes());
        body[2..6].copy_from_slice(&(table | u32::from(bar)).to_le_bytes());
        body[6..].copy_from_slice(&(pending | u32::from(bar)).to_le_bytes());
        (body, (CONTROL_ENABLE | CONTROL_MASK).to_le_bytes())
    }

    /// Number of vectors.
    pub fn vectors(&self) -> u16 {
        self.table.len() as u16
    }

    /// Whether the guest switched MSI-X on.
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    /// The eventfd that raises `vector`.
    pub fn irqfd(&self, vector: u16) -> &EventFd {
        self.backend.irqfd(vector)
    }

    /// The guest wrote the control word of the capability.
    pub fn set_control(&mut self, control: u16) {
        self.enabled = control & CONTROL_ENABLE != 0;
        self.masked = control & CONTROL_MASK != 0;
        for vector in 0..self.table.len() {
            self.update(vector);
        }
    }

    fn update(&mut self, vector: usize) {
        let entry = &self.table[vector];
        let open = self.enabled && !self.masked && entry[12] & ENTRY_MASKED == 0;
        let message = MsiMessage {
            address: u64::from_le_bytes(entry[..8].try_into().unwrap_or_default()),
            data: u32::from_le_bytes(entry[8..12].try_into().unwrap_or_default()),
        };
        let wanted = open.then_some(message);
        if self.sent[vector] == wanted {
            return;
        }
        self.sent[vector] = wanted;
        if let Err(error) = self.backend.set_vector(vector as u16, message, !open)
            && self.warnings.allowed()
        {
            warn!(vector, %error, "interrupt vector of the guest cannot be set; its device may stall");
        }
    }

    /// Reads the table.
    pub fn table_read(&self, offset: u64, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            let entry = usize::try_from(at / ENTRY_SIZE as u64).ok().and_then(|index| self.table.get(index));
            *byte = entry.map_or(0, |entry| entry[at as usize % ENTRY_SIZE]);
        }
    }

    /// Writes the table.
    pub fn table_write(&mut self, offset: u64, data: &[u8]) {
        let end = (self.table.len() * ENTRY_SIZE) as u64;
        let mut changed = None;
        for (at, byte) in (offset..end).zip(data) {
            let index = at as usize / ENTRY_SIZE;
            // An access crosses at most into the next entry.
            if changed.is_some_and(|changed| changed != index) {
                self.update(index - 1);
            }
            self.table[index][at as usize % ENTRY_SIZE] = *byte;
            changed = Some(index);
        }
        if let Some(index) = changed {
            self.update(index);
        }
    }

    /// The table, and which of its masked vectors are pending.
    pub fn saved(&self) -> SavedMsix {
        let pending = (0..self.table.len()).filter(|vector| self.pending(*vector)).map(|vector| vector as u16);
        SavedMsix { table: self.table.clone(), pending: pending.collect() }
    }

    /// Takes the table over while MSI-X is off; false if another function wrote it. Call
    /// [`set_control`](Self::set_control) next.
    pub fn restore(&mut self, saved: &SavedMsix) -> bool {
        let fits = saved.table.len() == self.table.len()
            && saved.pending.iter().all(|vector| usize::from(*vector) < self.table.len());
        if fits {
            self.table.clone_from(&saved.table);
            for vector in &saved.pending {
                // A new counter is not full.
                let _ = self.irqfd(*vector).write(1);
            }
        }
        fits
    }

    /// Reads the pending bits: a masked vector is pending while its eventfd was written but not delivered.
    pub fn pending_read(&self, offset: u64, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            let first = usize::try_from(at).unwrap_or(usize::MAX).saturating_mul(8);
            *byte = (0..8).filter(|bit| self.pending(first.saturating_add(*bit))).fold(0, |bits, bit| bits | 1 << bit);
        }
    }

    fn pending(&self, vector: usize) -> bool {
        self.sent.get(vector).is_some_and(Option::is_none) && readable(self.backend.irqfd(vector as u16))
    }
}

fn readable(fd: &EventFd) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let fd = crate::worker::event_fd(fd);
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&now)), Ok(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_utils::FakeMsix;

    #[test]
    fn vectors_are_told_when_opened_and_closed() {
        let (backend, log) = FakeMsix::new(3);
        let mut msix = Msix::new(backend, 3);
        msix.table_write(16, &0xfee0_0000u64.to_le_bytes());
        msix.table_write(24, &0x41u32.to_le_bytes());
        msix.table_write(28, &0u32.to_le_bytes());
        assert!(log.take().is_empty(), "nothing is told while MSI-X is off");
        msix.set_control(0x8000);
        let message = MsiMessage { address: 0xfee0_0000, data: 0x41 };
        assert_eq!(log.take(), [(1, message, false)]);
        msix.set_control(0xc000);
        assert_eq!(log.take(), [(1, message, true)]);
        msix.set_control(0x8000);
        msix.table_write(24, &0x42u32.to_le_bytes());
        assert_eq!(log.take().last(), Some(&(1, MsiMessage { data: 0x42, ..message }, false)));
    }

    #[test]
    fn pending_bits_show_what_was_raised_while_masked() {
        let (backend, _log) = FakeMsix::new(10);
        let mut msix = Msix::new(backend, 10);
        msix.irqfd(9).write(1).unwrap();
        let mut bits = [0; 8];
        msix.pending_read(0, &mut bits);
        assert_eq!(u64::from_le_bytes(bits), 1 << 9);
        msix.table_write(9 * 16 + 12, &[0]);
        msix.set_control(0x8000);
        msix.pending_read(0, &mut bits);
        assert_eq!(bits, [0; 8]);
    }

    #[test]
    fn accesses_outside_of_the_table_are_survived() {
        let (backend, _log) = FakeMsix::new(2);
        let mut msix = Msix::new(backend, 2);
        let mut data = [1; 8];
        for offset in [28, 29, 31, 32, 4095, u64::MAX - 9] {
            msix.table_write(offset, &[0xff; 8]);
            msix.table_read(offset, &mut data);
            msix.pending_read(offset, &mut data);
        }
    }
}
