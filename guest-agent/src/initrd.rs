//! The archive that brings the agent into an image which knows nothing of it.
//!
//! It is appended to the image's own initrd (the kernel unpacks both into one tree), and [`RDINIT`] on the kernel's
//! command line starts the agent before the image's `/init`, which it then hands over to. Both parts must begin at a
//! multiple of [`cpio::BLOCK`](crate::cpio::BLOCK) bytes.

use crate::cpio::Cpio;

/// Where the agent lies in the initrd.
pub const AGENT: &str = "/berth-init";
/// Directory of the carried kernel modules in the initrd; inserted in the order of their names.
pub const MODULES: &str = "/berth/modules";
/// Kernel argument that starts the agent first.
pub const RDINIT: &str = "rdinit=/berth-init";
/// Kernel argument with the host name that the guest shall have: `berth.hostname=NAME`.
pub const HOSTNAME_KEY: &str = "berth.hostname";

/// A kernel module to carry, decompressed.
#[derive(Debug, Clone)]
pub struct Module {
    /// File name, for messages only.
    pub name: String,
    /// Content of the `.ko` file.
    pub content: Vec<u8>,
}

/// Makes the archive of the static `agent` program and `modules` in load order; padded to
/// [`cpio::BLOCK`](crate::cpio::BLOCK).
pub fn build(agent: &[u8], modules: &[Module]) -> Vec<u8> {
    let mut cpio = Cpio::new();
    cpio.file(relative(AGENT), 0o755, agent).directory("berth", 0o700).directory(relative(MODULES), 0o700);
    for (number, module) in modules.iter().enumerate() {
        let name: String = module.name.chars().map(|c| if c == '/' || c == '\0' { '-' } else { c }).collect();
        cpio.file(&format!("{}/{number:03}-{name}", relative(MODULES)), 0o600, &module.content);
    }
    cpio.finish()
}

fn relative(path: &str) -> &str {
    path.trim_start_matches('/')
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        process::{Command, Stdio},
    };

    use super::*;

    #[test]
    fn the_archive_is_one_that_cpio_reads() {
        let modules = [("b.ko", "first"), ("../a.ko", "second")]
            .map(|(name, content)| Module { name: name.into(), content: content.into() });
        let archive = build(b"agent", &modules);
        let list = Command::new("cpio").args(["-it", "--quiet"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut list = list.expect("cpio is installed");
        list.stdin.take().unwrap().write_all(&archive).unwrap();
        let output = list.wait_with_output().unwrap();
        let names = "berth-init\nberth\nberth/modules\nberth/modules/000-b.ko\nberth/modules/001-..-a.ko\n";
        assert_eq!(String::from_utf8(output.stdout).unwrap(), names);
    }
}
