//! What GRUB would boot by itself: its default entry of `grub.cfg`, and entries of the Boot Loader Specification.
//!
//! Both are read as data: no scripting is interpreted, and of variables only those of GRUB's environment block are known.

use std::collections::BTreeMap;

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

/// GRUB's environment block: variables that survive a boot.
pub type Environment = BTreeMap<String, String>;

/// Most arguments and initial RAM disks that are looked at.
const WORDS_MAX: usize = 256;
/// Most entries of a menu with its submenus that are looked at.
const ENTRIES_MAX: usize = 1024;
/// Most levels of braces.
const DEPTH_MAX: usize = 16;

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

/// How a menu or an entry of one is referred to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Name {
    number: usize,
    title: String,
    id: Option<String>,
}

impl Name {
    fn new(number: usize, words: &[String]) -> Self {
        // Debian writes the option by a variable, because old versions of GRUB lack it.
        let at = words.iter().position(|word| word == "--id" || word == "$menuentry_id_option");
        let id = at.and_then(|at| words.get(at + 1)).cloned();
        Self { number, title: words.get(1).cloned().unwrap_or_default(), id }
    }

    fn is(&self, word: &str) -> bool {
        self.title == word || self.id.as_deref() == Some(word) || word.parse() == Ok(self.number)
    }
}

/// What a pair of braces encloses.
enum Block {
    /// A submenu, with the number of its next child.
    Submenu(Name, usize),
    /// An entry that boots something.
    Entry(Name, Entry),
    Other,
}

/// All entries in order, each with the names that lead to it.
fn entries(text: &str) -> Vec<(Vec<Name>, Entry)> {
    let mut entries = Vec::new();
    let mut open: Vec<Block> = Vec::new();
    let mut top = 0;
    for line in text.lines() {
        let words = words(line);
        let Some(first) = words.first().map(String::as_str) else { continue };
        if words.last().is_some_and(|word| word == "{") {
            let counter = match open.last_mut() {
                Some(Block::Submenu(_, counter)) => Some(counter),
                None => Some(&mut top),
                Some(_) => None,
            };
            let block = match (first, counter) {
                ("menuentry" | "submenu", Some(counter)) => {
                    let name = Name::new(*counter, &words);
                    *counter += 1;
                    if first == "menuentry" { Block::Entry(name, Entry::default()) } else { Block::Submenu(name, 0) }
                }
                _ => Block::Other,
            };
            open.push(block);
        } else if first == "}" {
            if let Some(Block::Entry(name, entry)) = open.pop()
                && entry.kernel.starts_with('/')
            {
                let above = open.iter().filter_map(|block| match block {
                    Block::Submenu(name, _) => Some(name.clone()),
                    _ => None,
                });
                entries.push((above.chain([name]).collect(), entry));
            }
        } else if let Some(Block::Entry(_, entry)) = open.last_mut() {
            command(entry, first, &words);
        }
        if entries.len() == ENTRIES_MAX || open.len() > DEPTH_MAX {
            break;
        }
    }
    entries
}

/// One line inside an entry.
fn command(entry: &mut Entry, first: &str, words: &[String]) {
    match first {
        "linux" | "linux16" | "linuxefi" if entry.kernel.is_empty() && words.len() > 1 => {
            entry.kernel = path(&words[1]);
            entry.args = words[2..].iter().filter(|word| !word.contains('$')).cloned().collect();
        }
        "initrd" | "initrd16" | "initrdefi" if entry.initrds.is_empty() => {
            entry.initrds = words[1..].iter().map(|word| path(word)).collect();
        }
        _ => {}
    }
}

/// The value of `default` that the file sets, as far as it is known without running it.
fn default(text: &str, environment: &Environment) -> Option<String> {
    let values = text.lines().filter_map(|line| match &words(line)[..] {
        [set, value] if set == "set" => value.strip_prefix("default=").map(str::to_owned),
        _ => None,
    });
    let mut known = values.filter_map(|value| match value.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')) {
        // Meant for one boot only, after which GRUB removes it; here nobody would.
        Some("next_entry") => None,
        Some(variable) => environment.get(variable).cloned(),
        None => Some(value),
    });
    known.rfind(|value| !value.is_empty())
}

/// The default entry of a `grub.cfg`; if that is not known, the first one.
pub fn grub(text: &str, environment: &Environment) -> Option<Entry> {
    let mut entries = entries(text);
    let wanted = default(text, environment).unwrap_or_default();
    let steps: Vec<&str> = wanted.split('>').collect();
    // A submenu as default means its first entry.
    let leads =
        |names: &[Name]| names.len() >= steps.len() && names.iter().zip(&steps).all(|(name, step)| name.is(step));
    let chosen = entries.iter().position(|(names, _)| leads(names)).unwrap_or(0);
    if entries.is_empty() { None } else { Some(entries.swap_remove(chosen).1) }
}

/// The variables of an environment block.
pub fn environment(text: &str) -> Environment {
    let lines = text.lines().filter(|line| !line.starts_with('#')).take(WORDS_MAX);
    lines.filter_map(|line| line.split_once('=')).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// One file of `loader/entries/`.
pub fn bls(text: &str, environment: &Environment) -> Option<Entry> {
    let mut entry = Entry::default();
    for line in text.lines() {
        let line = line.trim();
        let Some((key, value)) = line.split_once(char::is_whitespace) else { continue };
        match key {
            "linux" => entry.kernel = path(value.trim()),
            "initrd" => entry.initrds.extend(value.split_whitespace().map(path).take(WORDS_MAX)),
            "options" => entry.args.extend(words(value).into_iter().flat_map(|word| expand(word, environment))),
            _ => {}
        }
    }
    entry.initrds.retain(|initrd| initrd.starts_with('/'));
    entry.args.truncate(WORDS_MAX);
    (entry.kernel.starts_with('/')).then_some(entry)
}

/// A variable as all of a word stands for words; an unknown one for none.
fn expand(word: String, environment: &Environment) -> Vec<String> {
    match word.strip_prefix('$') {
        Some(variable) => {
            let value =
                environment.get(variable.trim_matches(['{', '}'])).map(|value| words(value)).unwrap_or_default();
            value.into_iter().filter(|word| !word.contains('$')).collect()
        }
        None if word.contains('$') => Vec::new(),
        None => vec![word],
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DEBIAN: &str = r#"
if [ -s $prefix/grubenv ]; then
  set have_grubenv=true
  load_env
fi
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set next_entry=
else
   set default="DEFAULT"
fi
function load_video {
  insmod all_video
}
menuentry 'Debian GNU/Linux' --class debian $menuentry_id_option 'gnulinux-simple-aa' {
	load_video
	insmod ext2
	if [ x$feature_platform_search_hint = xy ]; then
	  search --no-floppy --fs-uuid --set=root --hint-bios=hd0,gpt1 aa-bb
	fi
	echo	'Loading Linux ...'
	linux	/boot/vmlinuz-6.1.0-9-amd64 root=UUID=aa-bb ro console=tty0 "quoted arg" $vt_handoff
	initrd	/boot/initrd.img-6.1.0-9-amd64
}
submenu 'Advanced options' $menuentry_id_option 'gnulinux-advanced-aa' {
	menuentry 'Debian, with Linux 6.1' --class debian $menuentry_id_option 'gnulinux-6.1-advanced-aa' {
		linux	/boot/vmlinuz-6.1.0-9-amd64 root=UUID=aa-bb ro
	}
	menuentry 'old' {
		linux	/boot/vmlinuz-5.10 root=UUID=cc
		initrd	/boot/initrd.img-5.10
	}
}
menuentry "UEFI Firmware Settings" {
	fwsetup
}
"#;

    fn chosen(default: &str, environment: &[(&str, &str)]) -> String {
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        grub(&DEBIAN.replace("DEFAULT", default), &environment).expect("entry").kernel
    }

    #[test]
    fn the_default_entry_of_debian_is_found() {
        let entry = grub(&DEBIAN.replace("DEFAULT", "0"), &Environment::new()).expect("entry");
        assert_eq!(entry.kernel, "/boot/vmlinuz-6.1.0-9-amd64");
        assert_eq!(entry.initrds, ["/boot/initrd.img-6.1.0-9-amd64"]);
        assert_eq!(entry.args, ["root=UUID=aa-bb", "ro", "console=tty0", "quoted arg"]);
    }

    #[test]
    fn a_default_leads_through_submenus() {
        for default in ["1>1", "Advanced options>old", "gnulinux-advanced-aa>1"] {
            assert_eq!(chosen(default, &[]), "/boot/vmlinuz-5.10", "{default}");
        }
        for default in
            ["1", "gnulinux-simple-aa", "2", "1>7", "gone", "", "gnulinux-advanced-aa>gnulinux-6.1-advanced-aa"]
        {
            assert_eq!(chosen(default, &[]), "/boot/vmlinuz-6.1.0-9-amd64", "{default}");
        }
    }

    #[test]
    fn a_saved_entry_counts_and_one_for_the_next_boot_does_not() {
        assert_eq!(chosen("${saved_entry}", &[("saved_entry", "1>1")]), "/boot/vmlinuz-5.10");
        assert_eq!(chosen("${saved_entry}", &[]), "/boot/vmlinuz-6.1.0-9-amd64");
        assert_eq!(chosen("0", &[("next_entry", "1>1")]), "/boot/vmlinuz-6.1.0-9-amd64");
    }

    #[test]
    fn a_device_in_front_of_a_path_goes_away() {
        let text = "menuentry x {\n linux ($root)/vmlinuz a\n initrd (hd0,1)/initrd\n}";
        let entry = grub(text, &Environment::new()).expect("entry");
        assert_eq!((entry.kernel.as_str(), entry.initrds[0].as_str()), ("/vmlinuz", "/initrd"));
    }

    #[test]
    fn loader_entries_are_read() {
        let text = "title Fedora\nversion 6.8\nlinux /vmlinuz-6.8\ninitrd /initramfs-6.8.img $tuned_initrd\n\
                    options root=UUID=1 ro $kernelopts $x a$y\n";
        let block = environment("# GRUB Environment Block\nkernelopts=quiet crash=\"a b\" $z\nsaved_entry=x\n#######");
        let entry = bls(text, &block).expect("entry");
        assert_eq!(entry.kernel, "/vmlinuz-6.8");
        assert_eq!(entry.initrds, ["/initramfs-6.8.img"]);
        assert_eq!(entry.args, ["root=UUID=1", "ro", "quiet", "crash=a b"]);
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "\\PC{0,400}", block in "\\PC{0,100}") {
            let block = environment(&block);
            let _ = grub(&text, &block);
            let _ = bls(&text, &block);
        }

        #[test]
        fn any_grub_like_text_is_survived(
            lines in proptest::collection::vec(
                "(menuentry x \\{|submenu y \\{|linux|initrd|set default=|\\}|\\{)?[ \t]?[('\"$/a-z)=>0-9]{0,12}( \\{)?", 0..40,
            ),
        ) {
            if let Some(entry) = grub(&lines.join("\n"), &Environment::new()) {
                prop_assert!(entry.kernel.starts_with('/'));
            }
        }
    }
}
