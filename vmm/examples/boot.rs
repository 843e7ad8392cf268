//! Boots a machine without the daemon, for trials:
//!
//! ```text
//! boot --vmm target/debug/berth-vmm --kernel vmlinux --initrd guest.cpio --disk root.img --tap tap0 --cid 3 \
//!      --step '# => uname -a' --step '# => !shutdown'
//! ```
//!
//! A step waits until its first part is printed and then types its second part, or, if that begins with `!`, sends
//! that request (`!shutdown`, `!pause`, `!resume`, `!kill`). What the machine prints goes to standard output, what it
//! tells otherwise to standard error.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use anyhow::{Context, bail};
use berth_supervisor::handshake::{FdIndex, HANDSHAKE_FD, PROTOCOL_VERSION, Proceed, Progress, Start};
use berth_supervisor::protocol::{CONTROL_SOCKET, Event, Reply, Request};
use berth_supervisor::transport::Endpoint;
use berth_vmm::settings::{DiskSettings, NicSettings};
use berth_vmm::spec::{DiskSpec, NicSpec, OriginSpec, VmSpec};
use clap::Parser;

#[derive(Parser)]
struct Arguments {
    #[arg(long)]
    vmm: PathBuf,
    #[arg(long)]
    kernel: PathBuf,
    #[arg(long)]
    initrd: Vec<PathBuf>,
    #[arg(long, default_value = "console=ttyS0 panic=-1")]
    cmdline: String,
    #[arg(long)]
    disk: Vec<PathBuf>,
    #[arg(long)]
    tap: Vec<String>,
    #[arg(long)]
    cid: Option<u32>,
    #[arg(long, default_value_t = 1)]
    vcpus: u8,
    /// MiB
    #[arg(long, default_value_t = 256)]
    memory: u64,
    /// User and group the machine's process becomes
    #[arg(long, default_value_t = 1_000_000)]
    user: u32,
    #[arg(long)]
    run_dir: PathBuf,
    #[arg(long)]
    step: Vec<String>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    std::fs::create_dir_all(&arguments.run_dir)?;
    let (spec, fds) = specification(&arguments)?;
    let (daemon, supervisor) = Endpoint::pair()?;
    let begun = std::time::Instant::now();
    let mut child = spawn(&arguments, supervisor)?;
    let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    daemon.send(&Start { protocol: PROTOCOL_VERSION, spec }, &borrowed)?;
    expect(&daemon, &Progress::Created { init_pid: None })?;
    eprintln!("created after {:?}", begun.elapsed());
    daemon.send(&Proceed, &[])?;
    expect(&daemon, &Progress::Running)?;
    drop(daemon);
    let control = arguments.run_dir.join(CONTROL_SOCKET);
    let events = Endpoint::connect(&control)?;
    events.send(&Request::Subscribe, &[])?;
    let watcher = std::thread::spawn(move || watch(&events));
    console(&control, &arguments.step)?;
    let exit = watcher.join().expect("the watcher does not panic");
    eprintln!("vmm ended with {}, after {:?}, {exit:?}", child.wait()?, begun.elapsed());
    Ok(())
}

fn specification(arguments: &Arguments) -> anyhow::Result<(VmSpec, Vec<OwnedFd>)> {
    let mut fds: Vec<OwnedFd> = Vec::new();
    let mut add = |fd: OwnedFd| {
        fds.push(fd);
        FdIndex(fds.len() as u32 - 1)
    };
    let open = |path: &Path| File::open(path).with_context(|| format!("open {}", path.display()));
    let kernel = add(open(&arguments.kernel)?.into());
    let mut initrds = Vec::new();
    for path in &arguments.initrd {
        initrds.push(add(open(path)?.into()));
    }
    let mut disks = Vec::new();
    for (i, path) in arguments.disk.iter().enumerate() {
        let file = File::options().read(true).write(true).open(path)?;
        let (id, settings) = (format!("disk{i}"), DiskSettings::default());
        disks.push(DiskSpec { file: add(file.into()), readonly: false, id, settings });
    }
    let mut nics = Vec::new();
    for (i, name) in arguments.tap.iter().enumerate() {
        let (hwaddr, settings) = ([0x02, 0, 0, 0, 0, i as u8 + 1], NicSettings::default());
        nics.push(NicSpec { id: format!("eth{i}"), tap: add(tap(name)?), hwaddr, mtu: 1500, settings });
    }
    let spec = VmSpec {
        uuid: "00112233445566778899aabbccddeeff".into(),
        name: "trial".into(),
        user: arguments.user,
        vcpus: arguments.vcpus,
        memory: arguments.memory << 20,
        origin: OriginSpec::Boot { kernel, initrds, cmdline: arguments.cmdline.clone() },
        disks,
        nics,
        vsock_cid: arguments.cid,
        console_log: arguments.run_dir.join("console.log"),
    };
    Ok((spec, fds))
}

fn tap(name: &str) -> anyhow::Result<OwnedFd> {
    let file = File::options().read(true).write(true).open("/dev/net/tun").context("open /dev/net/tun")?;
    // SAFETY: a zeroed ifreq is valid, and the kernel reads no more than it.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
        if libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &request) != 0 {
            return Err(std::io::Error::last_os_error()).with_context(|| format!("make {name}"));
        }
    }
    Ok(file.into())
}

fn spawn(arguments: &Arguments, supervisor: Endpoint) -> anyhow::Result<Child> {
    let fd = supervisor.into_fd();
    let raw = fd.as_raw_fd();
    let mut command = Command::new(&arguments.vmm);
    command.arg("run").arg("--run-dir").arg(&arguments.run_dir);
    // SAFETY: only async-signal-safe calls between fork and exec.
    unsafe {
        command.pre_exec(move || {
            let moved = if raw == HANDSHAKE_FD {
                // Same number: dup2 would leave it to be closed at exec.
                libc::fcntl(raw, libc::F_SETFD, 0)
            } else {
                libc::dup2(raw, HANDSHAKE_FD)
            };
            if moved == -1 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
        });
    }
    Ok(command.spawn()?)
}

fn expect(daemon: &Endpoint, wanted: &Progress) -> anyhow::Result<()> {
    match daemon.recv::<Progress>()? {
        Some((progress, _)) if progress == *wanted => Ok(()),
        other => bail!("berth-vmm said {other:?}"),
    }
}

fn watch(events: &Endpoint) -> Option<Event> {
    while let Ok(Some((reply, _))) = events.recv::<Reply>() {
        eprintln!("*** {reply:?}");
        if let Reply::Event(event @ Event::Exited(_)) = reply {
            return Some(event);
        }
    }
    None
}

fn console(control: &Path, steps: &[String]) -> anyhow::Result<()> {
    let session = Endpoint::connect(control)?;
    session.send(&Request::Console { force: false }, &[])?;
    let Some((Reply::Console, fds)) = session.recv::<Reply>()? else { bail!("no console") };
    let mut stream = UnixStream::from(fds.into_iter().next().context("no descriptor")?);
    let mut steps = steps.iter().filter_map(|step| step.split_once(" => ")).peekable();
    let mut seen = String::new();
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        std::io::stdout().write_all(&buffer[..count])?;
        std::io::stdout().flush()?;
        seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
        while let Some((text, action)) = steps.peek() {
            let Some(at) = seen.find(text) else { break };
            seen.drain(..at + text.len());
            match action.strip_prefix('!') {
                Some(request) => eprintln!("*** {request}: {:?}", ask(control, request)?),
                None => stream.write_all(format!("{action}\n").as_bytes())?,
            }
            steps.next();
        }
    }
}

fn ask(control: &Path, request: &str) -> anyhow::Result<Reply> {
    let endpoint = Endpoint::connect(control)?;
    endpoint.send(&serde_json::Value::String(request.to_owned()), &[])?;
    Ok(endpoint.recv()?.context("no answer")?.0)
}
