//! Finding kernel and initial RAM disk in a file system.

use std::cmp::Ordering;

use super::extlinux;
use super::grub::{self, Entry, Environment};
use super::version::compare;

/// A file system that is looked through. Paths are absolute; links are followed inside it.
pub trait Files {
    /// Content of a regular file of at most `cap` bytes; `None` if there is no such file.
    fn read(&self, path: &str, cap: u64) -> Option<Vec<u8>>;
    /// Whether there is a regular file, links followed.
    fn is_file(&self, path: &str) -> bool;
    /// Names in a directory.
    fn list(&self, directory: &str) -> Vec<String>;
}

/// Largest boot loader file.
const CONFIG_MAX: u64 = 4 << 20;

/// What to boot: paths in the file system that was looked through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The kernel.
    pub kernel: String,
    /// Initial RAM disks, to be put together in this order.
    pub initrds: Vec<String>,
    /// Arguments the boot loader would pass.
    pub args: Vec<String>,
}

/// A place to look for a kernel.
type Method = fn(&dyn Files) -> Option<Choice>;

/// The most telling first.
const METHODS: &[Method] = &[loader_entries, grub_config, extlinux_config, links, newest];

/// Finds what a boot loader would boot by itself; gives also the number of the file system it was found on. What a boot
/// loader says on any of them comes before a kernel that merely lies around on another.
pub fn choose<F: Files>(volumes: &[F]) -> Option<(usize, Choice)> {
    METHODS
        .iter()
        .find_map(|method| volumes.iter().enumerate().find_map(|(number, volume)| Some((number, method(volume)?))))
}

fn text(files: &dyn Files, path: &str) -> Option<String> {
    files.read(path, CONFIG_MAX).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// A boot loader's paths begin at its own partition, which may be mounted on `/boot`.
fn located(files: &dyn Files, path: &str) -> Option<String> {
    [path.to_owned(), format!("/boot{path}")].into_iter().find(|path| files.is_file(path))
}

fn from_entry(files: &dyn Files, entry: Entry) -> Option<Choice> {
    let kernel = located(files, &entry.kernel)?;
    let initrds = entry.initrds.iter().filter_map(|path| located(files, path)).collect();
    Some(Choice { kernel, initrds, args: entry.args })
}

const GRUB_DIRECTORIES: &[&str] = &["/boot/grub", "/boot/grub2", "/grub", "/grub2"];

fn grub_environment(files: &dyn Files) -> Environment {
    let block = GRUB_DIRECTORIES.iter().find_map(|dir| text(files, &format!("{dir}/grubenv")));
    block.map(|text| grub::environment(&text)).unwrap_or_default()
}

fn loader_entries(files: &dyn Files) -> Option<Choice> {
    ["/boot/loader/entries", "/loader/entries", "/efi/loader/entries", "/boot/efi/loader/entries"].iter().find_map(
        |dir| {
            let mut names: Vec<String> = files.list(dir).into_iter().filter(|name| name.ends_with(".conf")).collect();
            names.sort_by(|a, b| rank(a, b).reverse());
            let environment = grub_environment(files);
            let entry = |name: &String| grub::bls(&text(files, &format!("{dir}/{name}"))?, &environment);
            names.iter().find_map(|name| from_entry(files, entry(name)?))
        },
    )
}

fn grub_config(files: &dyn Files) -> Option<Choice> {
    let environment = grub_environment(files);
    let entry = |dir: &&str| grub::grub(&text(files, &format!("{dir}/grub.cfg"))?, &environment);
    GRUB_DIRECTORIES.iter().find_map(|dir| from_entry(files, entry(dir)?))
}

fn extlinux_config(files: &dyn Files) -> Option<Choice> {
    let directories = ["/boot", "/boot/extlinux", "/boot/syslinux", "", "/extlinux", "/syslinux"];
    directories.iter().find_map(|dir| {
        let config = ["extlinux.conf", "syslinux.cfg"].iter().find_map(|name| text(files, &format!("{dir}/{name}")))?;
        let mut entry = extlinux::extlinux(&config)?;
        for path in std::iter::once(&mut entry.kernel).chain(&mut entry.initrds) {
            if !path.starts_with('/') {
                *path = format!("{dir}/{path}");
            }
        }
        from_entry(files, entry)
    })
}

/// Rescue entries come last, then the older version.
fn rank(a: &str, b: &str) -> Ordering {
    let rescue = |name: &str| name.contains("rescue");
    rescue(b).cmp(&rescue(a)).then_with(|| compare(a, b))
}

fn links(files: &dyn Files) -> Option<Choice> {
    ["", "/boot"].iter().find_map(|dir| {
        let kernel = Some(format!("{dir}/vmlinuz")).filter(|path| files.is_file(path))?;
        let initrd = ["initrd.img", "initrd"].iter().map(|name| format!("{dir}/{name}"));
        Some(Choice { kernel, initrds: initrd.filter(|path| files.is_file(path)).take(1).collect(), args: Vec::new() })
    })
}

fn newest(files: &dyn Files) -> Option<Choice> {
    ["/boot", ""].iter().find_map(|dir| {
        let listed = if dir.is_empty() { "/" } else { dir };
        let releases =
            files.list(listed).into_iter().filter_map(|name| Some(name.strip_prefix("vmlinuz-")?.to_owned()));
        let release =
            releases.filter(|release| files.is_file(&format!("{dir}/vmlinuz-{release}"))).max_by(|a, b| rank(a, b))?;
        let initrds = ["initrd.img-@", "initramfs-@.img", "initrd-@", "initramfs-@"].iter();
        let initrds = initrds.map(|pattern| format!("{dir}/{}", pattern.replace('@', &release)));
        Some(Choice {
            kernel: format!("{dir}/vmlinuz-{release}"),
            initrds: initrds.filter(|path| files.is_file(path)).take(1).collect(),
            args: Vec::new(),
        })
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    struct Fake(BTreeMap<String, String>);

    impl Files for Fake {
        fn read(&self, path: &str, cap: u64) -> Option<Vec<u8>> {
            self.0.get(path).filter(|text| text.len() as u64 <= cap).map(|text| text.clone().into_bytes())
        }
        fn is_file(&self, path: &str) -> bool {
            self.0.contains_key(path)
        }
        fn list(&self, directory: &str) -> Vec<String> {
            let prefix = format!("{}/", directory.trim_end_matches('/'));
            let names = self.0.keys().filter_map(|path| path.strip_prefix(&prefix));
            names.filter(|name| !name.contains('/')).map(str::to_owned).collect()
        }
    }

    /// What is chosen on a single file system.
    fn choose(files: &Fake) -> Option<Choice> {
        Some(super::choose(std::slice::from_ref(files))?.1)
    }

    fn fake(files: &[(&str, &str)]) -> Fake {
        Fake(files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect())
    }

    #[test]
    fn links_of_debian_are_found_without_a_boot_loader() {
        let files = fake(&[("/vmlinuz", ""), ("/initrd.img", ""), ("/boot/vmlinuz-1", "")]);
        let choice = choose(&files).expect("choice");
        assert_eq!((choice.kernel.as_str(), choice.initrds[0].as_str()), ("/vmlinuz", "/initrd.img"));
    }

    #[test]
    fn the_newest_kernel_is_taken_last_of_all() {
        let files = fake(&[
            ("/boot/vmlinuz-6.1.0-9", ""),
            ("/boot/vmlinuz-6.1.0-10", ""),
            ("/boot/vmlinuz-0-rescue-aa", ""),
            ("/boot/initramfs-6.1.0-10.img", ""),
        ]);
        let choice = choose(&files).expect("choice");
        assert_eq!(choice.kernel, "/boot/vmlinuz-6.1.0-10");
        assert_eq!(choice.initrds, ["/boot/initramfs-6.1.0-10.img"]);
    }

    #[test]
    fn entries_win_over_grub_and_missing_files_are_passed_over() {
        let files = fake(&[
            ("/loader/entries/a-6.8.conf", "linux /gone\n"),
            ("/loader/entries/a-6.7.conf", "linux /vmlinuz-6.7\noptions root=UUID=7\n"),
            ("/loader/entries/z-0-rescue.conf", "linux /vmlinuz-r\n"),
            ("/vmlinuz-6.7", ""),
            ("/vmlinuz-r", ""),
            ("/grub2/grub.cfg", "menuentry x {\nlinux /vmlinuz-r\n}"),
        ]);
        let choice = choose(&files).expect("choice");
        assert_eq!(choice.kernel, "/vmlinuz-6.7");
        assert_eq!(choice.args, ["root=UUID=7"]);
    }

    #[test]
    fn what_grub_says_on_a_partition_for_boot_wins_over_a_kernel_left_in_the_root() {
        let root = fake(&[("/boot/vmlinuz-5.15", ""), ("/etc/os-release", "")]);
        let config = "menuentry x {\nlinux /vmlinuz-6.8 root=LABEL=cloudimg-rootfs ro\ninitrd /initrd.img-6.8\n}";
        let boot = fake(&[("/grub/grub.cfg", config), ("/vmlinuz-6.8", ""), ("/initrd.img-6.8", "")]);
        let (number, choice) = super::choose(&[root, boot]).expect("choice");
        assert_eq!((number, choice.kernel.as_str()), (1, "/vmlinuz-6.8"));
        assert_eq!(choice.initrds, ["/initrd.img-6.8"]);
    }

    #[test]
    fn alpine_is_found_with_and_without_its_boot_loader() {
        let config = "LABEL virt\nLINUX vmlinuz-virt\nINITRD initramfs-virt\nAPPEND modules=ext4\n";
        let mut files = vec![("/boot/vmlinuz-virt", ""), ("/boot/initramfs-virt", "")];
        let bare = choose(&fake(&files)).expect("choice");
        files.push(("/boot/extlinux.conf", config));
        let told = choose(&fake(&files)).expect("choice");
        assert_eq!(told.args, ["modules=ext4"]);
        assert_eq!(Choice { args: Vec::new(), ..told }, bare);
        assert_eq!((bare.kernel.as_str(), bare.initrds[0].as_str()), ("/boot/vmlinuz-virt", "/boot/initramfs-virt"));
    }

    #[test]
    fn the_default_of_grub_is_looked_up_in_its_environment() {
        let config = "set default=\"${saved_entry}\"\nmenuentry a {\nlinux /boot/vmlinuz-1\n}\nmenuentry b {\nlinux /boot/vmlinuz-2\n}";
        let files = fake(&[
            ("/boot/grub/grub.cfg", config),
            ("/boot/grub/grubenv", "# GRUB Environment Block\nsaved_entry=b\n####"),
            ("/boot/vmlinuz-1", ""),
            ("/boot/vmlinuz-2", ""),
        ]);
        assert_eq!(choose(&files).expect("choice").kernel, "/boot/vmlinuz-2");
    }

    #[test]
    fn nothing_is_found_in_a_container_image() {
        assert_eq!(choose(&fake(&[("/etc/os-release", "")])), None);
    }

    proptest! {
        #[test]
        fn any_config_is_survived(config in "\\PC{0,200}", name in "[a-z0-9.-]{0,10}") {
            let path = format!("/boot/loader/entries/{name}.conf");
            let kernel = format!("/boot/vmlinuz-{name}");
            let all = [("/boot/grub/grub.cfg", &*config), ("/boot/extlinux.conf", &config), (&path, &config), (&kernel, "")];
            let files = fake(&all);
            if let Some(choice) = choose(&files) {
                prop_assert!(files.is_file(&choice.kernel));
            }
        }
    }
}
