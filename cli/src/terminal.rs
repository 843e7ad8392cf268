//! The user's terminal: raw mode, size, restoration.

use std::{
    io::{IsTerminal as _, stdin, stdout},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, Result};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Settings from before raw mode.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// Raw mode; the terminal is restored when this is dropped.
#[derive(Debug)]
pub struct RawMode(());

impl RawMode {
    /// Puts standard input into raw mode.
    pub fn enter() -> Result<Self> {
        let input = stdin();
        let before = tcgetattr(&input).context("cannot read the settings of the terminal")?;
        let mut raw = before.clone();
        raw.make_raw();
        SAVED.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(before);
        tcsetattr(&input, OptionalActions::Now, &raw).context("cannot put the terminal into raw mode")?;
        Ok(Self(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back as it was; does nothing if it was not changed.
pub fn restore() {
    if let Some(before) = SAVED.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // Nothing can be done if this fails: the terminal is gone.
        let _ = tcsetattr(stdin(), OptionalActions::Drain, &before);
    }
}

/// Restores the terminal before a panic is printed; with `panic = "abort"` nothing is dropped.
pub fn install_panic_hook() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        restore();
        default(panic);
    }));
}

/// Columns and rows of the terminal on standard output or input.
pub fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(stdout()).or_else(|_| tcgetwinsize(stdin())).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}

/// Whether a person sits at standard input.
pub fn stdin_is_terminal() -> bool {
    stdin().is_terminal()
}

/// Whether a person sits at both standard input and output.
pub fn is_interactive() -> bool {
    stdin().is_terminal() && stdout().is_terminal()
}
