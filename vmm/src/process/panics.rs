//! Recognises a kernel panic in what the guest prints.

/// What Linux prints since ever.
const MARK: &[u8] = b"Kernel panic - not syncing:";
/// Longest line that is looked at; a longer one is cut.
const MAX_LINE: usize = 1024;

/// Watches the output of one guest.
#[derive(Debug, Default)]
pub struct PanicWatch {
    line: Vec<u8>,
    last: Option<String>,
}

impl PanicWatch {
    /// Looks at what was printed; the line of a panic, if one ends therein.
    pub fn feed(&mut self, bytes: &[u8]) -> Option<String> {
        let mut found = None;
        for byte in bytes {
            match byte {
                b'\n' => {
                    if let Some(text) = panic_text(&self.line) {
                        self.last = Some(text.clone());
                        found = Some(text);
                    }
                    self.line.clear();
                }
                _ if self.line.len() < MAX_LINE => self.line.push(*byte),
                _ => {}
            }
        }
        found
    }

    /// The last panic seen.
    pub fn last(&self) -> Option<&str> {
        self.last.as_deref()
    }
}

fn panic_text(line: &[u8]) -> Option<String> {
    let start = line.windows(MARK.len()).position(|window| window == MARK)?;
    // The guest's text goes to people's terminals: no control characters.
    Some(
        String::from_utf8_lossy(&line[start..])
            .chars()
            .filter(|c| !c.is_control())
            .collect::<String>()
            .trim()
            .to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "[    1.5] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n";
    const PANIC: &str = "Kernel panic - not syncing: VFS: Unable to mount root fs";

    proptest! {
        #[test]
        fn a_panic_is_seen_however_it_is_cut(cut in 0..TEXT.len()) {
            let mut watch = PanicWatch::default();
            let (head, tail) = TEXT.split_at(cut);
            prop_assert_eq!(watch.feed(head.as_bytes()), None);
            prop_assert_eq!(watch.feed(tail.as_bytes()), Some(PANIC.to_owned()));
            prop_assert_eq!(watch.last(), Some(PANIC));
        }

        #[test]
        fn other_output_is_none_and_bounded(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let mut watch = PanicWatch::default();
            prop_assert_eq!(watch.feed(&bytes), None);
            prop_assert!(watch.line.len() <= MAX_LINE);
        }
    }

    #[test]
    fn control_characters_are_left_out() {
        let mut watch = PanicWatch::default();
        let text = watch.feed(b"Kernel panic - not syncing: \x1b[31mred\x07\n").unwrap();
        assert_eq!(text, "Kernel panic - not syncing: [31mred");
    }
}
