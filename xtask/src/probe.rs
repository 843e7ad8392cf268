//! Whether this machine's `/dev/kvm` can run a guest.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

/// What `berth-vmm probe` found.
#[derive(Debug)]
pub enum Kvm {
    /// Guests run here.
    Usable,
    /// They do not, for the reason given.
    Unusable(String),
}

/// Asks the VMM in `programs`.
pub fn ask(programs: &Path) -> Result<Kvm> {
    let vmm = programs.join("berth-vmm");
    let probe = Command::new(&vmm).arg("probe").output().with_context(|| format!("cannot run {}", vmm.display()))?;
    if probe.status.success() {
        return Ok(Kvm::Usable);
    }
    let report: Value = serde_json::from_slice(&probe.stdout).unwrap_or_default();
    Ok(Kvm::Unusable(report["reason"].as_str().unwrap_or("berth-vmm probe told no reason").to_owned()))
}
