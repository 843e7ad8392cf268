//! Reading boot files out of a disk, without any right but to read the open disk.
//!
//! The process that parses has no file system at all: it sends what it found through a pipe. This side, which
//! may write, believes nothing but lengths and names it has checked.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::boot::select::{self, Located, Selection};
use crate::confine;
use crate::jobs;
use crate::wire::{self, Failure, JobResult};

/// What a disk can be booted from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bootable {
    /// A kernel of its own.
    Own(Found),
    /// Only with a kernel from elsewhere.
    RootOnly {
        /// Device of its root file system in the guest.
        device: String,
    },
}

/// The helper's result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// What is there is in the state with this stamp, which the caller knows.
    Known {
        /// One of those the caller named.
        stamp: String,
    },
    /// What was found.
    Found {
        /// Names its state for the next time; `None` if that cannot be told.
        stamp: Option<String>,
        /// It.
        bootable: Bootable,
    },
}

/// A kernel that was found, and what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Digest of everything found: name of the directory in the cache.
    pub key: String,
    /// The kernel's release, if it is known.
    pub release: String,
    /// `root=` argument.
    pub root: String,
    /// Further arguments.
    pub args: Vec<String>,
    /// Whether there is an initial RAM disk.
    pub initrd: bool,
    /// File names of modules in load order.
    pub modules: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Message {
    Report(Report),
    File { name: String, size: u64 },
    End,
    Failed(Failure),
}

/// Name of the kernel in the cache.
pub const KERNEL: &str = "kernel";
/// Name of the initial RAM disk in the cache.
pub const INITRD: &str = "initrd";

/// Longest message.
const MESSAGE_MAX: u64 = 256 << 10;
/// Largest file.
const FILE_MAX: u64 = 1 << 30;
/// Largest sum of all files.
const TOTAL_MAX: u64 = 2 << 30;
/// Most files.
const FILES_MAX: usize = 40;

/// Looks at the disk on standard input. Unless it is in a state with a stamp of `known`, reads it and puts the files into
/// `cache`/KEY if they are not there.
pub fn run(cache: &Path, known: &[String]) -> JobResult<i32> {
    let disk = rustix::stdio::stdin().as_fd().try_clone_to_owned().map_err(Failure::from_io("take the disk"))?;
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(io::Error::from);
    let (answers, say) = pipe().map_err(Failure::from_io("make a pipe"))?;
    let (listen, orders) = pipe().map_err(Failure::from_io("make a pipe"))?;
    // In this process the closure is dropped unused, and with it the child's ends of the pipes.
    let stamps = known.to_vec();
    let child = confine::spawn(&jobs::parsing(), move || parse(File::from(disk), &stamps, say, listen))
        .map_err(Failure::from_io("start the confined job"))?;
    let outcome = receive(BufReader::new(File::from(answers)), File::from(orders), cache, known);
    if outcome.is_err() {
        // It may wait for an order that never comes.
        child.kill();
    }
    let code = child.wait().map_err(Failure::from_io("wait for the parser"))?;
    let outcome = match outcome {
        Err(failure) if failure.message.is_empty() => {
            Err(Failure::internal(format!("the process reading the disk ended early with code {code}")))
        }
        other => other,
    };
    Ok(wire::finish(outcome))
}

fn send(out: &mut impl Write, message: &Message) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    out.write_all(&line)
}

fn parse(disk: File, known: &[String], say: OwnedFd, listen: OwnedFd) -> i32 {
    let mut out = File::from(say);
    let outcome = select::select(disk).and_then(|selection| match selection {
        Selection::Own(located) => tell(located, known, &mut out, File::from(listen)),
        Selection::RootOnly { device } => {
            let report = Report::Found { stamp: None, bootable: Bootable::RootOnly { device } };
            send(&mut out, &Message::Report(report)).map_err(gone)
        }
    });
    let last = match outcome {
        Ok(()) => Message::End,
        Err(failure) => Message::Failed(failure),
    };
    i32::from(send(&mut out, &last).is_err())
}

fn gone(e: io::Error) -> Failure {
    Failure::internal(format!("pipe: {e}"))
}

fn tell(located: Located, known: &[String], out: &mut File, mut listen: File) -> JobResult<()> {
    let stamp = located.stamp();
    if let Some(stamp) = stamp.clone().filter(|stamp| known.contains(stamp)) {
        return send(out, &Message::Report(Report::Known { stamp })).map_err(gone);
    }
    let mut selection = located.read()?;
    let found = Found {
        key: selection.key(),
        release: selection.release.clone(),
        root: selection.root.clone(),
        args: selection.args.clone(),
        initrd: selection.initrd.is_some(),
        modules: selection.modules.iter().map(|module| module.name.clone()).collect(),
    };
    let report = Report::Found { stamp, bootable: Bootable::Own(found) };
    send(out, &Message::Report(report)).map_err(gone)?;
    let mut order = [0];
    listen.read_exact(&mut order).map_err(gone)?;
    if order == *b"n" {
        return Ok(());
    }
    let mut file = |name: &str, content: &[u8]| {
        let head = Message::File { name: name.to_owned(), size: content.len() as u64 };
        send(out, &head).and_then(|()| out.write_all(content)).map_err(gone)
    };
    let kernel = selection.unpack_kernel()?;
    file(KERNEL, &kernel)?;
    drop(kernel);
    if let Some(initrd) = selection.initrd.take() {
        file(INITRD, &initrd)?;
    }
    for module in &selection.modules {
        file(&module.name, &select::unpack_module(module)?)?;
    }
    Ok(())
}

fn next(from: &mut impl BufRead) -> JobResult<Message> {
    let mut line = Vec::new();
    from.take(MESSAGE_MAX).read_until(b'\n', &mut line).map_err(Failure::from_io("read from the parser"))?;
    if line.is_empty() {
        // Told by the caller, who knows how the parser ended.
        return Err(Failure::internal(""));
    }
    match serde_json::from_slice(&line) {
        Ok(Message::Failed(failure)) => Err(failure),
        Ok(message) => Ok(message),
        Err(_) => Err(unexpected()),
    }
}

fn unexpected() -> Failure {
    Failure::internal("the process reading the disk sent something unexpected")
}

fn printable(text: &str) -> bool {
    text.len() <= 2048 && text.bytes().all(|b| b.is_ascii_graphic())
}

fn check(found: &Found) -> JobResult<()> {
    let good = found.key.len() == 64
        && found.key.bytes().all(|b| b.is_ascii_hexdigit())
        && found.modules.len() <= FILES_MAX
        && found.modules.iter().all(|name| select::usable_name(name) && name.ends_with(".ko"))
        && found.args.iter().chain([&found.root, &found.release]).all(|text| printable(text));
    if good { Ok(()) } else { Err(unexpected()) }
}

fn is_stamp(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn receive(mut from: impl BufRead, orders: File, cache: &Path, known: &[String]) -> JobResult<Report> {
    let Message::Report(report) = next(&mut from)? else { return Err(unexpected()) };
    match &report {
        Report::Known { stamp } if known.contains(stamp) => {}
        Report::Found { stamp, .. } if stamp.as_deref().is_none_or(is_stamp) => {}
        _ => return Err(unexpected()),
    }
    match report {
        Report::Found { stamp, bootable: Bootable::Own(found) } => {
            let found = fetch(from, orders, cache, found)?;
            Ok(Report::Found { stamp, bootable: Bootable::Own(found) })
        }
        Report::Found { bootable: Bootable::RootOnly { ref device }, .. }
            if !(printable(device) && device.starts_with("/dev/")) =>
        {
            Err(unexpected())
        }
        report => match next(&mut from)? {
            Message::End => Ok(report),
            _ => Err(unexpected()),
        },
    }
}

/// Has the files of a kernel sent, unless the cache has them.
fn fetch(mut from: impl BufRead, mut orders: File, cache: &Path, found: Found) -> JobResult<Found> {
    check(&found)?;
    let place = cache.join(&found.key);
    let order = |orders: &mut File, word: &[u8]| orders.write_all(word).map_err(Failure::from_io("order the files"));
    if place.is_dir() {
        order(&mut orders, b"n")?;
    } else {
        order(&mut orders, b"y")?;
        let staging = tempfile::Builder::new().prefix(".new-").tempdir_in(cache);
        let staging = staging.map_err(Failure::from_io("create a directory in the boot cache"))?;
        store(&mut from, &found, staging.path())?;
        publish(staging, &place)?;
        return Ok(found);
    }
    match next(&mut from)? {
        Message::End => Ok(found),
        _ => Err(unexpected()),
    }
}

fn store(from: &mut impl BufRead, found: &Found, staging: &Path) -> JobResult<()> {
    let mut total = 0;
    let wanted = found.modules.len() + 1 + usize::from(found.initrd);
    let mut count = 0;
    loop {
        match next(from)? {
            Message::End if count == wanted => return Ok(()),
            Message::File { name, size } if count < wanted && size <= FILE_MAX => {
                let known = name == KERNEL || (name == INITRD && found.initrd) || found.modules.contains(&name);
                total += size;
                if !known || total > TOTAL_MAX {
                    return Err(unexpected());
                }
                let what = || format!("write {name} to the boot cache");
                let mut file = File::create_new(staging.join(&name)).map_err(Failure::from_io(what()))?;
                let copied = io::copy(&mut from.take(size), &mut file).map_err(Failure::from_io(what()))?;
                if copied != size {
                    return Err(Failure::internal("the process reading the disk ended in the middle of a file"));
                }
                count += 1;
            }
            _ => return Err(unexpected()),
        }
    }
}

fn publish(staging: tempfile::TempDir, place: &Path) -> JobResult<()> {
    match fs::rename(staging.path(), place) {
        Ok(()) => {
            // Renamed away: there is nothing to remove.
            let _ = staging.keep();
            Ok(())
        }
        // Somebody else was faster; the content is the same.
        Err(_) if place.is_dir() => Ok(()),
        Err(e) => Err(Failure::from_io("put the boot files into the cache")(e)),
    }
}
