//! The container's half. Everything here is done as its root, in its mount namespace.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, StatxFlags, statx};
use rustix::mount::{OpenTreeFlags, UnmountFlags, open_tree, unmount};

use super::outside::Prepared;
use super::{Outcome, Placed, table};
use crate::error::{Context, Error, Result};
use crate::mounts::{inside::attach_to, target};

/// A container that has been entered.
pub(super) struct Container {
    root: OwnedFd,
    /// Its mount table, from the host's procfs: its own may be covered.
    table: File,
}

/// A device that was taken away, to be put back if something fails.
struct Taken<'a> {
    name: &'a str,
    placed: &'a Placed,
    tree: OwnedFd,
}

impl Container {
    pub(super) fn open(table: File) -> Result<Self> {
        let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        Ok(Self { root: root.context("open the container's root")?, table })
    }

    /// Takes the devices of `detach` away and puts those of `attach` in place: all of it or nothing.
    pub(super) fn change(&self, detach: &BTreeMap<String, Placed>, attach: &[Prepared<'_>]) -> Outcome {
        let mut taken = Vec::new();
        let mut placed = BTreeMap::new();
        let result = self.try_change(detach, attach, &mut taken, &mut placed);
        if let Err(e) = result {
            for device in placed.values() {
                // The failure to be told is the first.
                let _ = self.take(device);
            }
            let back = taken.iter().rev().filter_map(|device| self.put_back(device));
            return Outcome::Failed { message: e.to_string(), placed: back.collect() };
        }
        for (name, device) in detach {
            if device.made && !placed.contains_key(name) {
                remove_target(&device.target);
            }
        }
        Outcome::Done(placed)
    }

    fn try_change<'a>(
        &self,
        detach: &'a BTreeMap<String, Placed>,
        attach: &[Prepared<'_>],
        taken: &mut Vec<Taken<'a>>,
        placed: &mut BTreeMap<String, Placed>,
    ) -> Result<()> {
        let mut order: Vec<_> = detach.iter().collect();
        // What lies in another goes first.
        order.sort_by(|(_, a), (_, b)| b.target.cmp(&a.target));
        for (name, device) in order {
            if let Some(tree) = self.take(device).map_err(|e| about(name, &e))? {
                taken.push(Taken { name, placed: device, tree });
            }
        }
        for device in attach {
            let device_placed = self.put(device).map_err(|e| about(device.name, &e))?;
            placed.insert(device.name.to_owned(), device_placed);
        }
        Ok(())
    }

    fn put(&self, device: &Prepared<'_>) -> Result<Placed> {
        let path = device.device.target();
        let stat = rustix::fs::statat(&device.tree, "", AtFlags::EMPTY_PATH).context("look at it")?;
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let made = matches!(target::open(&self.root, path), Err(e) if e.kind() == std::io::ErrorKind::NotFound);
        let at = if is_dir { target::directory(&self.root, path) } else { target::file(&self.root, path) };
        let at = at.with_context(|| format!("make {path} in the container"))?;
        attach_to(&device.tree, &at).with_context(|| format!("mount {path} in the container"))?;
        self.recognise(&device.tree, path, made)
    }

    /// By what a mount that was just put at `path` is found again.
    fn recognise(&self, tree: &OwnedFd, path: &str, made: bool) -> Result<Placed> {
        let told = statx(tree, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).context("find the new mount")?;
        let mount = told.stx_mnt_id;
        let entry = self.find(mount, None)?.ok_or_else(|| Error::Init(format!("{path} vanished in the container")))?;
        Ok(Placed { target: path.to_owned(), mount, device: entry.device, made })
    }

    /// Puts a device back, which makes it another mount.
    fn put_back(&self, device: &Taken<'_>) -> Option<(String, Placed)> {
        let path = &device.placed.target;
        let back = target::open(&self.root, path).with_context(|| format!("find {path} in the container"));
        let back = back
            .and_then(|at| attach_to(&device.tree, &at).with_context(|| format!("mount {path} in the container")))
            .and_then(|()| self.recognise(&device.tree, path, device.placed.made));
        match back {
            Ok(placed) => Some((device.name.to_owned(), placed)),
            Err(e) => {
                eprintln!("berth-container: device \"{}\" could not be put back: {e}", device.name);
                None
            }
        }
    }

    /// Takes a device away and keeps it; `None` if the container itself had taken it away.
    fn take(&self, device: &Placed) -> Result<Option<OwnedFd>> {
        let Some(entry) = self.find(device.mount, Some(&device.device))? else { return Ok(None) };
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
        let hidden = || {
            Error::Unsupported(format!(
                "the container hides it at {}; stop the container to take the device away",
                entry.path
            ))
        };
        let tree = open_tree(CWD, &*entry.path, flags | OpenTreeFlags::AT_SYMLINK_NOFOLLOW).map_err(|_| hidden())?;
        unmount(&*entry.path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
            .with_context(|| format!("unmount {} in the container", entry.path))?;
        match self.find(device.mount, Some(&device.device))? {
            None => Ok(Some(tree)),
            Some(_) => Err(hidden()),
        }
    }

    fn find(&self, mount: u64, device: Option<&str>) -> Result<Option<table::Entry>> {
        let text = table::read(&self.table).context("read the container's mount table")?;
        let mut entries = table::parse(&text);
        Ok(entries.find(|entry| entry.mount == mount && device.is_none_or(|device| entry.device == device)))
    }
}

fn about(name: &str, error: &Error) -> Error {
    Error::Init(format!("device \"{name}\": {error}"))
}

/// Removes the empty file that was made for a device node. Directories stay: somebody may have used them.
fn remove_target(path: &str) {
    if path.trim_start_matches('/').starts_with("dev/")
        && rustix::fs::stat(path)
            .is_ok_and(|stat| stat.st_size == 0 && FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
    {
        // It is the container's own file and no harm if it stays.
        let _ = rustix::fs::unlink(path);
    }
}
