//! Python programs that end-to-end tests run: other people's clients, kept under `target/`.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use crate::{build, workspace};

/// Versions of all of them.
const REQUIREMENTS: &str = "tests/python/requirements.txt";

/// The interpreter that has the clients; its directory is made anew when what is required has changed.
pub fn prepare() -> Result<PathBuf> {
    let directory = workspace().join("target/python");
    let interpreter = directory.join("bin/python");
    let required = fs::read(workspace().join(REQUIREMENTS)).with_context(|| format!("cannot read {REQUIREMENTS}"))?;
    // Written last: without it the directory is not complete.
    let done = directory.join("requirements.txt");
    if fs::read(&done).is_ok_and(|installed| installed == required) {
        return Ok(interpreter);
    }
    eprintln!("Fetching the Python clients for the tests; this happens once and takes a minute or so");
    build::execute(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&directory))?;
    let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement", REQUIREMENTS];
    build::execute(Command::new(&interpreter).args(install).current_dir(workspace()).stdin(Stdio::null()))?;
    fs::write(&done, required).with_context(|| format!("cannot write {}", done.display()))?;
    Ok(interpreter)
}
