//! What the values of keys look like.

use berth_containers::spec::{CpuAllowance, CpuLimit, Rlimit};

use crate::snapshots::schedule::Schedule;
use crate::snapshots::{expiry, name};
use crate::values::{parse_bool, parse_cpu_set, parse_memory, parse_size};

/// Value type of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Bool,
    Integer,
    /// A whole number that is not negative.
    Count,
    /// 0 to 10.
    Priority,
    Size,
    Memory,
    Cpus,
    Allowance,
    Rlimit,
    OneOf(&'static [&'static str]),
    Text,
    Expiry,
    Pattern,
    Schedule,
    /// Names of kernel modules.
    Modules,
    /// The value of a kernel setting.
    Sysctl,
    /// A boolean that can only be false, and why.
    Never(&'static str),
}

impl Form {
    pub(super) fn check(self, value: &str) -> Result<(), String> {
        match self {
            Self::Bool => parse_bool(value).map(drop),
            Self::Integer => value.parse::<i64>().map(drop).map_err(|_| format!("\"{value}\" is not a whole number")),
            Self::Count => value.parse::<u64>().map(drop).map_err(|_| format!("\"{value}\" is not a number")),
            Self::Priority => priority(value).map(drop),
            Self::Size => parse_size(value).map(drop),
            Self::Memory => parse_memory(value).map(drop),
            Self::Cpus => cpus(value).map(drop),
            Self::Allowance => allowance(value).map(drop),
            Self::Rlimit => rlimit(value).map(drop),
            Self::Modules => modules(value).map(drop),
            Self::Sysctl if value.contains('\0') => Err("it holds a zero".to_owned()),
            Self::Expiry => expiry::parse(value).map(drop),
            Self::Pattern => name::check_pattern(value),
            Self::Schedule => Schedule::parse(value).map(drop),
            Self::Text | Self::Sysctl => Ok(()),
            Self::Never(reason) => match parse_bool(value)? {
                true => Err(format!("it cannot be true: {reason}")),
                false => Ok(()),
            },
            Self::OneOf(words) if words.contains(&value) => Ok(()),
            Self::OneOf(words) => Err(format!("\"{value}\" is none of: {}", words.join(", "))),
        }
    }
}

/// Names of kernel modules with commas between.
pub(crate) fn modules(value: &str) -> Result<Vec<String>, String> {
    let names = value.split(',').map(str::trim).filter(|name| !name.is_empty());
    names
        .map(|name| {
            let good =
                !name.starts_with('-') && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
            if good { Ok(name.to_owned()) } else { Err(format!("\"{name}\" is no name of a kernel module")) }
        })
        .collect()
}

/// Whether `name` may be that of a kernel setting, which becomes a path.
pub(super) fn is_sysctl(name: &str) -> bool {
    let good =
        |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    name.split('.').all(good)
}

/// A priority from 0 to 10.
pub(crate) fn priority(value: &str) -> Result<u8, String> {
    match value.parse() {
        Ok(priority @ 0..=10) => Ok(priority),
        _ => Err(format!("\"{value}\" is not a priority from 0 to 10")),
    }
}

/// Value of `limits.cpu`.
pub(crate) fn cpus(value: &str) -> Result<CpuLimit, String> {
    match value.parse::<u32>() {
        Ok(0) => Err("an instance needs at least 1 CPU".to_owned()),
        Ok(count) => Ok(CpuLimit::Count(count)),
        Err(_) => parse_cpu_set(value).map(|_| CpuLimit::Set(value.to_owned())),
    }
}

/// Value of `limits.cpu.allowance`.
pub(crate) fn allowance(value: &str) -> Result<CpuAllowance, String> {
    let complaint = || format!("\"{value}\" is not a CPU allowance; use for example 50% or 25ms/100ms");
    if let Some(percent) = value.strip_suffix('%') {
        return match percent.parse() {
            Ok(percent @ 1..=100) => Ok(CpuAllowance::Percent(percent)),
            _ => Err(complaint()),
        };
    }
    let milliseconds = |text: &str| text.strip_suffix("ms").and_then(|n| n.parse::<u64>().ok()).filter(|n| *n > 0);
    let (quota, period) = value.split_once('/').ok_or_else(complaint)?;
    match (milliseconds(quota), milliseconds(period)) {
        // cpu.cfs_period_us may be 1 ms to 1 s (kernel doc scheduler/sched-bwc.rst).
        (Some(quota), Some(period @ 1..=1000)) => {
            Ok(CpuAllowance::Quota { quota_us: quota.saturating_mul(1000), period_us: period * 1000 })
        }
        _ => Err(complaint()),
    }
}

/// Value of a `limits.kernel.*`: `SOFT:HARD`, or one number for both; each may be `unlimited`.
pub(crate) fn rlimit(value: &str) -> Result<Rlimit, String> {
    let complaint = || format!("\"{value}\" is not a limit; use for example 4096, 1024:4096 or unlimited");
    let number = |text: &str| match text {
        "unlimited" => Ok(None),
        text => text.parse::<u64>().map(Some).map_err(|_| complaint()),
    };
    let (soft, hard) = value.split_once(':').unwrap_or((value, value));
    let limit = Rlimit { soft: number(soft)?, hard: number(hard)? };
    if limit.soft.unwrap_or(u64::MAX) > limit.hard.unwrap_or(u64::MAX) {
        return Err(format!("\"{value}\": the soft limit is above the hard one"));
    }
    Ok(limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn limits_of_processes_are_soft_and_hard() {
        assert_eq!(rlimit("5"), Ok(Rlimit { soft: Some(5), hard: Some(5) }));
        assert_eq!(rlimit("5:unlimited"), Ok(Rlimit { soft: Some(5), hard: None }));
        for wrong in ["", "5:4", "unlimited:1", "1:2:3", "-1", "many"] {
            assert!(rlimit(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "[0-9a-z:%/,-]{0,16}") {
            let _ = (priority(&text), cpus(&text), allowance(&text), rlimit(&text));
        }
    }
}
