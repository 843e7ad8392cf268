//! The unsafe half of the work with KVM.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::ptr;
use std::sync::Once;

use kvm_bindings::{kvm_run, kvm_userspace_memory_region, kvm_xsave};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};

thread_local! {
    /// The run structure of the virtual CPU that belongs to this thread, for [`on_kick`].
    static RUN: Cell<*mut kvm_run> = const { Cell::new(ptr::null_mut()) };
}

/// Takes over an opened `/dev/kvm`.
pub fn kvm_from_file(file: File) -> Kvm {
    // SAFETY: the descriptor was just given up by its only owner.
    unsafe { Kvm::from_raw_fd(file.into_raw_fd()) }
}

/// Gives the guest a piece of memory.
pub fn set_memory_region(vm: &VmFd, region: kvm_userspace_memory_region) -> Result<(), kvm_ioctls::Error> {
    // SAFETY: the region is a mapping of guest memory, which is dropped only after the virtual machine: `Machine`
    // and the threads of its CPUs hold both.
    unsafe { vm.set_user_memory_region(region) }
}

/// Gives a virtual CPU its extended state.
pub fn set_xsave(vcpu: &VcpuFd, xsave: &kvm_xsave) -> Result<(), kvm_ioctls::Error> {
    // SAFETY: the kernel reads more than the structure only of features that a process must ask for first (AMX), which
    // this one never does.
    unsafe { vcpu.set_xsave(xsave) }
}

/// The real-time signal that takes a thread out of its guest.
fn kick_signal() -> libc::c_int {
    libc::SIGRTMIN()
}

/// Sets the flag that makes KVM_RUN return at once. Without it a signal that comes just before KVM_RUN would be lost.
extern "C" fn on_kick(_: libc::c_int) {
    RUN.with(|run| {
        let run = run.get();
        if !run.is_null() {
            // SAFETY: the pointer is that of this thread's virtual CPU, which stays mapped as long as `KickGuard`
            // keeps it set; only this thread and the kernel use the field.
            unsafe { ptr::write_volatile(&raw mut (*run).immediate_exit, 1) };
        }
    });
}

/// Makes the kick signal harmless and useful in the whole process. Idempotent. Threads of virtual CPUs may not do that.
pub fn install_handler() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the structure is plain data, the handler is async-signal-safe (it stores one byte), and the signal
        // is used for nothing else in this process.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_kick as extern "C" fn(libc::c_int) as libc::sighandler_t;
            libc::sigemptyset(&mut action.sa_mask);
            libc::sigaction(kick_signal(), &action, ptr::null_mut());
        }
    });
}

/// While it lives, kicks of this thread end `KVM_RUN` of its virtual CPU.
pub struct KickGuard(());

impl KickGuard {
    /// Call on the thread that runs `vcpu`; the guard must be dropped before `vcpu` is. It may be moved meanwhile.
    pub fn new(vcpu: &mut VcpuFd) -> Self {
        RUN.with(|run| run.set(vcpu.get_kvm_run()));
        Self(())
    }
}

impl Drop for KickGuard {
    fn drop(&mut self) {
        RUN.with(|run| run.set(ptr::null_mut()));
    }
}

/// A thread that can be kicked.
#[derive(Debug, Clone, Copy)]
pub struct Kickable(libc::pthread_t);

impl Kickable {
    /// The calling thread.
    pub fn current() -> Self {
        // SAFETY: has no preconditions.
        Self(unsafe { libc::pthread_self() })
    }

    /// Takes the thread out of its guest. The thread must not have been joined.
    pub fn kick(self) -> io::Result<()> {
        // SAFETY: the caller promises that the thread is not joined yet, so its identifier is valid.
        match unsafe { libc::pthread_kill(self.0, kick_signal()) } {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }
}

/// What KVM tells of an internal error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InternalError {
    /// Class: 1 is an instruction it cannot emulate.
    pub suberror: u32,
    /// Details; what they mean depends on the class.
    pub data: Vec<u64>,
}

/// Reads the details of `KVM_EXIT_INTERNAL_ERROR` after that exit.
pub fn internal_error(vcpu: &mut VcpuFd) -> InternalError {
    // SAFETY: after this exit the kernel has filled the `internal` member of the union; all of its bit patterns are valid.
    let internal = unsafe { vcpu.get_kvm_run().__bindgen_anon_1.internal };
    let count = (internal.ndata as usize).min(internal.data.len());
    InternalError { suberror: internal.suberror, data: internal.data[..count].to_vec() }
}
