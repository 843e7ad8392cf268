//! Interrupts of a device as MSI-X vectors.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, Ordering};

use vmm_sys_util::eventfd::EventFd;

use crate::pci::Msix;
use crate::virtio::InterruptLine;
use crate::virtio::interrupt::Source;

/// "No interrupt" in the vector registers.
pub const NO_VECTOR: u16 = 0xffff;

const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

/// Which vector each source has, and the eventfds of the vectors. Device threads read it without a lock.
pub struct MsixLine {
    irqfds: Vec<EventFd>,
    /// Vector of the configuration, then of each queue.
    vectors: Vec<AtomicU16>,
    enabled: AtomicBool,
    isr: AtomicU8,
}

impl MsixLine {
    /// No source has a vector yet.
    pub fn new(msix: &Msix, queues: usize) -> io::Result<Self> {
        let irqfds = (0..msix.vectors()).map(|vector| msix.irqfd(vector).try_clone()).collect::<io::Result<_>>()?;
        let vectors = (0..=queues).map(|_| AtomicU16::new(NO_VECTOR)).collect();
        Ok(Self { irqfds, vectors, enabled: AtomicBool::new(false), isr: AtomicU8::new(0) })
    }

    fn index(source: Source) -> usize {
        match source {
            Source::Config => 0,
            Source::Queue(queue) => usize::from(queue) + 1,
        }
    }

    /// Vector of `source`.
    pub fn vector(&self, source: Source) -> u16 {
        self.vectors.get(Self::index(source)).map_or(NO_VECTOR, |vector| vector.load(Ordering::Acquire))
    }

    /// The driver gives `source` a vector; one that does not exist becomes [`NO_VECTOR`], which the driver sees.
    pub fn set_vector(&self, source: Source, vector: u16) {
        let vector = if usize::from(vector) < self.irqfds.len() { vector } else { NO_VECTOR };
        if let Some(cell) = self.vectors.get(Self::index(source)) {
            cell.store(vector, Ordering::Release);
        }
    }

    /// The driver switched MSI-X on or off.
    pub fn set_enabled(&self, enabled: bool) {
        self.enabled.store(enabled, Ordering::Release);
    }

    /// Back to the state after power-on, except that MSI-X stays as it is.
    pub fn reset(&self) {
        self.vectors.iter().for_each(|vector| vector.store(NO_VECTOR, Ordering::Release));
        self.isr.store(0, Ordering::Release);
    }

    /// The vectors, and the ISR status without clearing it.
    pub fn saved(&self) -> (Vec<u16>, u8) {
        let vectors = self.vectors.iter().map(|vector| vector.load(Ordering::Acquire)).collect();
        (vectors, self.isr.load(Ordering::Acquire))
    }

    /// Takes vectors and ISR status over; false if another device had them.
    pub fn restore(&self, vectors: &[u16], isr: u8) -> bool {
        let fits = |vector: &u16| *vector == NO_VECTOR || usize::from(*vector) < self.irqfds.len();
        if vectors.len() != self.vectors.len() || !vectors.iter().all(fits) {
            return false;
        }
        self.vectors.iter().zip(vectors).for_each(|(cell, vector)| cell.store(*vector, Ordering::Release));
        self.isr.store(isr, Ordering::Release);
        true
    }

    /// Reads, and so clears, the ISR status.
    pub fn take_isr(&self) -> u8 {
        self.isr.swap(0, Ordering::AcqRel)
    }
}

impl InterruptLine for MsixLine {
    fn raise(&self, source: Source) {
        if !self.enabled.load(Ordering::Acquire) {
            // There is no INTx; a driver that polls reads this.
            let bit = if source == Source::Config { ISR_CONFIG } else { ISR_QUEUE };
            self.isr.fetch_or(bit, Ordering::AcqRel);
            return;
        }
        if let Some(irqfd) = self.irqfds.get(usize::from(self.vector(source))) {
            // Fails only if the counter is full: then the interrupt is pending already.
            let _ = irqfd.write(1);
        }
    }
}
