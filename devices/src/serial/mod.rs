//! A 16550 serial port.

mod device;
mod saved;
#[cfg(test)]
mod tests;

pub use device::Serial;
