//! The first entry of a `grub.cfg`, and Boot Loader Specification entries.
//!
//! Both are read as data: no scripting is interpreted, variables stay as they are.

/// A way to boot that a boot loader's file names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// Path of the kernel as the boot loader sees it.
    pub kernel: String,
    /// Paths of initial RAM disks.
    pub initrds: Vec<String>,
    /// Arguments of the kernel.
    pub args: Vec<String>,
}

/// Most arguments and initial RAM disks that are looked at.
const WORDS_MAX: usize = 256;

fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut any = false;
    for c in line.chars() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), c) => word.push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                any = true;
            }
            (None, c) if c.is_whitespace() => {
                if any || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                    any = false;
                }
            }
            (None, c) => word.push(c),
        }
        if words.len() == WORDS_MAX {
            return words;
        }
    }
    if any || !word.is_empty() {
        words.push(word);
    }
    words
}

/// Removes `($root)` and the like from the beginning of a path.
fn path(word: &str) -> String {
    let rest = match word.strip_prefix('(') {
        Some(rest) => rest.split_once(')').map_or("", |(_, path)| path),
        None => word.strip_prefix("$root").unwrap_or(word),
    };
    rest.to_owned()
}

/// The first `menuentry` that names a kernel.
pub fn grub(text: &str) -> Option<Entry> {
    let mut entry: Option<Entry> = None;
    let mut inside = false;
    for line in text.lines() {
        let words = words(line);
        let Some(first) = words.first() else { continue };
        match first.as_str() {
            "menuentry" if entry.is_some() => break,
            "menuentry" => inside = true,
            "linux" | "linux16" | "linuxefi" if inside && entry.is_none() && words.len() > 1 => {
                let args = words[2..].iter().filter(|word| !word.contains('$')).cloned().collect();
                entry = Some(Entry { kernel: path(&words[1]), initrds: Vec::new(), args });
            }
            "initrd" | "initrd16" | "initrdefi" => {
                if let Some(entry) = entry.as_mut().filter(|entry| entry.initrds.is_empty()) {
                    entry.initrds = words[1..].iter().map(|word| path(word)).collect();
                }
            }
            _ => {}
        }
    }
    entry.filter(|entry| entry.kernel.starts_with('/'))
}

/// One file of `loader/entries/`.
pub fn bls(text: &str) -> Option<Entry> {
    let mut entry = Entry::default();
    for line in text.lines() {
        let line = line.trim();
        let Some((key, value)) = line.split_once(char::is_whitespace) else { continue };
        match key {
            "linux" => entry.kernel = path(value.trim()),
            "initrd" => entry.initrds.extend(value.split_whitespace().map(path).take(WORDS_MAX)),
            "options" => entry.args.extend(words(value).into_iter().filter(|word| !word.contains('$'))),
            _ => {}
        }
    }
    entry.initrds.retain(|initrd| initrd.starts_with('/'));
    (entry.kernel.starts_with('/')).then_some(entry)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DEBIAN: &str = r#"
set timeout=5
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
fi
menuentry 'Debian GNU/Linux' --class debian {
	load_video
	insmod ext2
	echo	'Loading Linux ...'
	linux	/boot/vmlinuz-6.1.0-9-amd64 root=UUID=aa-bb ro console=tty0 "quoted arg" $vt_handoff
	initrd	/boot/initrd.img-6.1.0-9-amd64
}
submenu 'Advanced' {
	menuentry 'old' {
		linux	/boot/vmlinuz-5.10 root=UUID=cc
		initrd	/boot/initrd.img-5.10
	}
}
"#;

    #[test]
    fn the_first_entry_of_debian_is_found() {
        let entry = grub(DEBIAN).expect("entry");
        assert_eq!(entry.kernel, "/boot/vmlinuz-6.1.0-9-amd64");
        assert_eq!(entry.initrds, ["/boot/initrd.img-6.1.0-9-amd64"]);
        assert_eq!(entry.args, ["root=UUID=aa-bb", "ro", "console=tty0", "quoted arg"]);
    }

    #[test]
    fn a_device_in_front_of_a_path_goes_away() {
        let entry = grub("menuentry x {\n linux ($root)/vmlinuz a\n initrd (hd0,1)/initrd\n}").expect("entry");
        assert_eq!((entry.kernel.as_str(), entry.initrds[0].as_str()), ("/vmlinuz", "/initrd"));
    }

    #[test]
    fn loader_entries_are_read() {
        let text = "title Fedora\nversion 6.8\nlinux /vmlinuz-6.8\ninitrd /initramfs-6.8.img $tuned_initrd\noptions root=UUID=1 ro $x\n";
        let entry = bls(text).expect("entry");
        assert_eq!(entry.kernel, "/vmlinuz-6.8");
        assert_eq!(entry.initrds, ["/initramfs-6.8.img"]);
        assert_eq!(entry.args, ["root=UUID=1", "ro"]);
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "\\PC{0,400}") {
            let _ = grub(&text);
            let _ = bls(&text);
        }

        #[test]
        fn any_grub_like_text_is_survived(
            lines in proptest::collection::vec("(menuentry|linux|initrd|options|\\}|\\{)?[ \t]?[('\"$/a-z)=]{0,12}", 0..30),
        ) {
            if let Some(entry) = grub(&lines.join("\n")) {
                prop_assert!(entry.kernel.starts_with('/'));
            }
        }
    }
}
