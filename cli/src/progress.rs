//! Progress on standard error: a line that changes on a terminal, a few lines elsewhere.

use std::{
    io::IsTerminal as _,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use berth_api::operations::Operation;
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

/// Progress of one action. It vanishes from the terminal when dropped.
pub struct Progress {
    bar: Option<ProgressBar>,
    /// Prefix of lines where there is no terminal; `None` for silence.
    lines: Option<String>,
    last: Mutex<String>,
}

impl Progress {
    /// Progress under a title; nothing is shown before there is something to tell.
    pub fn new(title: &str, quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = (!quiet && terminal).then(|| {
            let bar = ProgressBar::new_spinner();
            let style = ProgressStyle::with_template("{spinner} {prefix}{msg}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner());
            bar.set_style(style);
            bar.set_prefix(title.to_owned());
            bar
        });
        Self { bar, lines: (!quiet && !terminal).then(|| title.to_owned()), last: Mutex::default() }
    }

    /// Shows what an operation says of its progress.
    pub fn operation(&self, operation: &Operation) {
        if let Some(text) = describe(operation) {
            self.text(&text);
        }
    }

    /// Shows a number of bytes, and of how many.
    pub fn bytes(&self, done: u64, total: Option<u64>) {
        if self.bar.is_some() || total.is_some() {
            self.text(&transferred(done, total));
        }
    }

    fn text(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(format!(": {text}"));
            bar.enable_steady_tick(Duration::from_millis(120));
        }
        if let Some(title) = &self.lines {
            let coarse = coarse(text);
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            if *last != coarse {
                eprintln!("{title}: {coarse}");
                *last = coarse;
            }
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The first `*_progress` of an operation.
fn describe(operation: &Operation) -> Option<String> {
    let metadata = operation.metadata.as_ref()?;
    metadata.iter().find(|(key, _)| key.ends_with("_progress")).and_then(|(_, value)| value.as_str()).map(str::to_owned)
}

fn transferred(done: u64, total: Option<u64>) -> String {
    match total {
        Some(total) if total > 0 => format!("{}% of {}", done.saturating_mul(100) / total, HumanBytes(total)),
        _ => HumanBytes(done).to_string(),
    }
}

/// The text with percentages in steps of 25, so that a log gets a handful of lines.
fn coarse(text: &str) -> String {
    let Some(end) = text.find('%') else { return text.to_owned() };
    let start = text[..end].rfind(|c: char| !c.is_ascii_digit()).map_or(0, |at| at + 1);
    match text[start..end].parse::<u64>() {
        // What follows (speed) changes all the time too.
        Ok(percent) => format!("{}{}%", &text[..start], percent / 25 * 25),
        Err(_) => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_few() {
        assert_eq!(coarse("Unpacking: 37% (120.3MB/s)"), "Unpacking: 25%");
        assert_eq!(coarse("99% of 3 MiB"), "75%");
        assert_eq!(coarse("100%"), "100%");
        assert_eq!(coarse("fetching packages"), "fetching packages");
        assert_eq!(coarse("%"), "%");
    }

    #[test]
    fn transfers() {
        assert_eq!(transferred(512, Some(1024)), "50% of 1.00 KiB");
        assert_eq!(transferred(5, Some(0)), "5 B");
        assert_eq!(transferred(5, None), "5 B");
    }

    #[test]
    fn operations_tell_progress() {
        let operation: Operation =
            serde_json::from_str(r#"{"metadata":{"x":"y","create_progress":"Building: 3%"}}"#).unwrap();
        assert_eq!(describe(&operation).as_deref(), Some("Building: 3%"));
    }
}
