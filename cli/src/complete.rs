//! Completion of names that only the daemon knows. The daemon gets 200 ms to answer; without it nothing is offered.

use std::{ffi::OsStr, time::Duration};

use berth_api::{Client, Endpoint, client::names};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use serde_json::Value;

use crate::{cli::Globals, target::Context};

const DEADLINE: Duration = Duration::from_millis(200);

/// Names of instances.
pub fn instances() -> ArgValueCompleter {
    collection(&["instances"])
}

/// Names of instances, as the begin of a path.
pub fn instance_paths() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| offer(current, fetch(&["instances"]).into_iter().map(|name| name + "/")))
}

/// Aliases of images.
pub fn images() -> ArgValueCompleter {
    collection(&["images", "aliases"])
}

/// Names of profiles.
pub fn profiles() -> ArgValueCompleter {
    collection(&["profiles"])
}

/// Names of networks.
pub fn networks() -> ArgValueCompleter {
    collection(&["networks"])
}

/// Names of storage pools.
pub fn pools() -> ArgValueCompleter {
    collection(&["storage-pools"])
}

/// Names of projects.
pub fn projects() -> ArgValueCompleter {
    collection(&["projects"])
}

/// Ids of operations.
pub fn operations() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let by_status = ask(&Endpoint::new(&["operations"])).unwrap_or_default();
        let lists = by_status.as_object().into_iter().flat_map(|map| map.values());
        offer(current, lists.flat_map(names).collect::<Vec<_>>())
    })
}

fn collection(segments: &'static [&'static str]) -> ArgValueCompleter {
    ArgValueCompleter::new(move |current: &OsStr| offer(current, fetch(segments)))
}

fn offer(current: &OsStr, names: impl IntoIterator<Item = String>) -> Vec<CompletionCandidate> {
    let Some(current) = current.to_str() else { return Vec::new() };
    names.into_iter().filter(|name| name.starts_with(current)).map(CompletionCandidate::new).collect()
}

fn fetch(segments: &[&str]) -> Vec<String> {
    let mut urls = ask(&Endpoint::new(segments)).unwrap_or_default();
    // Aliases hold `/`, so the last segment is not the whole name.
    if segments == ["images", "aliases"] {
        return urls.as_array_mut().map(std::mem::take).unwrap_or_default().iter().filter_map(alias).collect();
    }
    names(&urls)
}

fn alias(url: &Value) -> Option<String> {
    let path = url.as_str()?.split('?').next()?;
    Some(berth_api::client::unquoted(path.strip_prefix("/1.0/images/aliases/")?))
}

/// One answer of the daemon that the command line names.
fn ask(endpoint: &Endpoint) -> Option<Value> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let words: Vec<String> = std::env::args().collect();
    let client: Client = Context::new(&globals(&words)).client;
    runtime.block_on(async { tokio::time::timeout(DEADLINE, client.get(endpoint)).await.ok()?.ok() })
}

/// The global options among the words that are completed.
fn globals(words: &[String]) -> Globals {
    let option = |name: &str| {
        let long = format!("--{name}");
        words.iter().enumerate().find_map(|(at, word)| {
            if *word == long {
                words.get(at + 1).cloned()
            } else {
                word.strip_prefix(&format!("{long}=")).map(str::to_owned)
            }
        })
    };
    let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    Globals {
        project: option("project").or_else(|| variable("BERTH_PROJECT")),
        dir: option("dir").or_else(|| variable("BERTH_DIR")).map(Into::into),
        ..Globals::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_found() {
        let words: Vec<String> =
            ["berth", "--", "berth", "--dir", "/d", "--project=p", "stop", ""].map(String::from).into();
        let globals = globals(&words);
        assert_eq!(globals.dir.unwrap().to_str(), Some("/d"));
        assert_eq!(globals.project.as_deref(), Some("p"));
    }

    #[test]
    fn only_what_fits_is_offered() {
        let names = ["web", "db"].map(String::from);
        let offered = offer(OsStr::new("w"), names);
        assert_eq!(offered.len(), 1);
        assert_eq!(offered[0].get_value(), "web");
        assert_eq!(alias(&"/1.0/images/aliases/debian%2F12?project=p".into()).as_deref(), Some("debian/12"));
    }
}
