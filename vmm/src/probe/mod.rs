//! Whether a guest can live under this host's KVM.
//!
//! That `/dev/kvm` opens says little: there are KVMs made of software under which the kernel half of a guest is interpreted,
//! instruction by instruction and not all of them. So a guest of a few dozen instructions tries what every kernel
//! does: some instructions in ring 0, the way to ring 3, and a system call back.

mod guest;

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use kvm_bindings::{Msrs, kvm_msr_entry, kvm_regs};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use serde::Serialize;

use crate::cpu::registers::{set_long_mode, set_segments};
use crate::kvm::sys::{KickGuard, internal_error};
use crate::kvm::{self, Gate, KvmError, Wanted};
use crate::memory::{self, Memory};

/// A guest that needs longer than this for a few dozen instructions is not one to live in.
const DEADLINE: Duration = Duration::from_secs(10);
const MEMORY: u64 = 2 << 20;

const CR4_OSXSAVE: u64 = 1 << 18;
const EFER_SCE: u64 = 1;
const ECX_XSAVE: u32 = 1 << 26;
const MSR_STAR: u32 = 0xc000_0081;
const MSR_LSTAR: u32 = 0xc000_0082;
/// Selectors of ring 0 (0x10) and the base of those of ring 3; no descriptor is ever loaded by them.
const STAR: u64 = (0x10 << 32) | (0x20 << 48);

/// What the guest tells through its port, in this order.
const STEPS: [(u8, &str); 6] = [
    (guest::STARTED, "ring 0"),
    (guest::POPCNT, "popcnt"),
    (guest::CMPXCHG16B, "cmpxchg16b"),
    (guest::FNCLEX, "fnclex"),
    (guest::XRSTOR, "xrstor"),
    (guest::SYSCALL, "system call from ring 3 to ring 0"),
];

/// The finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Virtual machines run here.
    pub usable: bool,
    /// Why not, and what can be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What the guest got done.
    pub done: Vec<&'static str>,
}

/// How the guest ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    Finished,
    SyscallInRing3,
    WrongResult,
    CannotEmulate,
    Crashed,
    TimedOut,
    Other(String),
}

/// Tries it. Takes a few milliseconds.
pub fn probe() -> Report {
    match kvm::open().and_then(|kvm| try_guest(&kvm)) {
        Ok((done, end)) => report(&done, &end),
        Err(error) => Report { usable: false, reason: Some(error.to_string()), done: Vec::new() },
    }
}

fn report(done: &[u8], end: &End) -> Report {
    let name = |step: &u8| STEPS.iter().find(|(number, _)| number == step).map(|(_, name)| *name);
    let next =
        STEPS.iter().find(|(number, _)| done.last().is_none_or(|last| number > last)).map_or("end", |step| step.1);
    let reason = match end {
        End::Finished => None,
        End::SyscallInRing3 => Some("a system call of the guest does not arrive in ring 0".to_owned()),
        End::WrongResult => Some(format!("an instruction of the guest has a wrong result ({next})")),
        End::CannotEmulate => Some(format!("KVM cannot emulate what a kernel needs ({next})")),
        End::Crashed => Some(format!("the guest crashed before its time ({next})")),
        End::TimedOut => Some(format!("the guest did not come to its end in {DEADLINE:?} ({next})")),
        End::Other(text) => Some(text.clone()),
    };
    let reason = reason.map(|text| {
        format!(
            "{}: {text}; it needs hardware virtualization (VT-x or AMD-V, nested if this host is itself a virtual machine)",
            kvm::DEVICE
        )
    });
    Report { usable: reason.is_none(), reason, done: done.iter().filter_map(name).collect() }
}

fn try_guest(kvm: &Kvm) -> Result<(Vec<u8>, End), KvmError> {
    let vm = kvm.create_vm().map_err(kvm::refused("create a virtual machine"))?;
    let memory = memory::allocate(MEMORY).map_err(|error| KvmError::Open(std::io::Error::other(error)))?;
    kvm::map_memory(&vm, &memory)?;
    guest::load(&memory).map_err(|error| KvmError::Open(std::io::Error::other(error)))?;
    let vcpu = vm.create_vcpu(0).map_err(kvm::refused("create a virtual CPU"))?;
    prepare(kvm, &vcpu)?;

    let gate = Arc::new(Gate::new());
    let (sender, receiver) = mpsc::channel();
    let thread = std::thread::spawn({
        let gate = gate.clone();
        move || run(vcpu, &gate, &sender, &memory)
    });
    gate.wait_entered(1);
    gate.set(Wanted::Run);
    let mut done = Vec::new();
    let end = loop {
        match receiver.recv_timeout(DEADLINE) {
            Ok(Told::Step(step)) => done.push(step),
            Ok(Told::End(end)) => {
                done.extend((end == End::Finished).then_some(guest::SYSCALL));
                break end;
            }
            Err(RecvTimeoutError::Timeout) => break End::TimedOut,
            Err(RecvTimeoutError::Disconnected) => break End::Other("the guest's thread ended early".to_owned()),
        }
    };
    gate.set(Wanted::Stop);
    if thread.join().is_err() {
        tracing::error!("the thread of the probe's CPU panicked");
    }
    Ok((done, end))
}

fn prepare(kvm: &Kvm, vcpu: &VcpuFd) -> Result<(), KvmError> {
    let cpuid = kvm::supported_cpuid(kvm)?;
    let xsave = cpuid.as_slice().iter().any(|entry| entry.function == 1 && entry.ecx & ECX_XSAVE != 0);
    vcpu.set_cpuid2(&cpuid).map_err(kvm::refused("set the features of a virtual CPU"))?;
    let mut sregs = vcpu.get_sregs().map_err(kvm::refused("tell the registers of a virtual CPU"))?;
    set_segments(&mut sregs, true);
    set_long_mode(&mut sregs, guest::PAGE_TABLES);
    sregs.efer |= EFER_SCE;
    if xsave {
        sregs.cr4 |= CR4_OSXSAVE;
    }
    vcpu.set_sregs(&sregs).map_err(kvm::refused("set the segment registers of a virtual CPU"))?;
    let msrs = [(MSR_STAR, STAR), (MSR_LSTAR, guest::syscall_entry())].map(|(index, data)| kvm_msr_entry {
        index,
        data,
        ..Default::default()
    });
    let msrs = Msrs::from_entries(&msrs).map_err(|error| KvmError::Open(std::io::Error::other(error.to_string())))?;
    vcpu.set_msrs(&msrs).map_err(kvm::refused("set where system calls arrive"))?;
    let regs = kvm_regs { rip: guest::CODE, rdi: u64::from(xsave), rsi: guest::DATA, rflags: 2, ..Default::default() };
    vcpu.set_regs(&regs).map_err(kvm::refused("set the registers of a virtual CPU"))
}

enum Told {
    Step(u8),
    End(End),
}

/// The thread of the guest's CPU; `memory` is the guest's, held as long as it runs.
fn run(mut vcpu: VcpuFd, gate: &Gate<()>, tell: &mpsc::Sender<Told>, _memory: &Memory) {
    gate.enter(0);
    let kick_guard = KickGuard::new(&mut vcpu);
    loop {
        let told = match gate.wanted() {
            Wanted::Run => run_once(&mut vcpu),
            Wanted::Pause => gate.park(0, ()).and(None),
            Wanted::Stop => break,
        };
        let over = matches!(told, Some(Told::End(_)));
        if let Some(told) = told
            && tell.send(told).is_err()
        {
            break;
        }
        if over {
            break;
        }
    }
    drop(kick_guard);
    gate.leave(0);
}

fn run_once(vcpu: &mut VcpuFd) -> Option<Told> {
    let end = match vcpu.run() {
        Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
            vcpu.set_kvm_immediate_exit(0);
            return None;
        }
        Err(error) => End::Other(format!("KVM cannot run a virtual CPU: {error}")),
        Ok(VcpuExit::IoOut(guest::PORT, &[guest::SYSCALL])) => End::Finished,
        Ok(VcpuExit::IoOut(guest::PORT, &[guest::SYSCALL_RING3])) => End::SyscallInRing3,
        Ok(VcpuExit::IoOut(guest::PORT, &[guest::WRONG])) => End::WrongResult,
        Ok(VcpuExit::IoOut(guest::PORT, &[step])) => return Some(Told::Step(step)),
        Ok(VcpuExit::Shutdown) => End::Crashed,
        Ok(VcpuExit::InternalError) => match internal_error(vcpu).suberror {
            1 => End::CannotEmulate,
            other => End::Other(format!("KVM gave up with internal error {other}")),
        },
        Ok(other) => End::Other(format!("the guest stopped with an exit nobody asked for: {other:?}")),
    };
    Some(Told::End(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_this_host_has_is_told() {
        let report = probe();
        assert_eq!(report.usable, report.reason.is_none());
        match kvm::open() {
            // A guest of ring 0 runs even where no kernel does.
            Ok(_) => assert_eq!(report.done.first(), Some(&"ring 0"), "{report:?}"),
            Err(error) => assert_eq!(report.reason, Some(error.to_string())),
        }
    }

    #[test]
    fn the_reason_names_the_step_that_failed() {
        let broken = report(&[guest::STARTED], &End::CannotEmulate);
        assert!(!broken.usable);
        assert!(broken.reason.unwrap().contains("(popcnt)"));
        assert_eq!(broken.done, ["ring 0"]);
        assert!(report(&[1, 2, 3, 4, 5], &End::Finished).usable);
    }
}
