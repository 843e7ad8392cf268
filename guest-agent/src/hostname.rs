//! The host name that the host gives the guest.

use std::{fs, io, os::fd::OwnedFd};

use berth_agent::initrd::HOSTNAME_KEY;

use crate::{log::Log, mounts};

const FILE: &str = "/etc/hostname";

/// The name in the kernel's arguments, if there is a valid one.
pub fn wanted(command_line: &str) -> Option<&str> {
    let prefix = format!("{HOSTNAME_KEY}=");
    let name = command_line.split_whitespace().filter_map(|word| word.strip_prefix(&prefix)).next_back()?;
    let valid = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    ((1..=64).contains(&name.len()) && name.chars().all(valid) && !name.starts_with(['-', '.'])).then_some(name)
}

/// Sets the name and keeps it in the root. While the root is read-only, the file waits for the remount in a thread of
/// its own.
pub fn apply(proc: &OwnedFd, log: &Log) -> io::Result<()> {
    let line = mounts::read(proc, "cmdline")?;
    let Some(name) = wanted(&line).map(str::to_owned) else { return Ok(()) };
    // Before the first attempt, so that no change after it is missed.
    let watch = mounts::Watch::new(proc)?;
    if let Err(e) = rustix::system::sethostname(name.as_bytes()) {
        log.line(format_args!("cannot set the host name {name}: {}", io::Error::from(e)));
    }
    match keep(&name) {
        Err(e) if e.kind() == io::ErrorKind::ReadOnlyFilesystem => {
            std::thread::spawn(move || {
                if let Ok(true) = watch.until_writable(|| keep(&name)) {
                    // Init has set the name of the old file meanwhile.
                    let _ = rustix::system::sethostname(name.as_bytes());
                }
            });
            Ok(())
        }
        Err(e) => Err(io::Error::new(e.kind(), format!("cannot write {FILE}: {e}"))),
        Ok(_) => Ok(()),
    }
}

/// Sets the name in a guest whose root can be written. The file first: what sets the name by it must not set the old one.
pub fn set(name: &str) -> io::Result<()> {
    keep(name)?;
    Ok(rustix::system::sethostname(name.as_bytes())?)
}

/// Writes the file if it says something else; tells whether it did.
fn keep(name: &str) -> io::Result<bool> {
    if fs::read_to_string(FILE).is_ok_and(|old| old.trim() == name) {
        return Ok(false);
    }
    fs::write(FILE, format!("{name}\n"))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_hosts_are_taken() {
        assert_eq!(wanted("quiet berth.hostname=a berth.hostname=web-1 ro"), Some("web-1"));
        for line in ["", "berth.hostname=", "berth.hostname=-x", "berth.hostname=a/b", "xberth.hostname=a"] {
            assert_eq!(wanted(line), None, "{line}");
        }
    }
}
