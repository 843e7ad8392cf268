//! Limits of containers' cards, kept at the host's end, which the container cannot reach.
//!
//! What goes to the container waits in a token bucket filter (tc-tbf(8)) before the veth. What comes from it cannot wait
//! anywhere: an nftables chain at the veth's ingress drops what is too much, as a policer does.

use std::num::NonZeroU64;
use std::path::PathBuf;

use crate::error::NetworkError;
use crate::firewall::nft;
use crate::manager::Networks;
use crate::{files, nic};

/// Beginning of the names of files with the rules of cards that have any. No network has a name that begins with a dot.
const RULES: &str = ".limits-";

/// Most bytes a second; what is `None` is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NicLimits {
    /// To the container.
    pub ingress: Option<NonZeroU64>,
    /// From the container. After a pause a second's worth may pass at once: nftables keeps rates by the second.
    pub egress: Option<NonZeroU64>,
}

impl Networks {
    /// Limits a container's card anew, which has been [attached](Self::attach_container) as `host_name`. What it is already is
    /// left alone.
    pub async fn limit(&self, host_name: &str, limits: NicLimits) -> Result<(), NetworkError> {
        let failed = || NetworkError::link(format!("limit the network interface {host_name}"));
        let found = self.inner.links.find(host_name).await.map_err(failed())?;
        let Some(link) = found.filter(|_| nic::is_port_name(host_name)) else {
            return Err(failed()(std::io::ErrorKind::NotFound.into()));
        };
        match limits.ingress {
            Some(rate) => self.inner.links.shape(link.index, rate).await.map_err(failed())?,
            None => self.inner.links.unshape(link.index).await.map_err(failed())?,
        }
        let Some(rate) = limits.egress else { return self.police_no_more(host_name).await };
        let (path, rules) = (self.rules_path(host_name), rules(host_name, rate));
        if files::read(&path).await?.as_ref() != Some(&rules) {
            // Before the rules themselves, so that they are not forgotten. What is there already may not be what is said.
            files::write(&path, "").await?;
            nft(&["-f", "-"], &rules, &format!("limit what comes from {host_name}")).await?;
            files::write(&path, &rules).await?;
        }
        Ok(())
    }

    /// Removes the rules of a card, if it has any.
    pub(crate) async fn police_no_more(&self, host_name: &str) -> Result<(), NetworkError> {
        let path = self.rules_path(host_name);
        if files::read(&path).await?.is_some() {
            let table = table(host_name);
            let what = format!("no longer limit what comes from {host_name}");
            nft(&["-f", "-"], &format!("table {table}\ndelete table {table}\n"), &what).await?;
            files::remove(&path).await?;
        }
        Ok(())
    }

    fn rules_path(&self, host_name: &str) -> PathBuf {
        self.inner.dir.join(format!("{RULES}{host_name}"))
    }
}

fn table(host_name: &str) -> String {
    format!("netdev berth_{host_name}")
}

fn rules(host_name: &str, rate: NonZeroU64) -> String {
    let table = table(host_name);
    // The burst is what is allowed beside the second's worth: one packet that the kernel has put together.
    format!(
        "table {table}
delete table {table}
table {table} {{
\tchain egress {{
\t\ttype filter hook ingress device \"{host_name}\" priority filter; policy accept;
\t\tlimit rate over {rate} bytes/second burst 65536 bytes drop
\t}}
}}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_name_the_card_and_the_rate() {
        let rules = rules("veth01234567", NonZeroU64::new(125_000).unwrap());
        assert!(rules.contains("table netdev berth_veth01234567 {"), "{rules}");
        assert!(rules.contains("device \"veth01234567\""), "{rules}");
        assert!(rules.contains("limit rate over 125000 bytes/second"), "{rules}");
    }
}
