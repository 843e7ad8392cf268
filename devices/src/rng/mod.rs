//! virtio-rng fed by the host's getrandom.

mod device;
#[cfg(test)]
mod tests;

pub use device::Rng;
