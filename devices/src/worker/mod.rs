//! The thread on which a device runs its queues.

use std::io;
use std::sync::Arc;

/// What a thread is for; the machine confines each kind with its own filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ThreadKind {
    /// A disk.
    Block,
    /// A network card.
    Net,
    /// The socket device.
    Vsock,
    /// The entropy source.
    Rng,
}

impl ThreadKind {
    /// System calls (x86_64 numbers) a thread of this kind makes after its set-up, for a seccomp filter.
    pub fn syscalls(self) -> &'static [libc::c_long] {
        &[]
    }
}

/// Called first thing on each new device thread, before it touches anything of the guest. An error stops the device
/// from being made.
pub type ThreadSetup = Arc<dyn Fn(ThreadKind) -> io::Result<()> + Send + Sync>;

/// A set-up that does nothing.
pub fn no_setup() -> ThreadSetup {
    Arc::new(|_| Ok(()))
}
