//! Making images and calling the helper.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use berth_images::wire::{Failure, Fault, Line};

pub const HELPER: &str = env!("CARGO_BIN_EXE_berth-image");
pub const METADATA: &str =
    "architecture: x86_64\ncreation_date: 1700000000\nproperties:\n  os: Test\n  description: a test\n";

/// An archive under construction.
pub struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    pub fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    /// With a good `metadata.yaml` and a `rootfs`.
    pub fn unified() -> Self {
        Self::new().file("metadata.yaml", METADATA.as_bytes(), 0o644).entry(
            "rootfs/",
            tar::EntryType::Directory,
            "",
            &[],
            0o755,
        )
    }

    /// Any entry; its name and link are written as they are.
    pub fn entry(mut self, name: &str, kind: tar::EntryType, link: &str, content: &[u8], mode: u32) -> Self {
        let mut header = tar::Header::new_gnu();
        let gnu = header.as_gnu_mut().expect("gnu");
        gnu.name[..name.len()].copy_from_slice(name.as_bytes());
        gnu.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(mode);
        header.set_uid(1234);
        header.set_gid(2345);
        header.set_mtime(1_600_000_000);
        if matches!(kind, tar::EntryType::Char | tar::EntryType::Block) {
            header.set_device_major(1).expect("major");
            header.set_device_minor(3).expect("minor");
        }
        header.set_cksum();
        self.0.append(&header, content).expect("append");
        self
    }

    pub fn file(self, name: &str, content: &[u8], mode: u32) -> Self {
        self.entry(name, tar::EntryType::Regular, "", content, mode)
    }

    pub fn symlink(self, name: &str, to: &str) -> Self {
        self.entry(name, tar::EntryType::Symlink, to, &[], 0o777)
    }

    pub fn hard_link(self, name: &str, to: &str) -> Self {
        self.entry(name, tar::EntryType::Link, to, &[], 0o644)
    }

    /// A character device.
    pub fn device(mut self, name: &str, major: u32, minor: u32) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Char);
        header.set_size(0);
        header.set_mode(0o666);
        header.set_uid(0);
        header.set_gid(0);
        header.set_device_major(major).expect("major");
        header.set_device_minor(minor).expect("minor");
        self.0.append_data(&mut header, name, std::io::empty()).expect("append");
        self
    }

    /// A file whose size stands in an extended header only, as that of one beyond 8 GiB does.
    pub fn large(mut self, name: &str, content: &[u8]) -> Self {
        let size = content.len().to_string();
        self.0.append_pax_extensions([("size", size.as_bytes())]).expect("size");
        let mut header = tar::Header::new_ustar();
        header.set_path(name).expect("path");
        header.set_size(0);
        header.set_mode(0o600);
        header.set_uid(0);
        header.set_gid(0);
        header.set_cksum();
        let padding = vec![0; content.len().next_multiple_of(512) - content.len()];
        let out = self.0.get_mut();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(content);
        out.extend_from_slice(&padding);
        self
    }

    /// Extended attributes for the entry that follows.
    pub fn attributes(mut self, attributes: &[(&str, &[u8])]) -> Self {
        let names: Vec<String> = attributes.iter().map(|(name, _)| format!("SCHILY.xattr.{name}")).collect();
        let pairs = names.iter().zip(attributes).map(|(name, (_, value))| (name.as_str(), *value));
        self.0.append_pax_extensions(pairs).expect("attributes");
        self
    }

    pub fn bytes(self) -> Vec<u8> {
        self.0.into_inner().expect("archive")
    }

    pub fn save(self, directory: &Path, name: &str) -> PathBuf {
        save(directory, name, &self.bytes())
    }
}

pub fn save(directory: &Path, name: &str, content: &[u8]) -> PathBuf {
    let path = directory.join(name);
    fs::File::create(&path).and_then(|mut file| file.write_all(content)).expect("write");
    path
}

/// A scratch directory with a `dest` and an `outside` in it.
pub struct Place {
    pub dir: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        fs::create_dir(dir.path().join("dest")).expect("mkdir");
        fs::create_dir(dir.path().join("outside")).expect("mkdir");
        fs::write(dir.path().join("outside/secret"), "secret").expect("write");
        Self { dir }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn dest(&self) -> PathBuf {
        self.path().join("dest")
    }

    /// Nothing beside the destination changed.
    pub fn check_outside(&self) {
        assert_eq!(fs::read_to_string(self.path().join("outside/secret")).expect("secret"), "secret");
        assert_eq!(fs::read_dir(self.path().join("outside")).expect("outside").count(), 1);
        for name in ["/evil", "/tmp/evil", "/etc/evil", "/usr/evil"] {
            assert!(fs::symlink_metadata(name).is_err(), "{name} was made");
        }
    }

    pub fn unpack(&self, metadata: &Path, rootfs: Option<&Path>, options: &[&str]) -> Result<(), Failure> {
        let mut command = Command::new(HELPER);
        command.arg("unpack").arg("--metadata").arg(metadata).arg("--dest").arg(self.dest()).args(options);
        if let Some(rootfs) = rootfs {
            command.arg("--rootfs").arg(rootfs);
        }
        let outcome = outcome(&run(command));
        self.check_outside();
        outcome.map(drop)
    }
}

pub fn run(mut command: Command) -> Output {
    command.stdin(Stdio::null()).output().expect("helper")
}

/// The result the helper reports.
pub fn outcome(output: &Output) -> Result<serde_json::Value, Failure> {
    let text = String::from_utf8(output.stdout.clone()).expect("UTF-8");
    let mut outcome = None;
    for line in text.lines() {
        match serde_json::from_str(line).expect(line) {
            Line::Progress(_) => {}
            Line::Done(value) => outcome = Some(Ok(value)),
            Line::Failed(failure) => outcome = outcome.or(Some(Err(failure))),
        }
    }
    let outcome = outcome.unwrap_or_else(|| panic!("no outcome: {output:?}"));
    assert_eq!(output.status.success(), outcome.is_ok(), "{output:?}");
    outcome
}

/// The failure must be the image's fault and say `reason`.
pub fn refused(outcome: Result<(), Failure>, reason: &str) {
    let failure = outcome.expect_err(reason);
    assert_eq!(failure.fault, Fault::Invalid, "{failure:?}");
    assert!(failure.message.contains(reason), "{:?} lacks {reason:?}", failure.message);
}

pub fn tool(name: &str, args: &[&std::ffi::OsStr]) {
    let output = Command::new(name).args(args).stdin(Stdio::null()).output().expect(name);
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
}
