//! The lab's machine: QEMU with its software CPU.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Write},
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::{Options, files::Files, output};

/// Everything the emulation has, for SVM among it, but XSAVE: it does not intercept XSETBV of a nested guest, which so
/// changes the state components of the lab's own kernel behind its back; guests then crash at random. What needs XSAVE
/// goes with it, which QEMU does not see to: kernels take AVX for usable because it is told.
const CPU: &str = "max,-xsave,-avx,-avx2,-f16c,-fma,-vaes,-vpclmulqdq";

/// One thread runs all CPUs of the lab. With one for each, QEMU before 8.1 translates code without a lock on its page:
/// what another CPU patches at that moment stays in the translation for good, and the kernel, which patches itself
/// while it runs (text_poke_bp), then hangs in a breakpoint that is no longer there.
const ACCELERATOR: &str = "tcg,thread=single";

/// Labs at once on one machine: they share its few CPUs and its memory.
pub const SLOTS: usize = 2;
/// Size of the sparse scratch disk.
const SCRATCH: u64 = 16 << 30;
const SCRATCH_DRIVE: &str = "if=none,id=scratch,format=raw,cache=unsafe,discard=unmap";
/// Lines of the console that are shown when the lab fails.
const CONSOLE_TAIL: usize = 25;

/// A running lab; ends with this value.
struct Machine {
    qemu: Child,
    /// The machine has the terminal.
    terminal: bool,
    console: PathBuf,
    _slot: File,
}

impl Drop for Machine {
    fn drop(&mut self) {
        // By SIGTERM QEMU gives the terminal back as it found it. It is a child not waited for yet, so its id is
        // still its own.
        let signal = if self.terminal { Signal::TERM } else { Signal::KILL };
        if let Some(pid) = Pid::from_raw(self.qemu.id() as i32) {
            let _ = kill_process(pid, signal);
        }
        let _ = self.qemu.wait();
    }
}

/// What happens to a lab.
enum Event {
    /// The control port said something.
    Line(String),
    /// The control port was closed: the machine is gone.
    Gone,
    /// A stream of output came to its end.
    Drained,
}

/// Boots the machine and runs `script` in it.
pub fn run(directory: &Path, files: &Files, options: &Options, script: &str) -> Result<i32> {
    let slot = slot(directory)?;
    let started = Instant::now();
    let deadline = started + Duration::from_secs(options.timeout);
    let (control, control_end) = UnixStream::pair()?;
    let (out, out_end) = UnixStream::pair()?;
    let (err, err_end) = UnixStream::pair()?;
    let machine = boot(directory, files, options, slot, [control_end.into(), out_end.into(), err_end.into()])?;

    let (events, inbox) = mpsc::channel();
    watch_control(control.try_clone()?, events.clone());
    let mut undrained = 0;
    if !options.shell {
        undrained = 2;
        let out_events = events.clone();
        let (stdout, stderr) = (output::sink(io::stdout(), options.label), output::sink(io::stderr(), options.label));
        thread::spawn(move || {
            // A reader of our output that went away is no reason to end the command.
            let _ = output::pump(out, stdout);
            let _ = out_events.send(Event::Drained);
        });
        thread::spawn(move || {
            let _ = output::pump(err, stderr);
            let _ = events.send(Event::Drained);
        });
    }
    let (mut ready, mut status) = (false, None);
    loop {
        if let (Some(status), 0) = (status, undrained) {
            // Of no use when nothing went wrong with the machine itself.
            let _ = fs::remove_file(&machine.console);
            return Ok(status);
        }
        match inbox.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Event::Drained) => undrained -= 1,
            Ok(Event::Line(line)) => match line.split_once(' ') {
                Some(("ready", uptime)) => {
                    ready = true;
                    if options.verbose {
                        let wall = started.elapsed().as_secs_f32();
                        eprintln!("lab: ready after {wall:.1} s ({uptime} s by its own clock)");
                    }
                    (&control).write_all(format!("{}\n{script}", script.len()).as_bytes())?;
                }
                Some(("exit", code)) => status = Some(code.parse().context("the lab told a broken exit status")?),
                _ => bail!("the lab said what was not understood: {line:?}"),
            },
            Ok(Event::Gone) | Err(mpsc::RecvTimeoutError::Disconnected) => {
                bail!("the lab ended before its command did. End of its console:\n{}", tail(&machine.console));
            }
            Err(mpsc::RecvTimeoutError::Timeout) => bail!(
                "the lab was ended after {} s (--timeout): {}. End of its console:\n{}",
                options.timeout,
                if ready { "its command still ran" } else { "it was still booting" },
                tail(&machine.console)
            ),
        }
    }
}

fn watch_control(control: UnixStream, events: mpsc::Sender<Event>) {
    thread::spawn(move || {
        for line in BufReader::new(control).lines() {
            let Ok(line) = line else { break };
            if events.send(Event::Line(line)).is_err() {
                return;
            }
        }
        let _ = events.send(Event::Gone);
    });
}

/// Waits for a free slot; the lock on its file is held as long as the lab runs.
fn slot(directory: &Path) -> Result<File> {
    let open = |i: usize| File::create(directory.join(format!("slot{i}.lock")));
    for i in 0..SLOTS {
        let file = open(i)?;
        if file.try_lock().is_ok() {
            return Ok(file);
        }
    }
    eprintln!("lab: {SLOTS} labs are running; waiting for one of them to end");
    // Whichever is free first; a lock that another thread gets later is given up with the channel.
    let (sender, receiver) = mpsc::channel();
    for i in 0..SLOTS {
        let (file, sender) = (open(i)?, sender.clone());
        thread::spawn(move || sender.send(file.lock().map(|()| file)));
    }
    Ok(receiver.recv()??)
}

fn boot(directory: &Path, files: &Files, options: &Options, slot: File, ports: [OwnedFd; 3]) -> Result<Machine> {
    let label = options.label.unwrap_or_default();
    let console = directory.join(format!("console-{}-{label}.log", std::process::id()));
    let scratch = scratch_disk()?;
    let mut qemu = Command::new("qemu-system-x86_64");
    qemu.args(["-accel", ACCELERATOR, "-cpu", CPU, "-nodefaults", "-no-user-config", "-no-reboot"])
        .args(["-display", "none", "-smp", &options.cpus.to_string(), "-m", &options.memory.to_string()])
        .arg("-kernel")
        .arg(&files.kernel.image)
        .arg("-initrd")
        .arg(&files.initrd)
        .args(["-append", &command_line(files, options)])
        .args(["-fsdev", "local,id=host,path=/,security_model=none,multidevs=remap,readonly=on"])
        .args(["-device", "virtio-9p-pci,fsdev=host,mount_tag=host", "-device", "virtio-rng-pci"])
        .args(["-drive", &format!("file=/proc/self/fd/{},{SCRATCH_DRIVE}", scratch.as_raw_fd())])
        .args(["-device", "virtio-blk-pci,drive=scratch"])
        .args(["-chardev", &format!("file,id=serial,path={}", console.display()), "-serial", "chardev:serial"])
        .args(["-device", "virtio-serial-pci"]);
    let mut inherited: Vec<RawFd> = vec![scratch.as_raw_fd()];
    for (i, port) in ports.iter().enumerate() {
        let (fd, number) = (port.as_raw_fd(), i + 1);
        qemu.args(["-chardev", &format!("socket,id=port{number},fd={fd}")])
            .args(["-device", &format!("virtserialport,chardev=port{number},nr={number}")]);
        inherited.push(fd);
    }
    if options.shell {
        qemu.args(["-chardev", "stdio,id=terminal,signal=off", "-device", "virtconsole,chardev=terminal,nr=8"]);
    } else {
        qemu.stdin(Stdio::null()).stdout(Stdio::null());
    }
    // SAFETY: only system calls are made between fork and exec.
    unsafe {
        qemu.pre_exec(move || {
            for &fd in &inherited {
                inherit(fd)?;
            }
            // The lab ends with this process, however that ends.
            Ok(rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?)
        });
    }
    let qemu = qemu.spawn().context("cannot start qemu-system-x86_64")?;
    Ok(Machine { qemu, terminal: options.shell, console, _slot: slot })
}

fn inherit(fd: RawFd) -> io::Result<()> {
    // SAFETY: the descriptor belongs to the caller, which keeps it open until the spawn is done.
    let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
    Ok(rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty())?)
}

fn command_line(files: &Files, options: &Options) -> String {
    let modules = files.kernel.modules.display();
    // On a busy host the emulated timer comes too late for the kernel's check of it.
    let shell = u8::from(options.shell);
    format!("console=ttyS0 panic=-1 mitigations=off no_timer_check quiet lab.shell={shell} lab.modules={modules}")
}

/// An ext4 disk that vanishes with its last descriptor.
fn scratch_disk() -> Result<File> {
    let file = tempfile::tempfile()?;
    file.set_len(SCRATCH)?;
    let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    let output = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", "-O", "^has_journal", &path])
        .output()
        .context("cannot run mkfs.ext4")?;
    if !output.status.success() {
        bail!("mkfs.ext4 failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(file)
}

fn tail(console: &Path) -> String {
    let bytes = fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(CONSOLE_TAIL)..].join("\n")
}
