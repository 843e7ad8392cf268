//! The key `btrfs.mount_options`.

use std::ffi::CString;

use rustix::mount::MountFlags;

/// Options of a mount as mount(2) takes them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    /// Those that all file systems have.
    pub flags: MountFlags,
    /// Those of btrfs.
    pub data: CString,
}

/// What LXD mounts with: who may write to a directory may remove subvolumes in it.
pub(crate) const DEFAULT: &str = "user_subvol_rm_allowed";

/// Takes a list of mount options apart.
pub(crate) fn parse(text: &str) -> Result<Options, String> {
    let (mut flags, mut data) = (MountFlags::empty(), Vec::new());
    for option in text.split(',').map(str::trim).filter(|option| !option.is_empty()) {
        match option {
            "defaults" | "rw" => {}
            "noatime" => flags |= MountFlags::NOATIME,
            "nodiratime" => flags |= MountFlags::NODIRATIME,
            "relatime" => flags |= MountFlags::RELATIME,
            "strictatime" => flags |= MountFlags::STRICTATIME,
            "lazytime" => flags |= MountFlags::LAZYTIME,
            "sync" => flags |= MountFlags::SYNCHRONOUS,
            "ro" | "noexec" | "nosuid" | "nodev" => {
                return Err(format!("instances could not run on a file system with {option}; leave it out"));
            }
            _ if ["subvol=", "subvolid=", "device="].iter().any(|own| option.starts_with(own)) => {
                return Err(format!("{option} is not for the pool's own file system; leave it out"));
            }
            _ => data.push(option),
        }
    }
    let data = CString::new(data.join(",")).map_err(|_| "it has a zero byte in it".to_owned())?;
    Ok(Options { flags, data })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_data_are_told_apart() {
        let options = parse("user_subvol_rm_allowed, noatime,compress=zstd:3,").unwrap();
        assert_eq!(options.flags, MountFlags::NOATIME);
        assert_eq!(options.data.to_str().unwrap(), "user_subvol_rm_allowed,compress=zstd:3");
        assert_eq!(parse("").unwrap(), Options { flags: MountFlags::empty(), data: CString::default() });
        for wrong in ["ro", "noatime,nosuid", "subvol=/x", "a\0b"] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
