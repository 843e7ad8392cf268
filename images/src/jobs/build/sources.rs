//! Where packages come from: the mirrors the host uses, else Debian's own.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::wire::{Failure, JobResult};

const MAIN: &str = "http://deb.debian.org/debian";
const SECURITY: &str = "http://security.debian.org/debian-security";

/// Lines of `sources.list` for `suite`.
pub fn find(suite: &str, mirror: Option<&str>) -> Vec<String> {
    let (main, security) = host_mirrors();
    let main = mirror.map(str::to_owned).or(main).unwrap_or_else(|| MAIN.to_owned());
    let security = security.unwrap_or_else(|| SECURITY.to_owned());
    vec![
        format!("deb {main} {suite} main"),
        format!("deb {main} {suite}-updates main"),
        format!("deb {security} {suite}-security main"),
    ]
}

/// The keys of the Debian archive.
pub fn keyring() -> JobResult<&'static str> {
    ["/usr/share/keyrings/debian-archive-keyring.pgp", "/usr/share/keyrings/debian-archive-keyring.gpg"]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .ok_or_else(|| {
            Failure::precondition(
                "the keys of the Debian archive are missing, so packages cannot be verified; install the package debian-archive-keyring",
            )
        })
}

/// The host's settings of proxies, as options of apt.
pub fn proxies() -> Vec<String> {
    let output = Command::new("apt-config").args(["dump", "Acquire::http::Proxy", "Acquire::https::Proxy"]).output();
    let Ok(output) = output else { return Vec::new() };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().filter(|line| !line.ends_with(" \"\";")).map(|line| line.trim_end_matches(';').to_owned()).collect()
}

fn host_mirrors() -> (Option<String>, Option<String>) {
    let mut texts = vec![fs::read_to_string("/etc/apt/sources.list").unwrap_or_default()];
    if let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") {
        let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        texts.extend(paths.iter().filter_map(|path| fs::read_to_string(path).ok()));
    }
    mirrors(&texts)
}

/// Mirrors of the main and the security archive that the texts of the host's sources (either format) name.
fn mirrors(texts: &[String]) -> (Option<String>, Option<String>) {
    let lines = texts.iter().flat_map(|text| text.lines());
    let lines = lines.filter(|line| line.starts_with("deb ") || line.starts_with("URIs:"));
    let words: Vec<&str> = lines.flat_map(str::split_whitespace).collect();
    let find = |end: &str| {
        let found = words.iter().find(|word| {
            let web = word.starts_with("http://") || word.starts_with("https://");
            web && word.trim_end_matches('/').ends_with(end)
        });
        found.map(|word| word.trim_end_matches('/').to_owned())
    };
    (find("/debian"), find("/debian-security"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_found_in_both_formats() {
        let old = "# deb http://no.example/debian x\ndeb [signed-by=/x] https://m.example/debian/ bookworm main\n\
                   deb http://m.example/debian-security bookworm-security main\n";
        let new = "Types: deb\nURIs: http://n.example/debian\nSuites: trixie\n";
        let main = Some("https://m.example/debian".to_owned());
        let security = Some("http://m.example/debian-security".to_owned());
        assert_eq!(mirrors(&[old.to_owned(), new.to_owned()]), (main, security));
        assert_eq!(mirrors(&[new.to_owned()]), (Some("http://n.example/debian".to_owned()), None));
        assert_eq!(mirrors(&["deb https://other.example/ubuntu jammy main".to_owned()]), (None, None));
    }

    #[test]
    fn a_mirror_that_is_asked_for_wins() {
        let sources = find("trixie", Some("http://here.example/debian"));
        assert_eq!(sources[0], "deb http://here.example/debian trixie main");
        assert_eq!(sources.len(), 3);
    }
}
