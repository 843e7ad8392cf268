//! Berth's virtual machine monitor: KVM, a PC without legacy, virtio over PCI.
//!
//! | module | owns |
//! |---|---|
//! | [`spec`], [`settings`] | what the daemon hands over; what of it can be changed later |
//! | [`memory`] | the guest's physical address space |
//! | [`kvm`] | KVM itself, the threads of virtual CPUs |
//! | [`cpu`] | features and registers of a virtual CPU |
//! | [`interrupts`] | routing, and how devices reach KVM |
//! | [`bus`], [`power`] | ports and device memory; sleep and reset registers |
//! | [`generation`] | the id by which a guest sees that it continues from a saved state |
//! | [`acpi`], [`boot`] | firmware tables; kernel, initrd, boot parameters |
//! | [`state`] | a paused machine as saved state, and back |
//! | [`machine`] | all of that put together |
//! | [`seccomp`] | what each kind of thread may ask of the kernel |
//! | [`process`] | `berth-vmm run`: handshake, control socket, console, agent |
//! | [`probe`] | `berth-vmm probe`: whether a guest can live under this host's KVM |

pub mod acpi;
pub mod boot;
pub mod bus;
pub mod cpu;
pub mod generation;
pub mod interrupts;
pub mod kvm;
pub mod machine;
pub mod memory;
pub mod power;
pub mod probe;
pub mod process;
pub mod seccomp;
pub mod settings;
pub mod spec;
pub mod state;
