//! QEMU as a peer.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
};

use anyhow::{Context, Result, bail};
use berth_guest::protocol::{AGENT_MARK, USER_SPACE_MARK};

use super::{Boot, Options, PATIENCE, guest::Guest, now};
use crate::memory;
use crate::{report::BERTH, run};

const PROGRAM: &str = "qemu-system-x86_64";
const VHOST_VSOCK: &str = "/dev/vhost-vsock";
/// A locally administered address.
const HWADDR: &str = "52:54:00:be:57:01";
/// Lines of a console that an error shows.
const CONSOLE_TAIL: usize = 15;

/// The machine types, each with what makes it the best of its kind for a stock kernel.
const MACHINES: &[(&str, &str)] = &[("qemu q35", "q35"), ("qemu microvm", "microvm,pcie=on,rtc=off,pit=off,pic=off")];

/// A machine type, ready to boot.
pub struct Qemu {
    name: &'static str,
    arguments: Vec<String>,
    /// Bytes of the guest's memory.
    memory: u64,
    _tap: Tap,
}

/// Version of the installed QEMU.
pub fn version() -> Result<String> {
    if !run::on_path(PROGRAM) {
        bail!("{PROGRAM} is not on PATH; install qemu-system-x86");
    }
    let text = run::output(Command::new(PROGRAM).arg("--version"))?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// The machine types that get the guest up, each booted once for its caches' sake.
pub fn usable(guest: &Guest, options: &Options) -> Result<Vec<Qemu>> {
    let mut usable = Vec::new();
    for (name, machine) in MACHINES {
        run::check_interrupt()?;
        eprintln!("First boot of {name}");
        let qemu = Qemu::new(name, machine, guest, options)?;
        match tokio::task::block_in_place(|| qemu.boot()) {
            Ok(_) => usable.push(qemu),
            Err(error) => eprintln!("{name} is left out, because it does not get the guest up: {error:#}"),
        }
    }
    if usable.is_empty() {
        bail!("QEMU got the guest up as none of its machine types, so that there is nothing to compare {BERTH} with");
    }
    Ok(usable)
}

impl Qemu {
    fn new(name: &'static str, machine: &str, guest: &Guest, options: &Options) -> Result<Self> {
        let tap = Tap::on(&guest.bridge)?;
        let disk = guest.disk_for(&name.replace(' ', "-"))?;
        let mut arguments = vec!["-machine".to_owned(), format!("{machine},accel=kvm"), "-append".to_owned()];
        arguments.push(guest.command_line.clone());
        let text = |path: &Path| path.display().to_string();
        let rest = format!(
            "-cpu host -smp {} -m {} -nodefaults -no-user-config -display none -no-reboot -serial stdio \
             -kernel {} -initrd {} -drive if=none,id=root,format=raw,file={} -device virtio-blk-pci,drive=root,serial=root \
             -netdev tap,id=net,ifname={},script=no,downscript=no,vhost=off \
             -device virtio-net-pci,netdev=net,mac={HWADDR},romfile= -device virtio-rng-pci",
            options.cpus,
            options.memory,
            text(&guest.kernel),
            text(&guest.initrd),
            text(&disk),
            tap.0,
        );
        arguments.extend(rest.split_whitespace().map(str::to_owned));
        if vhost_vsock() {
            arguments.extend(["-device".to_owned(), format!("vhost-vsock-pci,guest-cid={}", context_id())]);
        }
        Ok(Self { name, arguments, memory: options.memory << 20, _tap: tap })
    }

    /// Who this is.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Boots until the agent is up, and ends the machine.
    pub fn boot(&self) -> Result<Boot> {
        let requested = now();
        let child = Command::new(PROGRAM)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {PROGRAM}"))?;
        let mut process = Process(child);
        let output = process.0.stdout.take().context("the console is not piped")?;
        let marks = watch(output);
        let next = || match marks.recv_timeout(PATIENCE) {
            Ok(Said::Mark(time)) => Ok(time),
            Ok(Said::End(console)) => bail!("{PROGRAM} ended; end of its console:\n{console}"),
            Err(_) => bail!("it takes longer than {PATIENCE:?}"),
        };
        let times = next().and_then(|user_space| Ok((user_space, next()?)));
        let (user_space, agent) = times.map_err(|error| error.context(process.end()))?;
        let memory = memory::beside_guest(process.0.id(), self.memory)?;
        // To ask for the machine and to start its process are one here.
        Ok(Boot { requested, process: requested, user_space, agent, memory })
    }
}

/// What the console said.
enum Said {
    /// The next mark, at this time.
    Mark(u64),
    /// Nothing more; these were its last lines.
    End(String),
}

/// Waits for the marks in their order. The console is read on to its end, so that the guest is never held up.
fn watch(output: ChildStdout) -> mpsc::Receiver<Said> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut marks = [USER_SPACE_MARK, AGENT_MARK].into_iter().peekable();
        let mut tail = VecDeque::new();
        for line in BufReader::new(output).split(b'\n') {
            let Ok(line) = line else { break };
            let time = now();
            let line = String::from_utf8_lossy(&line).into_owned();
            if marks.next_if(|mark| line.contains(mark)).is_some() {
                // Nobody waits any more if something else failed.
                let _ = sender.send(Said::Mark(time));
            }
            tail.push_back(line);
            if tail.len() > CONSOLE_TAIL {
                tail.pop_front();
            }
        }
        let _ = sender.send(Said::End(Vec::from(tail).join("\n")));
    });
    receiver
}

/// A running QEMU; ends with this value.
struct Process(Child);

impl Process {
    /// Ends it; gives its complaint.
    fn end(&mut self) -> String {
        // Ended already is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
        let mut text = String::new();
        if let Some(mut stderr) = self.0.stderr.take() {
            let _ = stderr.read_to_string(&mut text);
        }
        format!("{PROGRAM} said: {}", text.trim())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

/// A network link of the host's on a bridge; removed when dropped.
struct Tap(String);

impl Tap {
    fn on(bridge: &str) -> Result<Self> {
        /// Number of the next one.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("bb{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        ip(&["tuntap", "add", "dev", &name, "mode", "tap", "vnet_hdr"])?;
        let tap = Self(name);
        ip(&["link", "set", "dev", &tap.0, "master", bridge, "up"])?;
        Ok(tap)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        if let Err(error) = ip(&["link", "delete", "dev", &self.0]) {
            eprintln!("warning: {error:#}");
        }
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    run::output(Command::new("ip").args(arguments))?;
    Ok(())
}

/// Whether the host's kernel has a vsock device for QEMU's guests; without one the guest is up all the same.
fn vhost_vsock() -> bool {
    if !Path::new(VHOST_VSOCK).exists() {
        // A kernel without the module has no such device, and that is that.
        let _ = Command::new("modprobe").arg("vhost_vsock").stderr(Stdio::null()).status();
    }
    Path::new(VHOST_VSOCK).exists()
}

/// A vsock address that nobody else is likely to have.
fn context_id() -> u32 {
    0x4000_0000 | std::process::id()
}
