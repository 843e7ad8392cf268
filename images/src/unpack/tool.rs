//! Running the host's tools inside the confinement.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::wire::{Failure, JobResult};

/// Lines of a tool's output that are kept for an error message.
const KEPT_LINES: usize = 20;
/// Longest line that is looked at.
const LINE_MAX: u64 = 16 << 10;

/// Package that brings a tool, for the message when it is missing.
fn package(tool: &str) -> &str {
    match tool {
        "unsquashfs" | "mksquashfs" => "squashfs-tools",
        "mke2fs" | "resize2fs" | "e2fsck" => "e2fsprogs",
        "qemu-img" => "qemu-utils",
        other => other,
    }
}

/// A command with a fixed environment. `/sbin` is where some of the tools live.
pub fn command(tool: &str) -> Command {
    let mut command = Command::new(tool);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C.UTF-8");
    command
}

/// The failure of starting a tool.
pub fn cannot_start(tool: &str) -> impl FnOnce(std::io::Error) -> Failure {
    move |error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Failure::precondition(format!("program {tool} is missing; install the package {}", package(tool)))
        }
        _ => Failure::internal(format!("cannot start {tool}: {error}")),
    }
}

/// Runs `command` to its end; `line` sees every line it writes on either output.
pub fn run(tool: &str, mut command: Command, line: &mut dyn FnMut(&str)) -> JobResult<(ExitStatus, Vec<String>)> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|e| Failure::from_io("make a pipe")(e.into()))?;
    let second = writer.try_clone().map_err(Failure::from_io("make a pipe"))?;
    command.stdout(Stdio::from(writer)).stderr(Stdio::from(second));
    let mut child = command.spawn().map_err(cannot_start(tool))?;
    // The command holds the writing ends, which must close for the reading end to see the last one go.
    drop(command);
    let mut kept = Vec::new();
    for_each_line(File::from(reader), &mut |text| {
        line(text);
        if kept.len() == KEPT_LINES {
            kept.remove(0);
        }
        kept.push(text.to_owned());
        true
    })?;
    let status = child.wait().map_err(Failure::from_io(format!("wait for {tool}")))?;
    Ok((status, kept))
}

/// Runs `command`; anything but success is a failure of fault `blame`.
pub fn must(tool: &str, command: Command, blame: fn(String) -> Failure) -> JobResult<()> {
    let (status, lines) = run(tool, command, &mut |_| {})?;
    if status.success() { Ok(()) } else { Err(blame(format!("{tool} failed ({status}): {}", lines.join("; ")))) }
}

/// Calls `each` with every line; stops when it says `false`. Overlong lines are cut into pieces.
pub fn for_each_line(from: File, each: &mut dyn FnMut(&str) -> bool) -> JobResult<()> {
    let mut reader = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        line.clear();
        let limited = &mut std::io::Read::take(&mut reader, LINE_MAX);
        let count = limited.read_until(b'\n', &mut line).map_err(Failure::from_io("read a tool's output"))?;
        if count == 0 || !each(String::from_utf8_lossy(&line).trim_end()) {
            return Ok(());
        }
    }
}

/// Ends a tool that is not wanted any more.
pub fn stop(mut child: Child) {
    let _ = child.kill();
    let _ = child.wait();
}
