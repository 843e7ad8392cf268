//! Limits of disks and NICs.

use std::num::NonZeroU64;

use crate::values::{parse_bits, parse_size};

/// Suffix of a number of operations a second.
const OPERATIONS: &str = "iops";

/// Most that may happen in a second in one direction of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskRate {
    /// Bytes.
    Bytes(NonZeroU64),
    /// Operations.
    Operations(NonZeroU64),
}

/// Limits of a disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskLimits {
    /// Reads.
    pub read: Option<DiskRate>,
    /// Writes.
    pub write: Option<DiskRate>,
}

/// Limits of a network interface in bits a second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NicLimits {
    /// To the instance.
    pub ingress: Option<NonZeroU64>,
    /// From the instance.
    pub egress: Option<NonZeroU64>,
}

impl DiskLimits {
    /// Of the values of the keys that `get` gives.
    pub fn parse<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Result<Self, String> {
        let (read, write) = both(get, ["limits.read", "limits.write"], disk_rate)?;
        Ok(Self { read, write })
    }
}

impl NicLimits {
    /// Of the values of the keys that `get` gives.
    pub fn parse<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Result<Self, String> {
        let (ingress, egress) = both(get, ["limits.ingress", "limits.egress"], |text| some(parse_bits(text)?))?;
        Ok(Self { ingress, egress })
    }
}

/// Both directions; `limits.max` stands for the two of them and cannot be said beside them.
fn both<'a, T: Copy>(
    get: impl Fn(&str) -> Option<&'a str>,
    [one, two]: [&str; 2],
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<(Option<T>, Option<T>), String> {
    const BOTH: &str = "limits.max";
    let value = |key: &str| get(key).map(|text| parse(text).map_err(|e| format!("{key}: {e}"))).transpose();
    let (first, second, max) = (value(one)?, value(two)?, value(BOTH)?);
    if max.is_some() && (first.is_some() || second.is_some()) {
        return Err(format!("{BOTH} stands for {one} and {two}; say either it or them"));
    }
    Ok((max.or(first), max.or(second)))
}

fn disk_rate(text: &str) -> Result<DiskRate, String> {
    match text.strip_suffix(OPERATIONS) {
        Some(number) => {
            let number = number.parse().map_err(|_| format!("\"{text}\" is not a rate; use for example 500iops"))?;
            some(number).map(DiskRate::Operations)
        }
        None => some(parse_size(text)?).map(DiskRate::Bytes),
    }
}

fn some(number: u64) -> Result<NonZeroU64, String> {
    NonZeroU64::new(number).ok_or_else(|| "0 would stop it altogether; unset the key to have no limit".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<&'a str> {
        |key| pairs.iter().find(|(k, _)| *k == key).map(|(_, v)| *v)
    }

    fn number(number: u64) -> NonZeroU64 {
        NonZeroU64::new(number).unwrap()
    }

    #[test]
    fn disks_have_bytes_or_operations() {
        let limits = DiskLimits::parse(get(&[("limits.read", "30MB"), ("limits.write", "500iops")])).unwrap();
        assert_eq!(limits.read, Some(DiskRate::Bytes(number(30_000_000))));
        assert_eq!(limits.write, Some(DiskRate::Operations(number(500))));
        let limits = DiskLimits::parse(get(&[("limits.max", "10iops")])).unwrap();
        assert_eq!((limits.read, limits.write), (limits.write, Some(DiskRate::Operations(number(10)))));
        for wrong in [&[("limits.read", "fast")][..], &[("limits.write", "0")], &[("limits.max", "iops")]] {
            assert!(DiskLimits::parse(get(wrong)).unwrap_err().contains(wrong[0].0), "{wrong:?}");
        }
    }

    #[test]
    fn interfaces_have_bits() {
        let limits = NicLimits::parse(get(&[("limits.ingress", "1Mbit"), ("limits.egress", "5Mbit")])).unwrap();
        assert_eq!(limits, NicLimits { ingress: Some(number(1_000_000)), egress: Some(number(5_000_000)) });
        let both = [("limits.ingress", "1Mbit"), ("limits.max", "5Mbit")];
        assert!(NicLimits::parse(get(&both)).unwrap_err().contains("either"));
    }
}
