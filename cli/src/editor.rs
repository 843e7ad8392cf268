//! Editing objects as YAML in the user's editor.

use std::{
    io::{Read as _, Write as _},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use serde::{Serialize, de::DeserializeOwned};

use crate::{output, terminal};

/// Largest document that is read back.
const MAX_DOCUMENT: u64 = 16 << 20;
/// Mark of the lines that tell an error.
const MARK: &str = "### ";

/// Opens the user's editor on a file and waits for it.
pub fn open(path: &std::path::Path) -> Result<()> {
    let variable = |name| std::env::var(name).ok().filter(|text| !text.trim().is_empty());
    let editor = variable("VISUAL").or_else(|| variable("EDITOR")).unwrap_or_else(|| "editor".into());
    // By the shell, because the variable may hold options: EDITOR="code --wait".
    let status = Command::new("sh").arg("-c").arg(format!("{editor} \"$1\"")).arg("sh").arg(path).status();
    let status = status.with_context(|| format!("cannot start the editor `{editor}`"))?;
    if !status.success() {
        bail!("the editor `{editor}` ended with {status}: nothing was changed. Set EDITOR to an editor you have");
    }
    Ok(())
}

/// The user's answer to a document.
#[derive(Debug, PartialEq, Eq)]
pub enum Edited {
    /// Apply this text.
    Text(String),
    /// The user changed nothing.
    Unchanged,
}

/// One document that is edited until the server takes it.
pub struct Session {
    file: tempfile::NamedTempFile,
    text: String,
}

impl Session {
    /// A session on a text.
    pub fn new(text: String) -> Result<Self> {
        let file = tempfile::Builder::new().prefix("berth-").suffix(".yaml").tempfile();
        Ok(Self { file: file.context("cannot make a temporary file")?, text })
    }

    /// Lets the user edit. After an error the text is the user's own, with the error on top; saving that unchanged
    /// gives up.
    pub fn edit(&mut self, error: Option<&str>) -> Result<Edited> {
        let shown = error.map_or_else(|| self.text.clone(), |error| with_error(&self.text, error));
        std::fs::write(self.file.path(), &shown).context("cannot write the temporary file")?;
        open(self.file.path())?;
        // Editors replace files, so this is opened anew.
        let edited = std::fs::read_to_string(self.file.path()).context("cannot read the edited file")?;
        if edited == shown {
            return Ok(Edited::Unchanged);
        }
        self.text = without_error(&edited);
        Ok(Edited::Text(self.text.clone()))
    }
}

/// The text below an error.
fn with_error(text: &str, error: &str) -> String {
    let mut shown = String::new();
    for line in std::iter::once("The server did not take this:")
        .chain(error.lines())
        .chain(["Correct it and save, or save it as it is to give up."])
    {
        shown.push_str(MARK);
        shown.push_str(line);
        shown.push('\n');
    }
    shown + &without_error(text)
}

fn without_error(text: &str) -> String {
    text.split_inclusive('\n').filter(|line| !line.starts_with(MARK.trim_end())).collect()
}

/// Standard input as text.
fn read_stdin() -> Result<String> {
    let mut text = String::new();
    std::io::stdin().lock().take(MAX_DOCUMENT).read_to_string(&mut text).context("cannot read standard input")?;
    Ok(text)
}

/// Lets the user edit a value, or takes it from standard input if that is no terminal, and applies it; asks again
/// as long as `apply` refuses.
pub async fn edit<T, F>(value: &T, help: &str, mut apply: F) -> Result<()>
where
    T: Serialize + DeserializeOwned,
    F: AsyncFnMut(T) -> Result<()>,
{
    if !terminal::stdin_is_terminal() {
        return apply(output::from_yaml(&read_stdin()?)?).await;
    }
    let mut session = Session::new(format!("{}{}", comment(help), output::yaml(value)?))?;
    let mut error: Option<anyhow::Error> = None;
    loop {
        let shown = error.as_ref().map(|error| format!("{error:#}"));
        match session.edit(shown.as_deref())? {
            Edited::Unchanged => {
                return match error {
                    Some(error) => Err(error.context("nothing was changed")),
                    None => {
                        let _ = writeln!(std::io::stderr(), "Nothing was changed.");
                        Ok(())
                    }
                };
            }
            Edited::Text(text) => {
                let result = match output::from_yaml(&text) {
                    Ok(value) => apply(value).await,
                    Err(error) => Err(error),
                };
                match result {
                    Ok(()) => return Ok(()),
                    Err(refused) => error = Some(refused),
                }
            }
        }
    }
}

fn comment(help: &str) -> String {
    help.lines().map(|line| format!("## {line}").trim_end().to_owned() + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_come_and_go_but_the_text_stays() {
        let text = "## help\nconfig:\n  a: b\n";
        let first = with_error(text, "no such key\nsecond line");
        assert_eq!(
            first,
            "### The server did not take this:\n### no such key\n### second line\n### Correct it and save, or save it \
             as it is to give up.\n## help\nconfig:\n  a: b\n"
        );
        let second = with_error(&first, "other");
        assert_eq!(second.matches("###").count(), 3);
        assert_eq!(without_error(&second), text);
    }

    #[test]
    fn comments_are_marked() {
        assert_eq!(comment("one\n\ntwo"), "## one\n##\n## two\n");
    }
}
