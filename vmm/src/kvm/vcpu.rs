//! The thread of a virtual CPU.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::thread::JoinHandle;

use kvm_ioctls::{VcpuExit, VcpuFd, VmFd};

use super::sys::{KickGuard, internal_error};
use super::{Gate, KvmError, refused};
use crate::bus::Buses;
use crate::machine::{GuestSignal, SignalSender};

/// Class of internal errors that are instructions KVM cannot emulate.
const SUBERROR_EMULATION: u32 = 1;

/// What a virtual CPU works with.
#[derive(Clone)]
pub struct Context {
    /// Where its accesses go.
    pub buses: Arc<Buses>,
    /// When it may run.
    pub gate: Arc<Gate>,
    /// Whom it tells that the guest is at its end.
    pub signals: SignalSender,
    /// Keeps the guest's memory mapped as long as the CPU lives.
    pub memory: crate::memory::Memory,
}

/// A virtual CPU that does not run yet.
pub struct Vcpu {
    id: u8,
    fd: VcpuFd,
}

impl Vcpu {
    /// Makes virtual CPU `id`.
    pub fn new(vm: &VmFd, id: u8) -> Result<Self, KvmError> {
        let fd = vm.create_vcpu(u64::from(id)).map_err(refused("create a virtual CPU"))?;
        Ok(Self { id, fd })
    }

    /// For the set-up of its registers.
    pub fn fd(&self) -> &VcpuFd {
        &self.fd
    }

    /// Begins its thread, which waits at the gate.
    pub fn start(self, context: Context) -> io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name(format!("vcpu{}", self.id)).spawn(move || self.run(&context))
    }

    fn run(mut self, context: &Context) {
        context.gate.enter(self.id);
        let kick_guard = KickGuard::new(&mut self.fd);
        while context.gate.pass(|| self.tell_paused()) {
            if let ControlFlow::Break(signal) = self.run_once(&context.buses) {
                context.signals.send(signal);
                break;
            }
        }
        drop(kick_guard);
        self.log_position();
        context.gate.leave(self.id);
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
    fn run_once(&mut self, buses: &Buses) -> ControlFlow<GuestSignal> {
        let exit = match self.fd.run() {
            Ok(exit) => exit,
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                self.fd.set_kvm_immediate_exit(0);
                return ControlFlow::Continue(());
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
        ControlFlow::Continue(())
    }

    fn fail(&self, text: String) -> ControlFlow<GuestSignal> {
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
