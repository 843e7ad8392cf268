//! A paused machine as saved state, and back: sections of CPUs, interrupt controllers and devices, and the RAM as a file
//! of its own.
//!
//! ```text
//!   save:     CPUs paused ─ devices held ─ sections ─ RAM, pages of zeros left out
//!   restore:  RAM mapped ─ interrupt controllers and clock ─ CPUs ─ devices (held) ─ resume
//! ```

pub mod cpu;
mod exact;
mod host;
pub mod platform;
pub mod ram;
#[cfg(test)]
mod tests;

use berth_devices::saved::{Saved, StateError};
use serde::{Deserialize, Serialize};

pub use exact::Exact;

/// Name of the sections that belong to the machine as a whole.
pub const MACHINE: &str = "machine";

/// What every part of the state depends on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedMachine {
    /// Number of virtual CPUs.
    pub vcpus: u8,
    /// Bytes of RAM.
    pub memory: u64,
    /// Start and length of the window for 64-bit BARs, which firmware tables and BARs in the RAM and devices speak of.
    pub mmio64: (u64, u64),
    /// Identifies the RAM that belongs to the sections.
    pub ram: ram::RamId,
}

impl Saved for SavedMachine {
    const KIND: &'static str = "machine";
    const VERSION: u32 = 1;
}

impl SavedMachine {
    /// Fails if a machine of `now` is not the one that was saved.
    pub fn check(&self, vcpus: u8, memory: u64, mmio64: (u64, u64)) -> Result<(), StateError> {
        StateError::if_changed("number of CPUs (limits.cpu)", &self.vcpus, &vcpus)?;
        StateError::if_changed("memory in bytes (limits.memory)", &self.memory, &memory)?;
        StateError::if_changed("address space for devices", &self.mmio64, &mmio64)
    }
}

/// Why a machine cannot be saved or continued.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// See the message.
    #[error("the machine is at its end and cannot be saved any more")]
    Ended,
    /// The state itself.
    #[error(transparent)]
    State(#[from] StateError),
    /// KVM.
    #[error("KVM refuses to {what} of {name}: {source}; look into the kernel log")]
    Kvm {
        /// What it was asked.
        what: &'static str,
        /// Of what.
        name: String,
        /// Why.
        source: kvm_ioctls::Error,
    },
    /// A register that KVM does not take back.
    #[error(
        "KVM does not take the saved value of model specific register {index:#x} of {name}; the state was saved on a host \
         with another CPU or kernel"
    )]
    Msr {
        /// Of what.
        name: String,
        /// Which.
        index: u32,
    },
    /// A list that cannot be made.
    #[error("a list for KVM cannot be made: {0}")]
    List(#[from] vmm_sys_util::fam::Error),
    /// See the message.
    #[error("the RAM cannot be written or read: {0}")]
    Ram(std::io::Error),
}

/// For `map_err`.
fn kvm(what: &'static str, name: &str) -> impl Fn(kvm_ioctls::Error) -> SaveError {
    move |source| SaveError::Kvm { what, name: name.to_owned(), source }
}
