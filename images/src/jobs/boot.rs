//! Reading boot files out of a disk, without any right but to read the open disk.
//!
//! The process that parses has no file system at all: it sends what it found through a pipe. This side, which
//! may write, believes nothing but lengths and names it has checked.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::boot::select::{self, Selection};
use crate::confine;
use crate::jobs;
use crate::wire::{self, Failure, JobResult};

/// What the parser says first.
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
    Found(Found),
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

/// Reads the disk on standard input; puts the files into `cache`/KEY unless they are there.
pub fn run(cache: &Path) -> JobResult<i32> {
    let disk = rustix::stdio::stdin().as_fd().try_clone_to_owned().map_err(Failure::from_io("take the disk"))?;
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(io::Error::from);
    let (answers, say) = pipe().map_err(Failure::from_io("make a pipe"))?;
    let (listen, orders) = pipe().map_err(Failure::from_io("make a pipe"))?;
    // In this process the closure is dropped unused, and with it the child's ends of the pipes.
    let child = confine::spawn(&jobs::parsing(), move || parse(File::from(disk), say, listen))
        .map_err(Failure::from_io("start the confined job"))?;
    let outcome = receive(BufReader::new(File::from(answers)), File::from(orders), cache);
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

fn parse(disk: File, say: OwnedFd, listen: OwnedFd) -> i32 {
    let mut out = File::from(say);
    let outcome = select::select(disk).and_then(|selection| tell(selection, &mut out, File::from(listen)));
    let last = match outcome {
        Ok(()) => Message::End,
        Err(failure) => Message::Failed(failure),
    };
    i32::from(send(&mut out, &last).is_err())
}

fn tell(mut selection: Selection, out: &mut File, mut listen: File) -> JobResult<()> {
    let gone = |e: io::Error| Failure::internal(format!("pipe: {e}"));
    let found = Found {
        key: selection.key(),
        release: selection.release.clone(),
        root: selection.root.clone(),
        args: selection.args.clone(),
        initrd: selection.initrd.is_some(),
        modules: selection.modules.iter().map(|module| module.name.clone()).collect(),
    };
    send(out, &Message::Found(found)).map_err(gone)?;
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
        Err(_) => Err(Failure::internal("the process reading the disk sent something unexpected")),
    }
}

fn check(found: &Found) -> JobResult<()> {
    let printable = |text: &str| text.len() <= 2048 && text.bytes().all(|b| b.is_ascii_graphic());
    let good = found.key.len() == 64
        && found.key.bytes().all(|b| b.is_ascii_hexdigit())
        && found.modules.len() <= FILES_MAX
        && found.modules.iter().all(|name| select::usable_name(name) && name.ends_with(".ko"))
        && found.args.iter().chain([&found.root, &found.release]).all(|text| printable(text));
    if good { Ok(()) } else { Err(Failure::internal("the process reading the disk sent something unexpected")) }
}

fn receive(mut from: impl BufRead, mut orders: File, cache: &Path) -> JobResult<Found> {
    let Message::Found(found) = next(&mut from)? else {
        return Err(Failure::internal("the process reading the disk sent something unexpected"));
    };
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
        _ => Err(Failure::internal("the process reading the disk sent something unexpected")),
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
                    return Err(Failure::internal("the process reading the disk sent something unexpected"));
                }
                let what = || format!("write {name} to the boot cache");
                let mut file = File::create_new(staging.join(&name)).map_err(Failure::from_io(what()))?;
                let copied = io::copy(&mut from.take(size), &mut file).map_err(Failure::from_io(what()))?;
                if copied != size {
                    return Err(Failure::internal("the process reading the disk ended in the middle of a file"));
                }
                count += 1;
            }
            _ => return Err(Failure::internal("the process reading the disk sent something unexpected")),
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
