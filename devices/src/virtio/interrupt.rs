//! Raising interrupts from a device's thread.

/// Raises the vector of one queue, or the configuration vector. Cheap to clone; usable from any thread.
#[derive(Clone)]
pub struct Interrupt {}
