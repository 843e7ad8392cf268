//! Limits of memory and swap in the terms of either version.

use std::path::Path;

use super::limits::number;
use super::{Version, write};
use crate::error::{Error, Result};
use crate::spec::{Limits, MemoryLimit};

/// Ordinary `memory.swappiness`.
const SWAPPINESS: u8 = 60;
/// The ordinary swap priority; each step below it makes swapping one step more likely.
const PRIORITY_MAX: u8 = 10;

/// Memory, and memory with swap.
pub(super) fn limit(version: Version, path: &Path, limits: &Limits) -> Result<()> {
    let (hard, soft) = match limits.memory {
        None => (None, None),
        Some(MemoryLimit::Hard(bytes)) => (Some(bytes), None),
        Some(MemoryLimit::Soft(bytes)) => (None, Some(bytes)),
    };
    let no_swap = limits.swap == Some(false);
    match version {
        Version::One => version_one(path, hard, soft, no_swap),
        Version::Two => {
            write(&path.join("memory.max"), &number(hard))?;
            // What is above is taken back first when the host runs short; what is below is spared.
            write(&path.join("memory.low"), &soft.unwrap_or(0).to_string())?;
            // Without swap accounting the file is missing; there is no swap to be used then either, or no way to say so.
            let swap = path.join("memory.swap.max");
            if swap.exists() { write(&swap, if no_swap { "0" } else { "max" }) } else { Ok(()) }
        }
    }
}

fn version_one(path: &Path, hard: Option<u64>, soft: Option<u64>, no_swap: bool) -> Result<()> {
    let text = |bytes: Option<u64>| bytes.map_or("-1".to_owned(), |bytes| bytes.to_string());
    // Memory and swap together may never be limited to less than memory alone, so that goes first.
    let both = path.join("memory.memsw.limit_in_bytes");
    let counts_swap = both.exists();
    if counts_swap {
        write(&both, "-1")?;
    }
    write(&path.join("memory.limit_in_bytes"), &text(hard))?;
    write(&path.join("memory.soft_limit_in_bytes"), &text(soft))?;
    if counts_swap && no_swap {
        write(&both, &text(hard))?;
    }
    Ok(())
}

/// How readily memory is swapped out.
pub(super) fn swappiness(version: Version, path: &Path, limits: &Limits) -> Result<()> {
    let value = match (limits.swap, limits.swap_priority) {
        (Some(false), _) => 0,
        (_, Some(priority)) => SWAPPINESS - PRIORITY_MAX + priority.min(PRIORITY_MAX),
        (_, None) => SWAPPINESS,
    };
    match version {
        Version::One => write(&path.join("memory.swappiness"), &value.to_string()),
        Version::Two if limits.swap_priority.is_none() => Ok(()),
        Version::Two => Err(Error::Unsupported(
            "limits.memory.swap.priority needs cgroup version 1, this host has version 2; unset it or use \
             limits.memory.swap"
                .into(),
        )),
    }
}
