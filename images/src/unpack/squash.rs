//! Unpacking a squashfs somebody sent, with the host's `unsquashfs`.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;

use super::budget::Budget;
use super::tool;
use crate::wire::{Failure, JobResult};

/// Unpacks `image` over directory `into`.
///
/// The listing is read first: it tells number and sizes of the files before anything is written.
pub fn unpack(image: &Path, into: &Path, budget: &mut Budget) -> JobResult<()> {
    survey(image, budget)?;
    let mut command = tool::command("unsquashfs");
    // Errors in writing must not end it, since some are wanted (see `tolerated`); the others are told apart below.
    command.args(["-no-progress", "-ignore-errors", "-force", "-dest"]).arg(into).arg(image);
    let mut worst = None;
    let (status, lines) = tool::run("unsquashfs", command, &mut |line| {
        if complains(line) && !tolerated(line) && worst.is_none() {
            worst = Some(line.to_owned());
        }
    })?;
    // 2 means: some files could not be made as they are in the image.
    match (status.code(), worst) {
        (Some(0), _) | (Some(2), None) => Ok(()),
        (_, Some(line)) if line.contains("No space left on device") => {
            Err(Failure::precondition(format!("no space left to unpack the image ({line}); free some and try again")))
        }
        (_, worst) => {
            let why = worst.unwrap_or_else(|| lines.join("; "));
            Err(Failure::invalid(format!("the image's squashfs cannot be unpacked, it may be damaged: {why}")))
        }
    }
}

fn survey(image: &Path, budget: &mut Budget) -> JobResult<()> {
    let mut command = tool::command("unsquashfs");
    command.arg("-lln").arg(image).stdout(Stdio::piped());
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|e| Failure::from_io("make a pipe")(e.into()))?;
    let errors = writer.try_clone().map_err(Failure::from_io("make a pipe"))?;
    command.stdout(Stdio::from(writer)).stderr(Stdio::from(errors));
    let mut child = command.spawn().map_err(tool::cannot_start("unsquashfs"))?;
    drop(command);
    let mut outcome = Ok(());
    let mut last = String::new();
    tool::for_each_line(File::from(reader), &mut |line| {
        if let Some(size) = listed(line) {
            outcome = budget.take_entry().and_then(|()| budget.take_bytes(size));
        } else {
            line.clone_into(&mut last);
        }
        outcome.is_ok()
    })?;
    if outcome.is_err() {
        tool::stop(child);
        return outcome;
    }
    let status = child.wait().map_err(Failure::from_io("wait for unsquashfs"))?;
    if status.success() {
        Ok(())
    } else {
        Err(Failure::invalid(format!("the image's squashfs cannot be read, it may be damaged: {last}")))
    }
}

/// Size of the entry on a line of `unsquashfs -lln`; `None` for other lines.
pub fn listed(line: &str) -> Option<u64> {
    let mut fields = line.split_ascii_whitespace();
    let mode = fields.next()?;
    let kind = mode.chars().next().filter(|kind| "-dlcbps".contains(*kind))?;
    if mode.len() < 10 || !fields.next()?.contains('/') {
        return None;
    }
    Some(if kind == '-' { fields.next()?.parse().ok()? } else { 0 })
}

fn complains(line: &str) -> bool {
    ["failed", "could not", "because", "FATAL", "corrupted", "Failed"].iter().any(|word| line.contains(word))
}

/// Device nodes and the host's own attributes are left out on purpose: the job has no right to make them.
fn tolerated(line: &str) -> bool {
    let device = (line.contains("character device") || line.contains("block device"))
        && (line.contains("Operation not permitted") || line.contains("not superuser"));
    let attribute = line.contains("xattr")
        && (line.contains("Operation not permitted") || line.contains("not supported"))
        && !line.contains("security.capability");
    device || attribute
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listing_lines_are_told_from_others() {
        assert_eq!(listed("-rw-r--r-- 0/0              1234 2026-11-24 05:59 squashfs-root/etc/x"), Some(1234));
        assert_eq!(listed("drwxr-xr-x 0/0                33 2026-11-24 05:59 squashfs-root"), Some(0));
        assert_eq!(listed("crw-rw-rw- 0/0             1,  3 2026-11-24 05:59 squashfs-root/dev/null"), Some(0));
        assert_eq!(listed("Parallel unsquashfs: Using 2 processors"), None);
        assert_eq!(listed(""), None);
    }
}
