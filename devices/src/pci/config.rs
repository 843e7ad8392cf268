//! Type 0 configuration space.

/// A memory BAR that needs a place. All of Berth's BARs are 64-bit, non-prefetchable memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BarRequest {
    /// Index of its first register, 0..=4.
    pub index: u8,
    /// Size in bytes, a power of two of at least 4096; also its alignment.
    pub size: u64,
}

/// What a function is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Vendor.
    pub vendor: u16,
    /// Device.
    pub device: u16,
    /// Revision.
    pub revision: u8,
    /// Class, subclass and programming interface: `0xccsspp`.
    pub class: u32,
    /// Subsystem vendor.
    pub subsystem_vendor: u16,
    /// Subsystem device.
    pub subsystem: u16,
}

/// Registers of a type 0 function.
pub struct ConfigSpace {}
