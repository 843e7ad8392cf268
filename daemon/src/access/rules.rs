//! What callers may do that may not do everything.

use berth_instances::projects::Feature;
use http::Method;

/// What one method of one path is open to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// Strangers; the handler shows them what is public.
    pub untrusted: bool,
    /// Restricted certificates, if the request stays within their projects.
    pub restricted: Option<Confined>,
}

/// How a request stays within projects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confined {
    /// It is about no project, or the handler shows what the caller may see.
    Anywhere,
    /// By the project of its query.
    Project(Body),
    /// The same, and a change also by the project that holds such objects for it.
    Owner(Feature, Body),
    /// By the project that the path names.
    Named,
    /// By the project of the operation that the path names.
    Operation,
}

/// Whether the body may name other projects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// JSON, which is looked through.
    Json,
    /// An image: JSON or its content.
    Image,
    /// An instance: JSON or its backup.
    Instance,
    /// Content of files.
    Content,
}

use Body::{Content, Image, Instance, Json};
use Confined::{Anywhere, Named, Operation, Owner, Project};

/// The rule for a request; `path` is the route's, with its parameters. `None`: nobody but who may do everything.
pub fn rule(method: &Method, path: &str) -> Option<Rule> {
    let method = if method == Method::HEAD { &Method::GET } else { method };
    let stranger = |restricted| Some(Rule { untrusted: true, restricted });
    let restricted = |confined| Some(Rule { untrusted: false, restricted: Some(confined) });
    let kinds = ["/1.0/instances", "/1.0/containers", "/1.0/virtual-machines"];
    if let Some(below) = kinds.iter().find_map(|kind| path.strip_prefix(kind)) {
        return instance(method, below).and_then(restricted);
    }
    match (method.as_str(), path) {
        ("GET", "/" | "/1.0") => stranger(Some(Anywhere)),
        // With the password or a token.
        ("POST", "/1.0/certificates") => stranger(None),
        ("GET", "/1.0/images" | "/1.0/images/{fingerprint}" | "/1.0/images/{fingerprint}/export")
        | ("GET", "/1.0/images/aliases" | "/1.0/images/aliases/{*name}") => stranger(Some(Project(Json))),
        ("POST", "/1.0/images") => restricted(Owner(Feature::Images, Image)),
        ("PUT" | "PATCH" | "DELETE", "/1.0/images/{fingerprint}")
        | ("POST", "/1.0/images/{fingerprint}/refresh" | "/1.0/images/aliases")
        | ("PUT" | "PATCH" | "POST" | "DELETE", "/1.0/images/aliases/{*name}") => {
            restricted(Owner(Feature::Images, Json))
        }
        ("GET" | "POST", "/1.0/profiles") | ("GET" | "PUT" | "PATCH" | "POST" | "DELETE", "/1.0/profiles/{name}") => {
            restricted(Owner(Feature::Profiles, Json))
        }
        ("GET" | "POST", "/1.0/networks")
        | ("GET" | "PUT" | "PATCH" | "POST" | "DELETE", "/1.0/networks/{name}")
        | ("GET", "/1.0/networks/{name}/state" | "/1.0/networks/{name}/leases") => {
            restricted(Owner(Feature::Networks, Json))
        }
        ("GET", "/1.0/storage-pools" | "/1.0/storage-pools/{pool}" | "/1.0/storage-pools/{pool}/resources")
        | ("GET", "/1.0/cluster" | "/1.0/cluster/members" | "/1.0/projects") => restricted(Anywhere),
        ("GET", "/1.0/storage-pools/{pool}/volumes" | "/1.0/storage-pools/{pool}/volumes/{kind}")
        | (
            "GET",
            "/1.0/storage-pools/{pool}/volumes/{kind}/{volume}"
            | "/1.0/storage-pools/{pool}/volumes/{kind}/{volume}/state",
        )
        | ("GET", "/1.0/events" | "/1.0/operations") => restricted(Project(Json)),
        ("GET", "/1.0/projects/{name}" | "/1.0/projects/{name}/state") => restricted(Named),
        ("GET" | "DELETE", "/1.0/operations/{id}")
        | ("GET", "/1.0/operations/{id}/wait" | "/1.0/operations/{id}/websocket") => restricted(Operation),
        _ => None,
    }
}

fn instance(method: &Method, below: &str) -> Option<Confined> {
    match (method.as_str(), below) {
        ("GET" | "PUT", "")
        | ("GET" | "PUT" | "PATCH" | "POST" | "DELETE", "/{name}")
        | ("GET" | "PUT", "/{name}/state")
        | ("POST", "/{name}/exec" | "/{name}/rebuild")
        | ("GET" | "POST" | "DELETE", "/{name}/console")
        | ("GET" | "DELETE", "/{name}/files")
        | ("GET", "/{name}/logs")
        | ("GET" | "DELETE", "/{name}/logs/{file}")
        | ("GET" | "POST", "/{name}/snapshots" | "/{name}/backups")
        | ("GET" | "PUT" | "PATCH" | "POST" | "DELETE", "/{name}/snapshots/{snapshot}")
        | ("GET" | "POST" | "DELETE", "/{name}/backups/{backup}")
        | ("GET", "/{name}/backups/{backup}/export" | "/{name}/export" | "/{name}/sftp")
        | ("GET" | "PUT" | "PATCH", "/{name}/metadata")
        | ("GET" | "DELETE", "/{name}/metadata/templates") => Some(Project(Json)),
        ("POST", "") => Some(Project(Instance)),
        ("POST", "/{name}/files" | "/{name}/metadata/templates") => Some(Project(Content)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_listed_is_refused() {
        let of = |method: &str, path: &str| rule(&method.parse().unwrap(), path);
        for (method, path) in [
            ("PUT", "/1.0"),
            ("GET", "/1.0/certificates"),
            ("DELETE", "/1.0/certificates/{fingerprint}"),
            ("POST", "/1.0/projects"),
            ("PUT", "/1.0/projects/{name}"),
            ("POST", "/1.0/storage-pools"),
            ("GET", "/1.0/warnings"),
            ("GET", "/1.0/resources"),
            ("PUT", "/internal/shutdown"),
            ("GET", "/1.0/instances/{name}/anything-new"),
            ("GET", "/1.0/instances-of-others"),
        ] {
            assert_eq!(of(method, path), None, "{method} {path}");
        }
        let strangers = of("POST", "/1.0/certificates").unwrap();
        assert!(strangers.untrusted && strangers.restricted.is_none());
        assert!(!of("GET", "/1.0/instances").unwrap().untrusted);
        assert_eq!(of("HEAD", "/1.0/containers/{name}/files"), of("GET", "/1.0/instances/{name}/files"));
    }
}
