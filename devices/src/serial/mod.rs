//! A 16550 serial port.

mod device;
#[cfg(test)]
mod tests;

pub use device::Serial;
