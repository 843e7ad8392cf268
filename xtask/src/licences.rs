//! Checks the licences of all packages that the workspace uses.

use anyhow::{Context, Result, bail};

use crate::build;

/// Licences that may be linked into a program under the Apache License 2.0 and passed on with it.
const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "Zlib",
    "bzip2-1.0.6",
];

/// Fails with the list of all packages whose licence is not allowed.
pub fn check() -> Result<()> {
    let metadata = build::metadata()?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let refused: Vec<String> = packages
        .iter()
        .filter_map(|package| {
            let licence = package["license"].as_str().unwrap_or_default();
            let text = |key: &str| package[key].as_str().unwrap_or_default().to_owned();
            (!is_allowed(licence)).then(|| format!("  {} {}: {licence:?}", text("name"), text("version")))
        })
        .collect();
    if !refused.is_empty() {
        bail!(
            "these packages have a licence that is not on the list in xtask/src/licences.rs; replace them:\n{}",
            refused.join("\n")
        );
    }
    eprintln!("licences: all {} packages are allowed", packages.len());
    Ok(())
}

/// Whether an SPDX expression leaves an allowed choice: one of its alternatives, all of whose parts are allowed.
fn is_allowed(expression: &str) -> bool {
    // The old way to write OR.
    let expression = expression.replace('/', " OR ");
    let tokens = tokens(&expression);
    let mut rest = tokens.as_slice();
    alternatives(&mut rest) && rest.is_empty()
}

fn tokens(expression: &str) -> Vec<String> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ");
    let mut tokens: Vec<String> = Vec::new();
    let mut joins = false;
    for word in spaced.split_whitespace() {
        if word == "WITH" || joins {
            joins = word == "WITH";
            if let Some(last) = tokens.last_mut() {
                last.push(' ');
                last.push_str(word);
                continue;
            }
        }
        tokens.push(word.to_owned());
    }
    tokens
}

fn alternatives(rest: &mut &[String]) -> bool {
    let mut allowed = all_of(rest);
    while rest.first().is_some_and(|token| token == "OR") {
        *rest = &rest[1..];
        // Evaluated first: the tokens have to be used up.
        allowed = all_of(rest) || allowed;
    }
    allowed
}

fn all_of(rest: &mut &[String]) -> bool {
    let mut allowed = term(rest);
    while rest.first().is_some_and(|token| token == "AND") {
        *rest = &rest[1..];
        allowed = term(rest) && allowed;
    }
    allowed
}

fn term(rest: &mut &[String]) -> bool {
    let Some((first, tail)) = rest.split_first() else { return false };
    *rest = tail;
    if first != "(" {
        return ALLOWED.contains(&first.as_str());
    }
    let allowed = alternatives(rest);
    let closed = rest.first().is_some_and(|token| token == ")");
    *rest = rest.get(1..).unwrap_or_default();
    allowed && closed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_allowed_alternative_is_enough_and_every_part_counts() {
        for allowed in [
            "MIT",
            "MIT OR Apache-2.0",
            "MIT/Apache-2.0",
            "GPL-2.0 OR MIT",
            "Apache-2.0 WITH LLVM-exception OR GPL-3.0",
            "(MIT OR GPL-3.0) AND Unicode-3.0",
            "Apache-2.0 AND (MIT OR ISC)",
        ] {
            assert!(is_allowed(allowed), "{allowed}");
        }
        for refused in ["", "GPL-3.0", "AGPL-3.0-only", "MIT AND GPL-2.0", "(MIT", "MIT )", "LGPL-2.1 WITH MIT", "OR"] {
            assert!(!is_allowed(refused), "{refused}");
        }
    }
}
