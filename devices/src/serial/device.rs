//! The port and its input queue.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard};

use vm_superio::serial::NoEvents;
use vm_superio::{Serial as Uart, Trigger};
use vmm_sys_util::eventfd::EventFd;

use super::saved::{NAME, SavedSerial};
use crate::BusDevice;
use crate::saved::{Sections, StateError};

/// Registers of a 16550.
const REGISTERS: u64 = 8;
/// Bytes of the emulated port's FIFO.
const FIFO_SIZE: usize = 64;
/// Input kept beyond the port's FIFO; a paste into a guest that does not read stops here.
const MAX_INPUT: usize = 64 << 10;

struct Irq(EventFd);

impl Trigger for Irq {
    type E = io::Error;
    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

struct Port {
    uart: Uart<Irq, NoEvents, Box<dyn Write + Send>>,
    input: VecDeque<u8>,
    /// An [`Serial::enqueue`] was cut short.
    refused: bool,
    drained: EventFd,
}

impl Port {
    /// Moves waiting input into the FIFO once the guest emptied it: byte by byte, each would raise an interrupt.
    fn refill_if_empty(&mut self) {
        if self.uart.fifo_capacity() == FIFO_SIZE {
            self.refill();
        }
    }

    /// Becomes the port that was saved; raises its interrupts anew.
    fn restore(&mut self, saved: SavedSerial) -> Result<(), StateError> {
        if saved.input.len() > MAX_INPUT {
            return Err(StateError::payload::<SavedSerial>(NAME, "it holds too much input"));
        }
        let irq = || self.uart.interrupt_evt().0.try_clone().map(Irq);
        let (irq, placeholder) = (irq()?, Uart::new(irq()?, Box::new(io::sink()) as Box<dyn Write + Send>));
        let out = std::mem::replace(&mut self.uart, placeholder).into_writer();
        let (state, input) = saved.into_parts();
        self.uart = Uart::from_state(&state, irq, NoEvents, out)
            .map_err(|error| StateError::payload::<SavedSerial>(NAME, format!("{error:?}")))?;
        self.input = input.into();
        Ok(())
    }

    /// Moves waiting input into the FIFO.
    fn refill(&mut self) {
        let count = self.uart.fifo_capacity().min(self.input.len());
        if count > 0 {
            let (head, _) = self.input.as_slices();
            let head = &head[..count.min(head.len())];
            // An error means that the interrupt was not raised, or that the port is in loopback mode.
            let taken = self.uart.enqueue_raw_bytes(head).unwrap_or(0);
            self.input.drain(..taken);
        }
        if self.input.is_empty() && self.refused {
            self.refused = false;
            // Fails only if the counter is full: then it is readable already.
            let _ = self.drained.write(1);
        }
    }
}

/// A serial port. Clones are handles of the same port: one goes onto the bus (8 ports), others feed it input.
#[derive(Clone)]
pub struct Serial {
    port: Arc<Mutex<Port>>,
}

impl Serial {
    /// A port that raises its (edge) interrupt through `irq` and writes the guest's output to `out`, a byte at a time
    /// and on a vCPU thread: `out` must not block. Output that `out` refuses is lost.
    pub fn new(irq: EventFd, out: Box<dyn Write + Send>) -> io::Result<Self> {
        let drained = EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)?;
        let port = Port { uart: Uart::new(Irq(irq), out), input: VecDeque::new(), refused: false, drained };
        Ok(Self { port: Arc::new(Mutex::new(port)) })
    }

    fn lock(&self) -> MutexGuard<'_, Port> {
        // A panic of the output's writer does not make the registers invalid.
        self.port.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Gives input to the guest; returns how many bytes were taken (the rest does not fit: offer it again when
    /// [`drained`](Self::drained) fires).
    pub fn enqueue(&self, input: &[u8]) -> usize {
        let mut port = self.lock();
        let count = input.len().min(MAX_INPUT - port.input.len());
        port.input.extend(&input[..count]);
        port.refused |= count < input.len();
        port.refill();
        count
    }

    /// An eventfd that becomes readable when the guest took all input after an [`enqueue`](Self::enqueue) that did
    /// not fit. Read it to arm it again.
    pub fn drained(&self) -> io::Result<EventFd> {
        self.lock().drained.try_clone()
    }
}

impl BusDevice for Serial {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        // The registers are one byte wide; a wider access reaches the first only.
        if let ([value, ..], 0..REGISTERS) = (data, offset) {
            let mut port = self.lock();
            *value = port.uart.read(offset as u8);
            port.refill_if_empty();
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let ([value, ..], 0..REGISTERS) = (data, offset) {
            let mut port = self.lock();
            // An error is output that got lost, or an interrupt that is pending already.
            let _ = port.uart.write(offset as u8, *value);
            port.refill_if_empty();
        }
    }

    fn save(&self, sections: &mut Sections) -> Result<(), StateError> {
        let port = self.lock();
        sections.add(NAME, &SavedSerial::of(&port.uart.state(), port.input.iter().copied().collect()))
    }

    fn restore(&mut self, sections: &mut Sections) -> Result<(), StateError> {
        let saved: SavedSerial = sections.take(NAME)?;
        self.lock().restore(saved)
    }
}
