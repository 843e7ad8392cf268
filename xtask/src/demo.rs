//! `cargo xtask demo`: one image as a container and as a virtual machine.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{build, lab, packages, probe};

/// Seconds a daemon may take to be ready; under emulation it is slow.
const READY: &str = "120";
/// Longest run of the part in the lab.
const LAB_TIME: Duration = Duration::from_secs(1800);
/// Waits in a guest until its system bus is there and then until it has booted.
const BOOTED: &str =
    "busctl --watch-bind=yes status org.freedesktop.systemd1 >/dev/null 2>&1; systemctl is-system-running --wait";
const FILE: &str = "Carried in and out again.\n";

/// Options of the demo.
#[derive(Debug, Args)]
pub struct Options {
    /// Take the programs from this folder and the image from that one, and show both kinds (used in the lab)
    #[arg(long, num_args = 2, value_names = ["PROGRAMS", "IMAGE"], hide = true)]
    inside: Vec<PathBuf>,
}

/// Runs the demo.
pub fn run(options: &Options) -> Result<()> {
    let begun = Instant::now();
    if let [programs, image] = &options.inside[..] {
        return Scenario::begin(programs, true)?.show(&Image::Import(image.clone()));
    }
    packages::ensure(&[packages::Purpose::Build, packages::Purpose::Run])?;
    step("Building Berth in release mode");
    let programs = build::run(&build::Options { release: true })?;
    let kvm = probe::ask(&programs)?;
    let scenario = Scenario::begin(&programs, matches!(kvm, probe::Kvm::Usable))?;
    match kvm {
        probe::Kvm::Usable => scenario.show(&Image::Build { export: None })?,
        probe::Kvm::Unusable(reason) => {
            step("No virtual machine can run on this host");
            println!(
                "{reason}\nThe part with the virtual machine follows in the lab, a QEMU machine with real nested KVM."
            );
            packages::ensure(&[packages::Purpose::Lab])?;
            let image = tempfile::tempdir().context("make a directory for the image")?;
            scenario.show(&Image::Build { export: Some(image.path().to_owned()) })?;
            step("The same in the lab, with a virtual machine");
            in_lab(&programs, image.path())?;
        }
    }
    println!("\nDone in {} s.", begun.elapsed().as_secs());
    Ok(())
}

fn in_lab(programs: &Path, image: &Path) -> Result<()> {
    let own = std::env::current_exe().context("find this program")?;
    let words = [own.as_path(), Path::new("demo"), Path::new("--inside"), programs, image];
    let command = words.iter().map(|word| word.display().to_string()).collect();
    match lab::run(&lab::Options::command(command, LAB_TIME))? {
        0 => Ok(()),
        status => bail!("the demo in the lab ended with status {status}; its output above tells why"),
    }
}

/// Where the image comes from.
enum Image {
    /// It is built, and exported to a directory if one is given.
    Build { export: Option<PathBuf> },
    /// It was exported to this directory.
    Import(PathBuf),
}

/// A daemon on a private directory.
struct Scenario {
    programs: PathBuf,
    dir: tempfile::TempDir,
    daemon: Option<Child>,
    with_vm: bool,
}

impl Scenario {
    fn begin(programs: &Path, with_vm: bool) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("berth-demo").tempdir().context("make a private directory")?;
        let mut scenario = Self { programs: programs.to_owned(), dir, daemon: None, with_vm };
        step(&format!("Starting berthd on {}", scenario.dir.path().display()));
        let log = std::fs::File::create(scenario.dir.path().join("berthd.log")).context("make the daemon's log")?;
        let mut command = Command::new(scenario.program("berthd"));
        command.args(["serve", "--dir"]).arg(scenario.dir.path());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        scenario.daemon = Some(command.spawn().context("start berthd")?);
        let dir = scenario.dir.path().display().to_string();
        run_command(Command::new(scenario.program("berthd")).args(["waitready", "--timeout", READY, "--dir", &dir]))?;
        Ok(scenario)
    }

    fn show(mut self, image: &Image) -> Result<()> {
        match image {
            Image::Build { export } => {
                step("Building the image debian/12 from Debian's packages");
                self.berth(&["image", "build", "debian/12", "--alias", "debian/12"])?;
                if let Some(dir) = export {
                    self.berth(&["image", "export", "debian/12", &format!("{}/debian", dir.display())])?;
                }
            }
            Image::Import(dir) => {
                step("Importing the image debian/12");
                let (metadata, rootfs) = parts(dir)?;
                self.berth(&["image", "import", &metadata, &rootfs, "--alias", "debian/12"])?;
            }
        }
        step("Launching it as a container");
        self.berth(&["launch", "debian/12", "c1"])?;
        let mut names = vec!["c1"];
        if self.with_vm {
            step("Launching it as a virtual machine, and waiting for its agent");
            self.berth(&["launch", "debian/12", "v1", "--vm", "--wait"])?;
            names.push("v1");
        }
        for name in &names {
            self.visit(name)?;
        }
        if self.with_vm {
            step("They reach each other by name");
            self.berth(&["exec", "c1", "--", "ping", "-c", "2", "v1"])?;
            self.berth(&["exec", "v1", "--", "ping", "-c", "2", "c1"])?;
        }
        step("What is there");
        self.berth(&["list"])?;
        step("Cleaning up");
        self.end(&names)
    }

    fn visit(&self, name: &str) -> Result<()> {
        step(&format!("Inside {name}"));
        self.berth(&["exec", name, "--", "sh", "-c", BOOTED])?;
        self.berth(&["exec", name, "--", "cat", "/etc/os-release"])?;
        self.berth(&["exec", name, "--", "uname", "-a"])?;
        self.berth(&["exec", name, "--", "/lib/systemd/systemd-networkd-wait-online", "--timeout=120", "-i", "eth0"])?;
        let (out, back) = (self.dir.path().join("out.txt"), self.dir.path().join(format!("back-{name}.txt")));
        std::fs::write(&out, FILE).context("write a file to push")?;
        self.berth(&["file", "push", &out.display().to_string(), &format!("{name}/root/out.txt")])?;
        self.berth(&["file", "pull", &format!("{name}/root/out.txt"), &back.display().to_string()])?;
        if std::fs::read_to_string(&back).context("read the file that was pulled")? != FILE {
            bail!("the file that came back from {name} is not the one that was pushed");
        }
        Ok(())
    }

    fn end(&mut self, names: &[&str]) -> Result<()> {
        for name in names {
            self.berth(&["delete", "--force", name])?;
        }
        self.berth(&["profile", "device", "remove", "default", "eth0"])?;
        for network in self.networks()? {
            self.berth(&["network", "delete", &network])?;
        }
        let dir = self.dir.path().display().to_string();
        run_command(Command::new(self.program("berthd")).args(["shutdown", "--dir", &dir]))?;
        if let Some(mut daemon) = self.daemon.take() {
            daemon.wait().context("wait for berthd")?;
        }
        Ok(())
    }

    fn networks(&self) -> Result<Vec<String>> {
        let output = self.command().args(["query", "/1.0/networks?recursion=1"]).output().context("run berth")?;
        let list: serde_json::Value = serde_json::from_slice(&output.stdout).context("read the list of networks")?;
        let managed = list.as_array().into_iter().flatten().filter(|network| network["managed"] == true);
        Ok(managed.filter_map(|network| network["name"].as_str().map(str::to_owned)).collect())
    }

    fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.program("berth"));
        command.env("BERTH_DIR", self.dir.path());
        command
    }

    fn berth(&self, words: &[&str]) -> Result<()> {
        println!("$ berth {}", words.join(" "));
        run_command(self.command().args(words))
    }
}

impl Drop for Scenario {
    /// After a failure: what was started is ended, as far as it will.
    fn drop(&mut self) {
        if self.daemon.is_none() {
            return;
        }
        let log = std::fs::read_to_string(self.dir.path().join("berthd.log")).unwrap_or_default();
        eprintln!("--- log of berthd ---\n{log}");
        for name in ["c1", "v1"] {
            let _ = self.command().args(["delete", "--force", name]).stderr(Stdio::null()).status();
        }
        if self.end(&[]).is_err()
            && let Some(mut daemon) = self.daemon.take()
        {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

/// Metadata and root file system among the files of an exported image.
fn parts(dir: &Path) -> Result<(String, String)> {
    let mut files: Vec<String> = std::fs::read_dir(dir)
        .with_context(|| format!("read {}", dir.display()))?
        .map(|entry| Ok(entry?.path().display().to_string()))
        .collect::<Result<_>>()?;
    // `NAME` and `NAME.root` or `NAME.squashfs`, as `image export` writes them: the shorter is the metadata.
    files.sort_by_key(|path| std::fs::metadata(path).map(|metadata| metadata.len()).unwrap_or(0));
    let rootfs = files.iter().position(|path| path.ends_with(".squashfs") || path.ends_with(".root"));
    match rootfs.map(|at| files.remove(at)).zip(files.pop()) {
        Some((rootfs, metadata)) => Ok((metadata, rootfs)),
        None => bail!("{} does not hold the two files of an image", dir.display()),
    }
}

fn run_command(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("run {}", command.get_program().display()))?;
    if !status.success() {
        bail!("{} failed ({status}); its output above tells why", command.get_program().display());
    }
    Ok(())
}

fn step(title: &str) {
    println!("\n==> {title}");
    // So that the title stands before what a program writes next.
    let _ = std::io::stdout().flush();
}
