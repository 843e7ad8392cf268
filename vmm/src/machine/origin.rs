//! What a machine begins with: a kernel, or the state another one was saved in.

use std::fs::File;
use std::io;

use berth_devices::saved::{Sections, StateError};
use kvm_bindings::CpuId;
use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::EventFd;

use super::BuildError;
use crate::acpi::{self, Platform};
use crate::boot::{self, Payload};
use crate::bus::Buses;
use crate::cpu::registers::{self, Entry};
use crate::kvm;
use crate::kvm::vcpu::Vcpu;
use crate::memory::{self, Memory};
use crate::seccomp;
use crate::state::{MACHINE, SaveError, SavedMachine, cpu, platform, ram};

/// What a machine begins with.
pub enum Origin {
    /// A kernel.
    Boot(Boot),
    /// A saved state.
    Saved(SavedFiles),
}

/// A kernel and what belongs to it.
pub struct Boot {
    /// ELF kernel with PVH note, or bzImage.
    pub kernel: File,
    /// In order.
    pub initrds: Vec<File>,
    /// Kernel command line.
    pub cmdline: String,
}

/// A saved state.
pub struct SavedFiles {
    /// Sections.
    pub state: File,
    /// RAM.
    pub ram: File,
}

/// What a saved state and the machine that continues it must agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Number of virtual CPUs.
    pub vcpus: u8,
    /// Bytes of RAM.
    pub memory: u64,
    /// Start and length of the window for 64-bit BARs.
    pub mmio64: (u64, u64),
}

/// A machine that is being built from its origin.
pub(super) enum Begun {
    Boot(Boot),
    Saved { sections: Sections, ram: File },
}

impl Origin {
    /// Looks into it; refuses a state that does not belong to a machine of that `shape`.
    pub(super) fn open(self, shape: &Shape) -> Result<Begun, BuildError> {
        match self {
            Self::Boot(boot) => Ok(Begun::Boot(boot)),
            Self::Saved(SavedFiles { state, ram }) => Ok(open_saved(shape, state, ram).map_err(SaveError::State)?),
        }
    }
}

fn open_saved(shape: &Shape, state: File, ram: File) -> Result<Begun, StateError> {
    let mut sections = Sections::read(state)?;
    let machine: SavedMachine = sections.take(MACHINE)?;
    machine.check(shape.vcpus, shape.memory, shape.mmio64)?;
    ram::check(&ram, shape.memory, machine.ram)?;
    Ok(Begun::Saved { sections, ram })
}

impl Begun {
    /// The RAM: empty, or that of the state.
    pub(super) fn memory(&self, shape: &Shape) -> Result<Memory, BuildError> {
        Ok(match self {
            Self::Boot(_) => memory::allocate(shape.memory)?,
            Self::Saved { ram, .. } => memory::map_file(shape.memory, ram)?,
        })
    }

    /// Sets CPUs and what they need first up. `features` are those of each CPU on this host.
    pub(super) fn set_up(
        &mut self,
        shape: &Shape,
        vm: &VmFd,
        memory: &Memory,
        vcpus: &mut [Vcpu],
        features: Vec<CpuId>,
    ) -> Result<(), BuildError> {
        match self {
            Self::Boot(kernel) => {
                for (vcpu, features) in vcpus.iter_mut().zip(features) {
                    vcpu.set_features(&features).map_err(kvm::refused("set the features of a virtual CPU"))?;
                    registers::set_common(vcpu.fd())?;
                }
                load(shape, memory, vcpus, kernel)
            }
            Self::Saved { sections, .. } => {
                // Interrupt controllers first: a local APIC refers to them.
                platform::restore(vm, sections)?;
                for ((id, vcpu), features) in (0u8..).zip(vcpus).zip(features) {
                    cpu::restore(id, vcpu, &features, sections)?;
                }
                Ok(())
            }
        }
    }

    /// Sets the devices up, which stay held until the machine goes on, and tells the guest that it is another one.
    pub(super) fn set_up_devices(self, buses: &Buses, generation: &EventFd) -> Result<(), BuildError> {
        let Self::Saved { mut sections, .. } = self else { return Ok(()) };
        buses.restore(&mut sections).map_err(SaveError::State)?;
        sections.finish().map_err(SaveError::State)?;
        Ok(generation.write(1)?)
    }
}

/// Puts firmware tables and kernel into the RAM, and the first CPU at the kernel's entry.
fn load(shape: &Shape, memory: &Memory, vcpus: &[Vcpu], kernel: &mut Boot) -> Result<(), BuildError> {
    let rsdp = acpi::write(memory, &Platform { vcpus: shape.vcpus, mmio64: shape.mmio64 })?;
    let Boot { kernel, initrds, cmdline } = kernel;
    let kernel = kernel.try_clone()?;
    let (initrds, cmdline) = (std::mem::take(initrds), std::mem::take(cmdline));
    let entry = read_kernel(memory, Payload { kernel, initrds, cmdline, rsdp, memory_size: shape.memory })?;
    if let Some(boot_cpu) = vcpus.first() {
        registers::set_entry(boot_cpu.fd(), memory, entry)?;
    }
    Ok(())
}

/// Kernel and initrd come from the guest's disk: they are read on a thread that can do nothing else.
fn read_kernel(memory: &Memory, payload: Payload) -> Result<Entry, BuildError> {
    let filter = seccomp::loader()?;
    std::thread::scope(|scope| {
        let read = || {
            filter.enter()?;
            Ok(boot::load(memory, payload)?)
        };
        let thread = std::thread::Builder::new().name("loader".into()).spawn_scoped(scope, read)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the loader of the kernel panicked").into()))
    })
}
