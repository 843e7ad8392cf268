//! The common configuration structure: fields by offset, whatever width the guest uses.

use serde::{Deserialize, Serialize};

use super::line::MsixLine;
use crate::virtio::VirtioState;
use crate::virtio::interrupt::Source;

/// Bytes of the structure.
pub const SIZE: u64 = 0x38;

/// Selectors of the structure.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Common {
    device_page: u32,
    driver_page: u32,
    queue: u16,
}

impl Common {
    /// Back to the state after power-on.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// Start and width of the field that holds `offset`.
    fn field(offset: u64) -> (u64, usize) {
        match offset {
            0x00..0x10 | 0x20..0x38 => (offset & !3, 4),
            0x14 | 0x15 => (offset, 1),
            _ => (offset & !1, 2),
        }
    }

    /// Reads `data.len()` bytes at `offset`, across fields if need be.
    pub fn read(&self, state: &VirtioState, line: &MsixLine, offset: u64, data: &mut [u8]) {
        let mut known: Option<(u64, [u8; 4])> = None;
        for (at, byte) in (offset..).zip(data) {
            if at >= SIZE {
                *byte = 0;
                continue;
            }
            let (start, _) = Self::field(at);
            let value = match known {
                Some((field, value)) if field == start => value,
                _ => self.get(state, line, start).to_le_bytes(),
            };
            known = Some((start, value));
            *byte = value[(at - start) as usize];
        }
    }

    /// Writes `data` at `offset`; a field of which only a part is written keeps the rest.
    pub fn write(&mut self, state: &mut VirtioState, line: &MsixLine, offset: u64, data: &[u8]) {
        let mut rest = data;
        let mut at = offset;
        while at < SIZE && !rest.is_empty() {
            let (start, width) = Self::field(at);
            let skip = (at - start) as usize;
            let count = rest.len().min(width - skip);
            let mut value = if count == width { [0; 4] } else { self.get(state, line, start).to_le_bytes() };
            value[skip..skip + count].copy_from_slice(&rest[..count]);
            self.set(state, line, start, u32::from_le_bytes(value));
            rest = &rest[count..];
            at += count as u64;
        }
    }

    fn get(&self, state: &VirtioState, line: &MsixLine, field: u64) -> u32 {
        let queue = state.queue(self.queue);
        let address = |value: u64| if field & 4 == 0 { value as u32 } else { (value >> 32) as u32 };
        match field {
            0x00 => self.device_page,
            0x04 => state.device_features(self.device_page),
            0x08 => self.driver_page,
            0x0c => state.driver_features(self.driver_page),
            0x10 => line.vector(Source::Config).into(),
            0x12 => state.queue_count().into(),
            0x14 => state.status().into(),
            0x15 => state.config_generation().into(),
            0x16 => self.queue.into(),
            0x18 => queue.map_or(0, |queue| queue.size).into(),
            0x1a => line.vector(Source::Queue(self.queue)).into(),
            0x1c => queue.is_some_and(|queue| queue.enabled).into(),
            0x1e => self.queue.into(),
            0x20 | 0x24 => queue.map_or(0, |queue| address(queue.descriptors)),
            0x28 | 0x2c => queue.map_or(0, |queue| address(queue.available)),
            0x30 | 0x34 => queue.map_or(0, |queue| address(queue.used)),
            _ => 0,
        }
    }

    fn set(&mut self, state: &mut VirtioState, line: &MsixLine, field: u64, value: u32) {
        match field {
            0x00 => self.device_page = value,
            0x08 => self.driver_page = value,
            0x0c => state.set_driver_features(self.driver_page, value),
            0x10 => line.set_vector(Source::Config, value as u16),
            0x14 => state.set_status(value as u8),
            0x16 => self.queue = value as u16,
            0x1a if self.queue < state.queue_count() => line.set_vector(Source::Queue(self.queue), value as u16),
            0x18 | 0x1c | 0x20..0x38 => self.set_queue(state, field, value),
            _ => {}
        }
    }

    fn set_queue(&self, state: &mut VirtioState, field: u64, value: u32) {
        let Some(queue) = state.queue_mut(self.queue) else { return };
        let put = |address: &mut u64| {
            let shift = if field & 4 == 0 { 0 } else { 32 };
            *address = *address & !(0xffff_ffff << shift) | u64::from(value) << shift;
        };
        match field {
            0x18 => queue.size = value as u16,
            0x1c => queue.enabled = value as u16 == 1,
            0x20 | 0x24 => put(&mut queue.descriptors),
            0x28 | 0x2c => put(&mut queue.available),
            0x30 | 0x34 => put(&mut queue.used),
            _ => {}
        }
    }
}
