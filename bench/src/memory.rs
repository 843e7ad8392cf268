//! Memory of processes; of a VMM, less its guest's.

use anyhow::{Context, Result, bail};

/// A mapping at least this part of the guest's memory is taken for (a piece of) it.
const PIECE: u64 = 4;

/// Bytes that a process takes beside its guest's memory: its proportional share of everything mapped, but for the guest's.
pub fn beside_guest(pid: u32, guest: u64) -> Result<u64> {
    let (total, mappings) = (whole(pid)?, read(pid, "smaps")?);
    let pieces: Vec<_> = mappings_of(&mappings)
        .into_iter()
        .filter(|mapping| mapping.writable && mapping.size >= guest / PIECE)
        .collect();
    if pieces.iter().map(|piece| piece.size).sum::<u64>() < guest {
        bail!("the guest's memory is not to be told from the rest of process {pid}");
    }
    Ok(total.saturating_sub(pieces.iter().map(|piece| piece.pss).sum()))
}

/// Bytes that a process takes: its proportional share of everything mapped.
pub fn whole(pid: u32) -> Result<u64> {
    Ok(mappings_of(&read(pid, "smaps_rollup")?).first().context("smaps_rollup has an unknown form")?.pss)
}

fn read(pid: u32, name: &str) -> Result<String> {
    let path = format!("/proc/{pid}/{name}");
    std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Mapping {
    writable: bool,
    size: u64,
    pss: u64,
}

/// Reads what the kernel writes to `smaps`: a line with the address and rights, then lines `Name: NUMBER kB`.
fn mappings_of(smaps: &str) -> Vec<Mapping> {
    let mut mappings = Vec::new();
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let (Some(first), second) = (words.next(), words.next().unwrap_or_default()) else { continue };
        let bytes = || second.parse::<u64>().unwrap_or_default() * 1024;
        match (first, mappings.last_mut()) {
            ("Size:", Some(Mapping { size, .. })) => *size = bytes(),
            ("Pss:", Some(Mapping { pss, .. })) => *pss = bytes(),
            (address, _) if !address.ends_with(':') => {
                mappings.push(Mapping { writable: second.starts_with("rw"), ..Mapping::default() });
            }
            _ => {}
        }
    }
    mappings
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
5581f1e0d000-5581f1e31000 r-xp 00004000 fd:01 1048 /usr/bin/x
Size:                144 kB
KernelPageSize:        4 kB
Rss:                 144 kB
Pss:                  72 kB
Pss_Dirty:             0 kB
VmFlags: rd ex mr mw me sd
7f1000000000-7f1020000000 rw-p 00000000 00:00 0
Size:             524288 kB
Pss:              200000 kB
";

    #[test]
    fn mappings_are_read() {
        let code = Mapping { writable: false, size: 144 << 10, pss: 72 << 10 };
        let guest = Mapping { writable: true, size: 512 << 20, pss: 200_000 << 10 };
        assert_eq!(mappings_of(SMAPS), [code, guest]);
    }

    #[test]
    fn the_guests_memory_does_not_count() {
        let guest: u64 = 256 << 20;
        let own = std::process::id();
        assert!(beside_guest(own, u64::MAX / 2).is_err());
        let mut memory = vec![0_u8; guest as usize];
        memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
        let beside = beside_guest(own, guest).unwrap();
        assert!(beside > 0 && beside < guest / 2, "{beside}");
        std::hint::black_box(&memory);
    }
}
