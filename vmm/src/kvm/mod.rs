//! KVM: the device, the virtual machine, its CPUs.

mod kicker;
pub mod sys;
pub mod vcpu;

use std::io;
use std::path::Path;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, Kvm, VmFd};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};

use crate::memory::{KVM_IDENTITY_MAP, KVM_TSS, Memory};

pub use kicker::{Gate, Wanted};

/// The device.
pub const DEVICE: &str = "/dev/kvm";
/// What every kernel since 2.6.22 answers; anything else is something else.
const API_VERSION: i32 = 12;
/// What a machine cannot do without.
const NEEDED: [(Cap, &str); 7] = [
    (Cap::Irqchip, "an interrupt controller in the kernel"),
    (Cap::Ioeventfd, "ioeventfd"),
    (Cap::Irqfd, "irqfd"),
    (Cap::IrqRouting, "interrupt routing"),
    (Cap::UserMemory, "user memory"),
    (Cap::ExtCpuid, "CPUID"),
    (Cap::ImmediateExit, "immediate exit"),
];

/// Why there is no virtual machine.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// See the message.
    #[error(
        "{DEVICE} does not exist: load the module kvm_intel or kvm_amd, and enable virtualization (VT-x, AMD-V) in the \
         firmware; if this host is itself a virtual machine, enable nested virtualization for it"
    )]
    Missing,
    /// See the message.
    #[error(
        "{DEVICE} cannot be opened: permission denied; run the daemon as root or make its user a member of the group \
         that owns the device"
    )]
    Denied,
    /// See the message.
    #[error("{DEVICE} cannot be opened: {0}; look into the kernel log for what kvm_intel or kvm_amd says")]
    Open(io::Error),
    /// See the message.
    #[error("{DEVICE} is not KVM: it says its version is {0}, not {API_VERSION}; look at what made the device")]
    Version(i32),
    /// See the message.
    #[error("this host's KVM lacks {0}; boot a newer kernel")]
    Lacks(&'static str),
    /// See the message.
    #[error("KVM refuses to {what}: {source}; look into the kernel log")]
    Refused {
        /// What it was asked.
        what: &'static str,
        /// Why.
        source: kvm_ioctls::Error,
    },
}

/// For `map_err`.
pub fn refused(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> KvmError {
    move |source| KvmError::Refused { what, source }
}

/// Opens KVM and checks that it is what a machine needs.
pub fn open() -> Result<Kvm, KvmError> {
    let kvm = open_at(Path::new(DEVICE))?;
    match kvm.get_api_version() {
        API_VERSION => {}
        other => return Err(KvmError::Version(other)),
    }
    match NEEDED.iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
        Some((_, name)) => Err(KvmError::Lacks(name)),
        None => Ok(kvm),
    }
}

fn open_at(path: &Path) -> Result<Kvm, KvmError> {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => KvmError::Missing,
        io::ErrorKind::PermissionDenied => KvmError::Denied,
        // The device file is there but no driver behind it.
        _ if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENXIO)) => KvmError::Missing,
        _ => KvmError::Open(error),
    })?;
    Ok(sys::kvm_from_file(file))
}

/// Features KVM supports on this host.
pub fn supported_cpuid(kvm: &Kvm) -> Result<CpuId, KvmError> {
    kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(refused("tell the CPU features it supports"))
}

/// Makes a virtual machine with an interrupt controller and without a PIT: every kernel that has ACPI and the KVM clock lives
/// without one.
pub fn create_vm(kvm: &Kvm) -> Result<VmFd, KvmError> {
    let vm = kvm.create_vm().map_err(refused("create a virtual machine"))?;
    vm.set_identity_map_address(KVM_IDENTITY_MAP).map_err(refused("place its identity map"))?;
    vm.set_tss_address(KVM_TSS as usize).map_err(refused("place its task segment"))?;
    vm.create_irq_chip().map_err(refused("create an interrupt controller"))?;
    Ok(vm)
}

/// Gives the guest its RAM.
pub fn map_memory(vm: &VmFd, memory: &Memory) -> Result<(), KvmError> {
    for (slot, region) in memory.iter().enumerate() {
        let mapping = kvm_userspace_memory_region {
            slot: slot as u32,
            flags: 0,
            guest_phys_addr: region.start_addr().raw_value(),
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        sys::set_memory_region(vm, mapping).map_err(refused("map the guest's memory"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_the_device_is_told_with_a_way_out() {
        let missing = open_at(Path::new("/nonexistent/kvm")).unwrap_err();
        assert!(matches!(missing, KvmError::Missing));
        assert!(missing.to_string().contains("kvm_intel or kvm_amd"));
        assert!(matches!(open_at(Path::new("/dev")).unwrap_err(), KvmError::Open(_)));
    }
}
