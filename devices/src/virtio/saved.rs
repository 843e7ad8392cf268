//! The status machine as saved state.

use serde::{Deserialize, Serialize};

use super::interrupt::Source;
use super::state::status;
use super::{QueuePosition, Start, VirtioState};
use crate::saved::{Saved, Sections, StateError};

/// Status, features and queues of a virtio device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedState {
    device_type: u32,
    status: u8,
    generation: u8,
    features: u64,
    queues: Vec<SavedQueue>,
    /// Of all enabled queues if the device was active, else none.
    positions: Vec<QueuePosition>,
}

/// A queue as its driver set it up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedQueue {
    size: u16,
    enabled: bool,
    descriptors: u64,
    available: u64,
    used: u64,
}

impl Saved for SavedState {
    const KIND: &'static str = "virtio";
    const VERSION: u32 = 1;
}

impl SavedState {
    fn active(&self) -> bool {
        self.status & (status::DRIVER_OK | status::NEEDS_RESET) == status::DRIVER_OK
    }

    /// Refuses what no device can have saved.
    fn check(&self, now: &VirtioState) -> Result<(), StateError> {
        let name = now.name();
        StateError::if_changed(&format!("type of device {name}"), &self.device_type, &now.device_type())?;
        StateError::if_changed(&format!("number of queues of {name}"), &self.queues.len(), &now.queues.len())?;
        let missing = self.features & !now.offered;
        if missing != 0 {
            let what = format!("virtio features of {name}");
            let (saved, now) = (format!("{:#x}", self.features), format!("{:#x}", now.offered));
            return Err(StateError::Changed { what, saved, now });
        }
        let nonsense = |reason: &str| Err(StateError::payload::<Self>(name, reason));
        if self.queues.iter().zip(&now.queues).any(|(saved, queue)| saved.size > queue.max_size) {
            return nonsense("a queue is larger than the device allows");
        }
        let enabled = (0u16..).zip(&self.queues).filter(|(_, queue)| queue.enabled).map(|(index, _)| index);
        let expected: Vec<_> = enabled.filter(|_| self.active()).collect();
        if !self.positions.iter().map(|position| position.index).eq(expected) {
            return nonsense("the positions of its queues do not belong to an active device");
        }
        Ok(())
    }
}

impl VirtioState {
    /// Holds the device and adds its state.
    pub fn save(&mut self, sections: &mut Sections) -> Result<(), StateError> {
        let mut positions = self.device.hold();
        positions.sort_by_key(|position| position.index);
        if self.active && positions.is_empty() {
            // A device whose thread is gone cannot say so itself.
            self.status.add(status::NEEDS_RESET);
        }
        let queue = |queue: &super::state::QueueSetup| SavedQueue {
            size: queue.size,
            enabled: queue.enabled,
            descriptors: queue.descriptors,
            available: queue.available,
            used: queue.used,
        };
        let state = SavedState {
            device_type: self.device_type(),
            // Read after the device is held: what breaks it last is in it.
            status: self.status.get(),
            generation: self.status.generation(),
            features: self.accepted,
            queues: self.queues.iter().map(queue).collect(),
            positions,
        };
        sections.add(self.name(), &state)?;
        self.device.save(&self.name, sections)
    }

    /// Takes the state out and continues it, on a device that was never active. The device is held.
    pub fn restore(&mut self, sections: &mut Sections) -> Result<(), StateError> {
        let state: SavedState = sections.take(&self.name)?;
        state.check(self)?;
        self.device.hold();
        self.device.restore(&self.name, sections)?;
        self.accepted = state.features;
        for (queue, saved) in self.queues.iter_mut().zip(&state.queues) {
            (queue.size, queue.enabled) = (saved.size, saved.enabled);
            (queue.descriptors, queue.available, queue.used) = (saved.descriptors, saved.available, saved.used);
        }
        self.status.set(state.status, state.generation);
        if !state.active() {
            return Ok(());
        }
        self.hand_over(Start::Restored, &state.positions)
            .map_err(|reason| StateError::payload::<SavedState>(&self.name, reason))?;
        self.active = true;
        self.wake_both_ends();
        Ok(())
    }

    /// Notifications and interrupts that were under way are lost: both ends look for work that there may be.
    fn wake_both_ends(&self) {
        for (index, queue) in (0u16..).zip(&self.queues).filter(|(_, queue)| queue.enabled) {
            // The counter is new and cannot be full.
            let _ = queue.kick().write(1);
            self.line.raise(Source::Queue(index));
        }
        // The driver reads the configuration again: a size or a link may have changed.
        self.line.raise(Source::Config);
    }

    /// Lets a held device go on.
    pub fn resume(&mut self) {
        self.device.resume();
    }
}
