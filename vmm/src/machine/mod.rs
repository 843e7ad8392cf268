//! The machine: what is made of a specification ([`build`]), and what its owner can do with it.
//!
//! One thread owns a [`Machine`]. Virtual CPUs and devices have their own threads; they tell the owner of things
//! through [`signals`] and [`output`], whose descriptors it watches.

mod build;
mod origin;
pub mod output;
mod remotes;
mod signal;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use berth_devices::saved::Sections;
use berth_devices::serial::Serial;
use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::EventFd;

use crate::bus::Buses;
use crate::kvm::vcpu::{Context, Vcpu};
use crate::kvm::{Gate, Wanted};
use crate::memory::Memory;
use crate::settings::Change;
use crate::state::ram::RamId;
use crate::state::{MACHINE, SaveError, SavedMachine, cpu, platform};

pub use build::{BuildError, Disk, Nic, Plan, build};
pub use origin::{Boot, Origin, SavedFiles, Shape};
pub use output::{OutputReceiver, OutputSender};
pub use remotes::{ChangeError, Remotes};
pub use signal::{GuestSignal, SignalReceiver, SignalSender, borrow, signals};

/// What the owner of a guest can do; implemented by [`Machine`] and, in tests, by something simpler.
pub trait Guest {
    /// Takes all CPUs out of the guest; returns when they are. Idempotent.
    fn pause(&mut self);
    /// The state of a paused machine but for its RAM, which is to be known as `ram`. Devices are held until
    /// [`resume`](Self::resume).
    fn save(&mut self, ram: RamId) -> Result<Sections, SaveError>;
    /// The RAM.
    fn memory(&self) -> Memory;
    /// Lets CPUs and devices go on. Idempotent.
    fn resume(&mut self);
    /// Changes devices, and tells the guest of disks that are longer now. On an error nothing is changed, unless a device is
    /// broken.
    fn change(&mut self, change: &Change) -> Result<(), ChangeError>;
    /// Presses the power button.
    fn press_power_button(&mut self) -> io::Result<()>;
    /// Ends all CPUs for good; returns when they are at their end. Idempotent.
    fn stop(&mut self);
    /// What CPUs and devices tell.
    fn signals(&self) -> &SignalReceiver;
    /// What the guest prints on its serial console.
    fn output(&self) -> &OutputReceiver;
    /// Types on the serial console; returns how many bytes were taken. The rest is to be offered again when
    /// [`input_drained`](Self::input_drained) fires.
    fn input(&mut self, bytes: &[u8]) -> usize;
    /// See [`input`](Self::input); to be read when it fired.
    fn input_drained(&self) -> &EventFd;
}

/// A virtual machine. Its CPUs wait until [`Guest::resume`] is called first; dropping it ends them.
pub struct Machine {
    gate: Arc<Gate<Vcpu>>,
    buses: Arc<Buses>,
    vm: Arc<VmFd>,
    memory: Memory,
    shape: Shape,
    /// Model specific registers that are saved.
    msrs: Vec<u32>,
    threads: Vec<JoinHandle<()>>,
    serial: Serial,
    input_drained: EventFd,
    power_button: EventFd,
    signals: SignalReceiver,
    output: OutputReceiver,
    remotes: Remotes,
}

impl Machine {
    fn start(parts: Parts) -> io::Result<Self> {
        let gate = parts.context.gate.clone();
        // From here on dropping the machine ends the threads that were begun.
        let mut machine = Self {
            gate,
            buses: parts.context.buses.clone(),
            vm: parts.vm,
            memory: parts.context.memory.clone(),
            shape: parts.shape,
            msrs: parts.msrs,
            threads: Vec::with_capacity(parts.vcpus.len()),
            input_drained: parts.serial.drained()?,
            serial: parts.serial,
            power_button: parts.power_button,
            signals: parts.signals,
            output: parts.output,
            remotes: parts.remotes,
        };
        for vcpu in parts.vcpus {
            machine.threads.push(vcpu.start(parts.context.clone())?);
            machine.gate.wait_entered(machine.threads.len());
        }
        Ok(machine)
    }
}

/// What a machine is put together from.
struct Parts {
    context: Context,
    vm: Arc<VmFd>,
    shape: Shape,
    msrs: Vec<u32>,
    vcpus: Vec<Vcpu>,
    serial: Serial,
    power_button: EventFd,
    signals: SignalReceiver,
    output: OutputReceiver,
    remotes: Remotes,
}

impl Guest for Machine {
    fn pause(&mut self) {
        self.gate.set(Wanted::Pause);
    }

    fn save(&mut self, ram: RamId) -> Result<Sections, SaveError> {
        let Shape { vcpus, memory, mmio64 } = self.shape;
        let mut sections = Sections::new();
        sections.add(MACHINE, &SavedMachine { vcpus, memory, mmio64, ram })?;
        // Devices first: what they raise last is in the state of interrupt controllers and CPUs.
        self.buses.save(&mut sections)?;
        platform::save(&self.vm, &mut sections)?;
        self.gate.with_parked(|parked| {
            if parked.len() != usize::from(vcpus) {
                return Err(SaveError::Ended);
            }
            parked.iter().try_for_each(|(id, vcpu)| cpu::save(*id, vcpu, &self.msrs, &mut sections))
        })?;
        Ok(sections)
    }

    fn memory(&self) -> Memory {
        self.memory.clone()
    }

    fn resume(&mut self) {
        self.buses.resume();
        self.gate.set(Wanted::Run);
    }

    fn change(&mut self, change: &Change) -> Result<(), ChangeError> {
        self.buses.look_again().map_err(ChangeError::Size)?;
        self.remotes.change(change)
    }

    fn press_power_button(&mut self) -> io::Result<()> {
        self.power_button.write(1)
    }

    fn stop(&mut self) {
        self.gate.set(Wanted::Stop);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("the thread of a virtual CPU panicked");
            }
        }
    }

    fn signals(&self) -> &SignalReceiver {
        &self.signals
    }

    fn output(&self) -> &OutputReceiver {
        &self.output
    }

    fn input(&mut self, bytes: &[u8]) -> usize {
        self.serial.enqueue(bytes)
    }

    fn input_drained(&self) -> &EventFd {
        &self.input_drained
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop();
    }
}
