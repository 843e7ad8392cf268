//! MSI-X: the table and pending bits that live in a BAR, and the seam to the interrupt controller.

use std::io;

use vmm_sys_util::eventfd::EventFd;

/// What a device writes to raise an interrupt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MsiMessage {
    /// Guest physical address (of a local APIC).
    pub address: u64,
    /// Value written there.
    pub data: u32,
}

/// The machine's side of one device's MSI-X vectors.
///
/// The eventfd of a vector exists for the life of the backend; a device thread writes it to raise the interrupt, at
/// any time. While a vector is masked the eventfd must *not* be connected (KVM: de-assigned irqfd), so that a raised
/// interrupt stays in its counter, where the pending bits are read from and from where KVM delivers it on unmasking.
pub trait MsixBackend: Send {
    /// Sets what vector `vector` sends, and whether it may. Called on a vCPU thread when the guest changes the table,
    /// the function mask or the enable bit.
    fn set_vector(&mut self, vector: u16, message: MsiMessage, masked: bool) -> io::Result<()>;
    /// The eventfd that raises `vector`.
    fn irqfd(&self, vector: u16) -> &EventFd;
}

/// MSI-X state of one function.
pub struct Msix {
    #[allow(dead_code)]
    backend: Box<dyn MsixBackend>,
}
