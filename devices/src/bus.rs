//! What a machine puts on its port and memory buses.

use crate::saved::{Sections, StateError};

/// A device that answers accesses of the guest's processors.
///
/// Called by a vCPU thread with the bus's lock held, so an implementation must not wait for anything. `offset` counts
/// from the start of the range the device was given. `data` has 1, 2, 4 or 8 bytes in guest (little endian) order;
/// other lengths must be survived. A read that means nothing fills `data` with ones, as an empty bus would.
pub trait BusDevice: Send {
    /// The guest reads at `offset`; fill all of `data`.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// The guest writes `data` at `offset`.
    fn write(&mut self, offset: u64, data: &[u8]);
    /// Adds the device's state; no CPU of the guest runs. Most devices have none.
    fn save(&self, sections: &mut Sections) -> Result<(), StateError>;
    /// Takes the state of the same device of another process out, before any CPU runs.
    fn restore(&mut self, sections: &mut Sections) -> Result<(), StateError>;
}
