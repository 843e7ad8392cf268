//! Limits of single processes.

use std::collections::BTreeMap;

use rustix::process::{Pid, Resource, Rlimit as Native, prlimit};

use crate::error::{Context, Error, Result};
use crate::spec::Rlimit;

/// Sets the limits of process `pid`, or of the calling one. Only the host's root may raise one above its own.
pub(crate) fn set(pid: Option<Pid>, limits: &BTreeMap<String, Rlimit>) -> Result<()> {
    for (name, limit) in limits {
        let resource = resource(name).ok_or_else(|| Error::Spec(format!("limits.kernel.{name} is no limit")))?;
        let native = Native { current: limit.soft, maximum: limit.hard };
        prlimit(pid, resource, native).with_context(|| {
            let text = |value: Option<u64>| value.map_or("unlimited".to_owned(), |value| value.to_string());
            format!(
                "set limits.kernel.{name} to {}:{} (is it above the daemon's own?)",
                text(limit.soft),
                text(limit.hard)
            )
        })?;
    }
    Ok(())
}

/// The names are those of LXD's `limits.kernel.*`.
fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "as" => Resource::As,
        "core" => Resource::Core,
        "cpu" => Resource::Cpu,
        "data" => Resource::Data,
        "fsize" => Resource::Fsize,
        "locks" => Resource::Locks,
        "memlock" => Resource::Memlock,
        "msgqueue" => Resource::Msgqueue,
        "nice" => Resource::Nice,
        "nofile" => Resource::Nofile,
        "nproc" => Resource::Nproc,
        "rss" => Resource::Rss,
        "rtprio" => Resource::Rtprio,
        "rttime" => Resource::Rttime,
        "sigpending" => Resource::Sigpending,
        "stack" => Resource::Stack,
        _ => return None,
    })
}
