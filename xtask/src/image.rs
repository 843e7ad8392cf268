//! The image that end-to-end tests start: built once, kept under `target/`.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::workspace;

/// The distribution that tests use.
const DISTRIBUTION: &str = "debian/12";
/// Made last: a directory without it is not complete.
const ROOTFS: &str = "rootfs.squashfs";

/// The directory with the image's metadata and root file system; built by the helper in `programs` if it is missing.
pub fn prepare(programs: &Path) -> Result<PathBuf> {
    let directory = workspace().join("target/test-image");
    if directory.join(ROOTFS).exists() {
        return Ok(directory);
    }
    eprintln!("Building the image {DISTRIBUTION} for the tests; this happens once and takes a minute or two");
    fs::create_dir_all(workspace().join("target"))?;
    let work = tempfile::tempdir_in(workspace().join("target"))?;
    let date = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs().to_string();
    let helper = programs.join("berth-image");
    let mut build = Command::new(&helper)
        .args(["build", "--distribution", DISTRIBUTION, "--date", &date, "--work"])
        .arg(work.path())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {}", helper.display()))?;
    let mut last = String::new();
    if let Some(output) = build.stdout.take() {
        for line in BufReader::new(output).lines() {
            last = line?;
            show(&last);
        }
    }
    let status = build.wait()?;
    if !status.success() || !work.path().join(ROOTFS).exists() {
        bail!("the image {DISTRIBUTION} could not be built ({status}): {last}");
    }
    fs::create_dir_all(&directory)?;
    for name in ["metadata.tar", ROOTFS] {
        fs::rename(work.path().join(name), directory.join(name)).with_context(|| format!("cannot keep {name}"))?;
    }
    Ok(directory)
}

/// Shows the text of a line of progress.
fn show(line: &str) {
    let Ok(Value::Object(message)) = serde_json::from_str(line) else { return };
    let texts = message.values().flat_map(|value| match value {
        Value::Object(inner) => inner.values().filter_map(Value::as_str).collect::<Vec<_>>(),
        other => other.as_str().into_iter().collect(),
    });
    let text = texts.filter(|text| !text.is_empty()).collect::<Vec<_>>().join(": ");
    if !text.is_empty() {
        eprintln!("  {text}");
    }
}
