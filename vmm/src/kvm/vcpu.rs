//! The thread of a virtual CPU.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;

use kvm_bindings::{CpuId, kvm_cpuid_entry2};
use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};

use super::sys::{KickGuard, internal_error};
use super::{Gate, KvmError, Wanted, refused};
use crate::bus::Buses;
use crate::machine::{GuestSignal, SignalSender};
use crate::seccomp;

/// Class of internal errors that are instructions KVM cannot emulate.
const SUBERROR_EMULATION: u32 = 1;

/// What a virtual CPU works with.
#[derive(Clone)]
pub struct Context {
    /// Where its accesses go.
    pub buses: Arc<Buses>,
    /// When it may run.
    pub gate: Arc<Gate<Vcpu>>,
    /// Whom it tells that the guest is at its end.
    pub signals: SignalSender,
    /// Keeps the guest's memory mapped as long as the CPU lives.
    pub memory: crate::memory::Memory,
}

/// How a stay in the guest ended.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    /// It wanted something, and got it.
    Served,
    /// It was taken out.
    Interrupted,
}

/// A virtual CPU.
pub struct Vcpu {
    id: u8,
    fd: VcpuFd,
    features: Vec<kvm_cpuid_entry2>,
}

impl Vcpu {
    /// Makes virtual CPU `id`.
    pub fn new(vm: &VmFd, id: u8) -> Result<Self, KvmError> {
        let fd = vm.create_vcpu(u64::from(id)).map_err(refused("create a virtual CPU"))?;
        Ok(Self { id, fd, features: Vec::new() })
    }

    /// For tests that run it by themselves.
    #[cfg(test)]
    pub fn fd_mut(&mut self) -> &mut VcpuFd {
        &mut self.fd
    }

    /// Sets its features; they are saved with it.
    pub fn set_features(&mut self, features: &CpuId) -> Result<(), kvm_ioctls::Error> {
        self.fd.set_cpuid2(features)?;
        self.features = features.as_slice().to_vec();
        Ok(())
    }

    /// What was set. (KVM tells some of it otherwise once the guest's kernel switched things on.)
    pub fn features(&self) -> &[kvm_cpuid_entry2] {
        &self.features
    }

    /// For the set-up of its registers, and for saving them.
    pub fn fd(&self) -> &VcpuFd {
        &self.fd
    }

    /// Begins its thread, which waits at the gate.
    pub fn start(self, context: Context) -> io::Result<JoinHandle<()>> {
        let filter = seccomp::vcpu()?;
        let (ready, confined) = sync_channel(1);
        let thread = std::thread::Builder::new().name(format!("vcpu{}", self.id)).spawn(move || {
            let outcome = filter.enter();
            let go = outcome.is_ok();
            if ready.send(outcome).is_ok() && go {
                self.run(&context);
            }
        })?;
        confined.recv().unwrap_or_else(|_| Err(io::Error::other("the thread of a virtual CPU died in its set-up")))?;
        Ok(thread)
    }

    fn run(mut self, context: &Context) {
        let id = self.id;
        context.gate.enter(id);
        let kick_guard = KickGuard::new(&mut self.fd);
        let mut cpu = self;
        loop {
            let turn = match context.gate.wanted() {
                Wanted::Run => cpu.run_once(&context.buses).map_continue(drop),
                Wanted::Stop => break,
                Wanted::Pause => {
                    let settled = cpu.settle(&context.buses);
                    if settled.is_continue() {
                        cpu.tell_paused();
                        let Some(same) = context.gate.park(id, cpu) else { return };
                        cpu = same;
                    }
                    settled
                }
            };
            if let ControlFlow::Break(signal) = turn {
                context.signals.send(signal);
                break;
            }
        }
        drop(kick_guard);
        cpu.log_position();
        context.gate.leave(id);
    }

    /// Completes the access the guest was left for, which is half in KVM and half here: KVM's half is done when the guest
    /// is entered next. What is saved of a CPU has to have none of it.
    fn settle(&mut self, buses: &Buses) -> ControlFlow<GuestSignal> {
        loop {
            self.fd.set_kvm_immediate_exit(1);
            if self.run_once(buses)? == Turn::Interrupted {
                return ControlFlow::Continue(());
            }
        }
    }

    /// For those who wonder where a guest hangs.
    fn log_position(&self) {
        if tracing::enabled!(tracing::Level::DEBUG)
            && let Ok(regs) = self.fd.get_regs()
        {
            tracing::debug!(cpu = self.id, rip = format_args!("{:#x}", regs.rip), "virtual CPU left the guest");
        }
    }

    /// Keeps the guest's watchdogs from barking at a pause.
    fn tell_paused(&self) {
        self.log_position();
        // Refused if the guest does not use the KVM clock; then there is nothing to tell.
        if let Err(error) = self.fd.kvmclock_ctrl() {
            tracing::trace!(cpu = self.id, %error, "the guest was not told of the pause");
        }
    }

    /// Enters the guest once and serves what it left it for.
    fn run_once(&mut self, buses: &Buses) -> ControlFlow<GuestSignal, Turn> {
        let exit = match self.fd.run() {
            Ok(exit) => exit,
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                self.fd.set_kvm_immediate_exit(0);
                return ControlFlow::Continue(Turn::Interrupted);
            }
            Err(error) => {
                return self
                    .fail(format!("virtual CPU {} cannot run: {error}; look into the host's kernel log", self.id));
            }
        };
        match exit {
            VcpuExit::IoIn(port, data) => buses.port_read(port, data),
            VcpuExit::IoOut(port, data) => buses.port_write(port, data),
            VcpuExit::MmioRead(address, data) => buses.memory_read(address, data),
            VcpuExit::MmioWrite(address, data) => buses.memory_write(address, data),
            VcpuExit::Intr | VcpuExit::IrqWindowOpen => {}
            // Three faults in a row: how kernels reset a PC when all else fails.
            VcpuExit::Shutdown => {
                tracing::info!(cpu = self.id, "triple fault");
                return ControlFlow::Break(GuestSignal::Reset);
            }
            VcpuExit::InternalError => {
                let text = self.describe_internal_error();
                return self.fail(text);
            }
            VcpuExit::FailEntry(reason, cpu) => {
                let text = format!(
                    "KVM cannot enter virtual CPU {}: hardware reason {reason:#x} on host CPU {cpu}; look into the host's \
                     kernel log",
                    self.id
                );
                return self.fail(text);
            }
            other => {
                let text = format!("virtual CPU {} stopped with an exit nobody asked for: {other:?}", self.id);
                return self.fail(text);
            }
        }
        ControlFlow::Continue(Turn::Served)
    }

    fn fail(&self, text: String) -> ControlFlow<GuestSignal, Turn> {
        ControlFlow::Break(GuestSignal::Failed(text))
    }

    fn describe_internal_error(&mut self) -> String {
        let error = internal_error(&mut self.fd);
        let at = self.fd.get_regs().map_or_else(|_| "unknown".to_owned(), |regs| format!("{:#x}", regs.rip));
        let what = if error.suberror == SUBERROR_EMULATION {
            "met an instruction it cannot emulate; the host's KVM may be a software one, see `berth-vmm probe`"
        } else {
            "gave up"
        };
        let data: Vec<_> = error.data.iter().map(|word| format!("{word:#x}")).collect();
        format!(
            "KVM {what} (internal error {}, virtual CPU {}, instruction at {at}, data [{}])",
            error.suberror,
            self.id,
            data.join(", ")
        )
    }
}
