//! The default label of a configuration of extlinux or syslinux, as Alpine has it.

use super::grub::Entry;

/// Most labels that are looked at.
const LABELS_MAX: usize = 256;

/// The entry that is booted without a choice. Relative paths begin at the file's own directory.
pub fn extlinux(text: &str) -> Option<Entry> {
    let mut default = None;
    let mut labels: Vec<(String, Entry)> = Vec::new();
    for line in text.lines() {
        let (key, value) = line.trim().split_once(char::is_whitespace).unwrap_or((line.trim(), ""));
        let value = value.trim();
        let keyword = key.to_ascii_uppercase();
        if keyword == "DEFAULT" {
            default = Some(value.to_owned());
        } else if keyword == "LABEL" {
            if labels.len() == LABELS_MAX {
                break;
            }
            labels.push((value.to_owned(), Entry::default()));
        } else if let Some((_, entry)) = labels.last_mut() {
            match keyword.as_str() {
                "LINUX" | "KERNEL" => entry.kernel = value.to_owned(),
                "INITRD" => entry.initrds = value.split(',').map(|path| path.trim().to_owned()).collect(),
                "APPEND" => append(entry, value),
                _ => {}
            }
        }
    }
    let bootable = |(_, entry): &&(String, Entry)| !entry.kernel.is_empty();
    let chosen = labels.iter().filter(bootable).find(|(label, _)| Some(label) == default.as_ref());
    chosen.or_else(|| labels.iter().find(bootable)).map(|(_, entry)| entry.clone())
}

/// An `initrd=` among the arguments is for the boot loader.
fn append(entry: &mut Entry, value: &str) {
    for word in value.split_whitespace() {
        match word.strip_prefix("initrd=") {
            Some(paths) if entry.initrds.is_empty() => {
                entry.initrds = paths.split(',').map(str::to_owned).collect();
            }
            Some(_) => {}
            None => entry.args.push(word.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALPINE: &str = "DEFAULT menu.c32\nPROMPT 0\nTIMEOUT 10\nLABEL lts\n  MENU DEFAULT\n  LINUX vmlinuz-virt\n  \
                          INITRD initramfs-virt\n  APPEND root=UUID=1 modules=ext4 console=ttyS0\n";

    #[test]
    fn the_label_of_alpine_is_found() {
        let entry = extlinux(ALPINE).expect("entry");
        assert_eq!((entry.kernel.as_str(), entry.initrds[0].as_str()), ("vmlinuz-virt", "initramfs-virt"));
        assert_eq!(entry.args, ["root=UUID=1", "modules=ext4", "console=ttyS0"]);
    }

    #[test]
    fn the_default_label_wins() {
        let text = "default b\nlabel a\nkernel /a\nlabel b\nkernel /b\nappend initrd=/i,/j quiet\n";
        let entry = extlinux(text).expect("entry");
        assert_eq!(entry.kernel, "/b");
        assert_eq!((entry.initrds, entry.args), (vec!["/i".to_owned(), "/j".to_owned()], vec!["quiet".to_owned()]));
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "((label|linux|append|default|initrd)? ?[a-z/=,]{0,8}\n?){0,30}") {
            if let Some(entry) = extlinux(&text) {
                prop_assert!(!entry.kernel.is_empty());
            }
        }
    }
}
