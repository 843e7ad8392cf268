//! A 16550 serial port.

use std::io::{self, Write};

use vmm_sys_util::eventfd::EventFd;

use crate::BusDevice;

/// A serial port. Clones are handles of the same port: one goes onto the bus (8 ports), others feed it input.
#[derive(Clone)]
pub struct Serial {}

impl Serial {
    /// A port that raises its (edge) interrupt through `irq` and writes the guest's output to `out`, a byte at a time
    /// and on a vCPU thread: `out` must neither block nor fail for long.
    pub fn new(_irq: EventFd, _out: Box<dyn Write + Send>) -> io::Result<Self> {
        Ok(Self {})
    }

    /// Gives input to the guest; returns how many bytes were taken (the rest does not fit: offer it again when
    /// [`drained`](Self::drained) fires).
    pub fn enqueue(&self, _input: &[u8]) -> usize {
        0
    }

    /// An eventfd that becomes readable when the guest took all input after an [`enqueue`](Self::enqueue) that did
    /// not fit. Read it to arm it again.
    pub fn drained(&self) -> io::Result<EventFd> {
        EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)
    }
}

impl BusDevice for Serial {
    fn read(&mut self, _offset: u64, _data: &mut [u8]) {}
    fn write(&mut self, _offset: u64, _data: &[u8]) {}
}
