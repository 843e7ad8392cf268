//! The firewall: one nftables table per network, replaced as a whole.

use std::fmt::Write;
use std::path::Path;
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::config::BridgeSpec;
use crate::error::NetworkError;
use crate::files;

/// What the kernel showed after the rules were put in place: as long as it shows the same, they are.
const SHOWN: &str = "rules.shown";

/// The rules that [`SHOWN`] came from.
const RULES: &str = "rules.nft";

const NOT_INSTALLED: &str = "is not installed: install the package nftables";

fn table(bridge: &str) -> String {
    format!("inet berth_{bridge}")
}

/// The rules for a network. Names and addresses in them were checked when the configuration was parsed.
fn rules(spec: &BridgeSpec) -> String {
    let name = &spec.name;
    let table = table(name);
    let mut nat = String::new();
    for (net, family) in [(spec.ipv4.filter(|_| spec.ipv4_nat), "ip"), (spec.ipv6.filter(|_| spec.ipv6_nat), "ip6")] {
        if let Some(net) = net {
            let net = net.network();
            let _ = writeln!(nat, "\t\t{family} saddr {net} {family} daddr != {net} masquerade");
        }
    }
    // Naming the table first makes its deletion succeed whether or not it is there; nft applies all or nothing.
    format!(
        "table {table}
delete table {table}
table {table} {{
\tchain input {{
\t\ttype filter hook input priority filter; policy accept;
\t\tiifname \"{name}\" udp dport {{ 53, 67, 547 }} accept
\t\tiifname \"{name}\" tcp dport 53 accept
\t\tiifname \"{name}\" icmp type {{ echo-request, destination-unreachable, time-exceeded, parameter-problem }} accept
\t\tiifname \"{name}\" meta l4proto ipv6-icmp accept
\t}}
\tchain forward {{
\t\ttype filter hook forward priority filter; policy accept;
\t\tiifname \"{name}\" accept
\t\toifname \"{name}\" accept
\t}}
\tchain postrouting {{
\t\ttype nat hook postrouting priority srcnat; policy accept;
{nat}\t}}
}}
"
    )
}

/// Puts the rules of a network in place, unless they are.
pub(crate) async fn apply(spec: &BridgeSpec, dir: &Path) -> Result<(), NetworkError> {
    let rules = rules(spec);
    if let (Some(known), Some(shown)) = (files::read(&dir.join(RULES)).await?, files::read(&dir.join(SHOWN)).await?)
        && known == rules
        && show(&spec.name).await?.as_ref() == Some(&shown)
    {
        return Ok(());
    }
    let what = format!("set the firewall rules of network {:?}", spec.name);
    // Before the rules themselves: whether it is there also tells whether there may be rules of ours to remove.
    files::remove(&dir.join(SHOWN)).await?;
    files::write(&dir.join(RULES), &rules).await?;
    nft(&["-f", "-"], &rules, &what).await?;
    let shown = show(&spec.name).await?.unwrap_or_default();
    files::write(&dir.join(SHOWN), &shown).await
}

/// Removes the rules of a network, if they were put in place from this directory.
///
/// A network that did not come so far may have lost its name to another daemon, whose rules have the same name then.
pub(crate) async fn remove(name: &str, dir: &Path) -> Result<(), NetworkError> {
    if files::read(&dir.join(RULES)).await?.is_none() {
        return Ok(());
    }
    let table = table(name);
    let what = format!("remove the firewall rules of network {name:?}");
    match nft(&["-f", "-"], &format!("table {table}\ndelete table {table}\n"), &what).await {
        Err(NetworkError::Program { reason, .. }) if reason == NOT_INSTALLED => Ok(()),
        done => done.map(drop),
    }
}

/// The rules as the kernel has them, if there are any.
async fn show(name: &str) -> Result<Option<String>, NetworkError> {
    let table = table(name);
    let what = format!("read the firewall rules of network {name:?}");
    let all = nft(&["list", "tables", "inet"], "", &what).await?;
    if !all.lines().any(|line| line.strip_prefix("table ").is_some_and(|found| found == table)) {
        return Ok(None);
    }
    nft(&["list", "table", "inet", &format!("berth_{name}")], "", &what).await.map(Some)
}

pub(crate) async fn nft(args: &[&str], input: &str, what: &str) -> Result<String, NetworkError> {
    let fail = |reason: String| NetworkError::Program { what: what.to_owned(), program: "nft", reason };
    let missing = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => fail(NOT_INSTALLED.to_owned()),
        _ => fail(format!("cannot be started: {error}")),
    };
    let mut command = Command::new("nft");
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(missing)?;
    if let Some(mut stdin) = child.stdin.take() {
        // If it has ended before, its exit status tells more than this would.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(|error| fail(error.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(fail(format!("failed: {}", text.lines().next().unwrap_or("it gave no reason"))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    #[test]
    fn masquerades_what_is_to_be() {
        let config = |nat4: &str, nat6: &str| {
            [("ipv4.address", "10.1.2.1/24"), ("ipv6.address", "fd42:1::1/64"), ("ipv4.nat", nat4), ("ipv6.nat", nat6)]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into()
        };
        let both = rules(&parse("br0", &config("true", "true")).unwrap());
        assert!(both.contains("ip saddr 10.1.2.0/24 ip daddr != 10.1.2.0/24 masquerade"));
        assert!(both.contains("ip6 saddr fd42:1::/64 ip6 daddr != fd42:1::/64 masquerade"));
        let none = rules(&parse("br0", &config("false", "")).unwrap());
        assert!(!none.contains("masquerade") && none.contains("table inet berth_br0"));
    }
}
