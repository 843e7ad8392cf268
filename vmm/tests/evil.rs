//! What code that a guest has taken over can do: nothing. Each attempt is made by a process of its own that confines itself as
//! that of a machine does; some with the filter of a thread's kind, some without, because each layer is to hold alone.
//! And what every thread of a machine must be able to do: its work, and to end by a fault that is told as what it is.
//!
//! Needs root, for a user and namespaces of its own.

use std::ffi::CStr;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use berth_devices::worker::ThreadKind;
use berth_vmm::{process, seccomp};

/// Tells the test's program, started anew, which attempt to make where.
const ATTEMPT: &str = "BERTH_EVIL_ATTEMPT";
const PLACE: &str = "BERTH_EVIL_PLACE";
const USER: u32 = 1_999_999_999;

type Attempt = (&'static str, fn(host: &Host) -> io::Result<usize>);

/// What the attempts are aimed at; learned before the confinement.
struct Host {
    pid: usize,
    port: u16,
}

/// Makes a system call; arguments that are left out are 0.
fn call<const COUNT: usize>(number: libc::c_long, given: [usize; COUNT]) -> io::Result<usize> {
    let mut all = [0; 6];
    all[..COUNT].copy_from_slice(&given);
    // SAFETY: callers give numbers and pointers to what lives through the call. Where none of the calls succeeds, none
    // changes anything, and one that does succeed ends the test.
    let result = unsafe { libc::syscall(number, all[0], all[1], all[2], all[3], all[4], all[5]) };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn text(text: &'static CStr) -> usize {
    text.as_ptr() as usize
}

/// All of them; without a filter each is answered with an error.
const ATTEMPTS: [Attempt; 13] = [
    ("open", |_| call(libc::SYS_openat, [libc::AT_FDCWD as usize, text(c"/etc/passwd")])),
    ("read of /proc", |_| call(libc::SYS_open, [text(c"/proc/self/maps")])),
    ("creation", |_| call(libc::SYS_creat, [text(c"/vsock/file"), 0o600])),
    ("device", |_| call(libc::SYS_mknod, [text(c"/kvm"), (libc::S_IFCHR | 0o666) as usize, 0xae8])),
    ("connect", connect),
    ("ptrace", |host| call(libc::SYS_ptrace, [libc::PTRACE_SEIZE as usize, host.pid])),
    ("memory of another", |host| {
        let mut byte = 0_u8;
        let at = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
        let at = (&raw const at) as usize;
        call(libc::SYS_process_vm_readv, [host.pid, at, 1, at, 1])
    }),
    ("kill", |host| call(libc::SYS_kill, [host.pid])),
    ("execve", |_| {
        let nothing = [std::ptr::null::<libc::c_char>()];
        let nothing = nothing.as_ptr() as usize;
        call(libc::SYS_execve, [text(c"/bin/sh"), nothing, nothing])
    }),
    ("mount", |_| call(libc::SYS_mount, [text(c"p"), text(c"/vsock"), text(c"proc")])),
    ("root", |_| call(libc::SYS_setuid, [0])),
    ("namespace", |_| call(libc::SYS_unshare, [libc::CLONE_NEWNET as usize])),
    ("module", |_| call(libc::SYS_finit_module, [0, text(c"")])),
];

/// Refused by filters alone: a process without one may make children and sockets of its own.
const FILTERED: [Attempt; 4] = [
    ("fork", |_| call(libc::SYS_fork, [])),
    ("clone", |_| call(libc::SYS_clone, [libc::SIGCHLD as usize])),
    ("socket", |_| call(libc::SYS_socket, [libc::AF_INET as usize, libc::SOCK_STREAM as usize])),
    ("code", |_| {
        let (access, kind) = (libc::PROT_EXEC | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        call(libc::SYS_mmap, [0, 4096, access as usize, kind as usize, usize::MAX])
    }),
];

/// What libraries may do on any thread, without being asked for it.
const ALLOWED: [Attempt; 3] = [("memory", use_memory), ("log", log), ("clocks", read_clocks)];

/// Grows and shrinks what the allocator has, in pieces that it keeps and in such that it maps, on each of its arenas.
fn use_memory(_: &Host) -> io::Result<usize> {
    let mut total = 0;
    for round in 0..3 {
        let mut pieces: Vec<Vec<u8>> = (0..20_000).map(|at| vec![round; 1 + at * 37 % 5_000]).collect();
        pieces.extend((0..8).map(|at| vec![round; at << 20]));
        for piece in &mut pieces {
            piece.resize(piece.len() * 2, 1);
            piece.shrink_to_fit();
            total += piece.len();
        }
        // Not in the order in which they were made.
        while let Some(piece) = (!pieces.is_empty()).then(|| pieces.swap_remove(pieces.len() / 2)) {
            drop(piece);
        }
    }
    Ok(total)
}

fn log(_: &Host) -> io::Result<usize> {
    tracing::error!(answer = 42, "this is an example");
    Ok(0)
}

fn read_clocks(_: &Host) -> io::Result<usize> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_err(io::Error::other)?;
    std::thread::yield_now();
    Ok(since.as_secs() as usize + std::time::Instant::now().elapsed().as_secs() as usize)
}

/// Ends that are to be told as what they are, with the signal of each; a panic only ends its thread where it is unwound.
const FAULTS: [(Attempt, Option<i32>); 4] = [
    (("abort", |_| std::process::abort()), Some(libc::SIGABRT)),
    (("fault", |_| Ok(read_nothing())), Some(libc::SIGSEGV)),
    (("overflow of the stack", |_| Ok(overflow(&[0; 1024]))), Some(libc::SIGABRT)),
    (("panic", |_| panic!("this is an example")), None),
];

fn read_nothing() -> usize {
    // SAFETY: none; nothing is ever mapped there, and the fault is what is wanted.
    usize::from(unsafe { std::ptr::read_volatile(std::ptr::without_provenance::<u8>(1)) })
}

#[expect(unconditional_recursion, reason = "that is what it is for")]
fn overflow(before: &[usize; 1024]) -> usize {
    let here = std::hint::black_box([before[0] + 1; 1024]);
    overflow(&here) + here[7]
}

/// To a port of the host that listens.
fn connect(host: &Host) -> io::Result<usize> {
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: host.port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes([127, 0, 0, 1]) },
        sin_zero: [0; 8],
    };
    let socket = call(libc::SYS_socket, [libc::AF_INET as usize, libc::SOCK_STREAM as usize])?;
    call(libc::SYS_connect, [socket, (&raw const address) as usize, size_of_val(&address)])
}

/// The threads of a machine by name; those of devices with their kind.
const KINDS: [(&str, Option<ThreadKind>); 6] = [
    ("block", Some(ThreadKind::Block)),
    ("net", Some(ThreadKind::Net)),
    ("vsock", Some(ThreadKind::Vsock)),
    ("rng", Some(ThreadKind::Rng)),
    ("vcpu", None),
    ("owner", None),
];

fn enter_filter(kind: &str) -> io::Result<()> {
    match KINDS.iter().find(|(name, _)| *name == kind) {
        Some((_, Some(device))) => seccomp::devices()(*device),
        _ if kind == "vcpu" => seccomp::vcpu()?.enter(),
        _ => seccomp::owner()?.enter(),
    }
}

fn main() -> ExitCode {
    match (std::env::var(ATTEMPT), std::env::var(PLACE)) {
        (Ok(attempt), Ok(place)) => child(&attempt, &place),
        _ => {
            check_all();
            ExitCode::SUCCESS
        }
    }
}

/// Exit statuses of an attempt.
const REFUSED: u8 = 10;
const SUCCEEDED: u8 = 11;

fn child(attempt: &str, place: &str) -> ExitCode {
    let faults = FAULTS.iter().map(|(fault, _)| fault);
    let mut attempts = ATTEMPTS.iter().chain(&FILTERED).chain(&ALLOWED).chain(faults);
    let (_, evil) = attempts.find(|(name, _)| *name == attempt).expect("an attempt");
    tracing_subscriber::fmt().with_writer(io::stderr).init();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let host = Host {
        pid: std::os::unix::process::parent_id() as usize,
        port: listener.local_addr().expect("an address").port(),
    };
    let work = tempfile::tempdir().expect("a directory");
    std::env::set_current_dir(&work).expect("it can be entered");
    std::fs::create_dir("vsock").expect("a directory can be made");
    process::begin().expect("the process is confined");
    process::enter(USER, Some(std::path::Path::new("vsock"))).expect("the process is confined");
    let place = place.to_owned();
    // As a device's thread does: its set-up, and then what the guest wants.
    let thread = std::thread::spawn(move || {
        if place != "unfiltered" {
            enter_filter(&place).expect("the filter can be entered");
        }
        evil(&host).is_ok()
    });
    // The directory is out of reach by now; the parent's file system keeps it for whoever started this.
    std::mem::forget((work, listener));
    ExitCode::from(if thread.join().expect("it does not panic") { SUCCEEDED } else { REFUSED })
}

fn check_all() {
    for (attempt, _) in &ATTEMPTS {
        let status = make(attempt, "unfiltered");
        assert_eq!(status.code(), Some(i32::from(REFUSED)), "{attempt} without a filter: {status}");
    }
    for (place, _) in &KINDS {
        for (attempt, _) in ATTEMPTS.iter().chain(&FILTERED) {
            let status = make(attempt, place);
            assert_eq!(status.signal(), Some(libc::SIGSYS), "{attempt} on the thread of {place}: {status}");
        }
        for (attempt, _) in &ALLOWED {
            let status = make(attempt, place);
            assert_eq!(status.code(), Some(i32::from(SUCCEEDED)), "{attempt} on the thread of {place}: {status}");
        }
        for ((attempt, _), signal) in &FAULTS {
            let status = make(attempt, place);
            assert_eq!(status.signal(), *signal, "{attempt} on the thread of {place}: {status}");
            assert_ne!(status.code(), Some(i32::from(SUCCEEDED)), "{attempt} on the thread of {place}: {status}");
        }
    }
}

fn make(attempt: &str, place: &str) -> ExitStatus {
    let own = std::env::current_exe().expect("the test has a program");
    let directory = tempfile::tempdir().expect("a directory");
    let mut command = Command::new(own);
    command.env(ATTEMPT, attempt).env(PLACE, place).env("TMPDIR", directory.path());
    // One that looks for the names of functions opens files.
    command.env("RUST_BACKTRACE", "full").stderr(Stdio::null());
    command.status().expect("the test can start itself")
}
