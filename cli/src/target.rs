//! Where a command goes: socket, project, and the names of objects.

use std::path::PathBuf;

use anyhow::{Result, bail};
use berth_api::{
    Client, Endpoint,
    client::{Answer, Done, Method},
    operations::Operation,
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{cli::Globals, progress::Progress};

/// The daemon's data directory unless the user says otherwise.
const DEFAULT_DIR: &str = "/var/lib/berth";

/// What every command works with.
#[derive(Debug, Clone)]
pub struct Context {
    /// Client, in the chosen project.
    pub client: Client,
    /// Whether progress is not shown.
    pub quiet: bool,
}

/// The socket: `$BERTH_SOCKET`, else that in the given directory. An explicit `--dir` beats the variable.
pub fn socket(dir: Option<PathBuf>, dir_is_flag: bool, variable: Option<PathBuf>) -> PathBuf {
    match variable.filter(|path| !path.as_os_str().is_empty()) {
        Some(socket) if !dir_is_flag => socket,
        _ => dir.unwrap_or_else(|| DEFAULT_DIR.into()).join("unix.socket"),
    }
}

impl Context {
    /// From the options; makes no connection.
    pub fn new(globals: &Globals) -> Self {
        // clap takes --dir from the environment too; only a real flag differs from that.
        let from_env = std::env::var_os("BERTH_DIR").map(PathBuf::from);
        let dir_is_flag = globals.dir.is_some() && globals.dir != from_env;
        let socket = socket(globals.dir.clone(), dir_is_flag, std::env::var_os("BERTH_SOCKET").map(PathBuf::from));
        Self { client: Client::unix(socket).with_project(globals.project.as_deref()), quiet: globals.quiet }
    }

    /// Reads an object.
    pub async fn get<T: DeserializeOwned>(&self, endpoint: &Endpoint) -> Result<T> {
        Ok(self.client.get(endpoint).await?)
    }

    /// Sends a request, shows its progress under this title, and waits for its end. Ctrl-C cancels it.
    pub async fn run<B: Serialize>(
        &self,
        method: Method,
        endpoint: &Endpoint,
        body: Option<&B>,
        title: &str,
    ) -> Result<Option<Operation>> {
        let body = body.map(Client::json).transpose()?.flatten();
        let answer = self.client.request(method, endpoint, body, None).await?;
        self.finish(answer, title).await
    }

    /// Waits for the end of an answered request. Ctrl-C cancels it.
    pub async fn finish(&self, answer: Answer, title: &str) -> Result<Option<Operation>> {
        let progress = Progress::new(title, self.quiet);
        let mut id = String::new();
        let mut watch = |operation: &Operation| {
            id.clone_from(&operation.id);
            progress.operation(operation);
        };
        let interrupted = {
            let finish = self.client.finish(answer, &mut watch);
            tokio::select! {
                done = finish => Some(done),
                _ = tokio::signal::ctrl_c() => None,
            }
        };
        drop(progress);
        match interrupted {
            Some(Ok(Done::Background(operation))) => Ok(Some(*operation)),
            Some(Ok(Done::Sync(_))) => Ok(None),
            Some(Err(error)) => Err(error.into()),
            None => match self.client.cancel_operation(&id).await {
                Ok(()) => bail!("interrupted; the operation was cancelled"),
                Err(_) => bail!(
                    "interrupted; the operation cannot be cancelled and goes on. See it with `berth operation show {id}`"
                ),
            },
        }
    }

    /// Sends a request that has no body and waits for its end.
    pub async fn delete(&self, endpoint: &Endpoint, title: &str) -> Result<()> {
        self.run::<()>(Method::DELETE, endpoint, None, title).await.map(|_| ())
    }

    /// Makes an object.
    pub async fn create<B: Serialize>(&self, endpoint: &Endpoint, body: &B) -> Result<()> {
        self.run(Method::POST, endpoint, Some(body), "").await.map(|_| ())
    }
}

/// The name without `local:`. Berth knows no other server yet.
pub fn name(text: &str) -> Result<&str> {
    match text.split_once(':') {
        None => Ok(text),
        Some(("local" | "", name)) => Ok(name),
        Some((remote, name)) => bail!(
            "there is no remote `{remote}`: Berth works with the local server only. Use `{name}`; an image of a \
             distribution is made with `berth image build debian/12`"
        ),
    }
}

/// A name that must be there.
pub fn required<'a>(text: &'a str, what: &str) -> Result<&'a str> {
    let name = name(text)?;
    if name.is_empty() {
        bail!("the name of the {what} is missing");
    }
    Ok(name)
}

/// An instance and, after the first `/`, a snapshot.
pub fn snapshot(text: &str) -> Result<(&str, Option<&str>)> {
    let name = required(text, "instance")?;
    Ok(match name.split_once('/') {
        Some((instance, snapshot)) => (instance, Some(snapshot)),
        None => (name, None),
    })
}

/// An instance and a path inside: `c1/etc/hosts` is `/etc/hosts` in `c1`.
pub fn instance_path(text: &str) -> Result<(&str, String)> {
    let name = name(text)?;
    match name.split_once('/') {
        Some((instance, path)) if !instance.is_empty() => Ok((instance, format!("/{path}"))),
        _ => bail!("`{text}` is not a path in an instance: write INSTANCE/PATH, as in `c1/etc/hosts`"),
    }
}

/// Endpoint of an instance.
pub fn instance(name: &str) -> Endpoint {
    Endpoint::new(&["instances", name])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remotes() {
        assert_eq!(name("c1").unwrap(), "c1");
        assert_eq!(name("local:c1").unwrap(), "c1");
        assert!(name("images:debian/12").unwrap_err().to_string().contains("berth image build"));
        assert!(required("local:", "instance").is_err());
    }

    #[test]
    fn snapshots_and_paths() {
        assert_eq!(snapshot("local:c1/s0").unwrap(), ("c1", Some("s0")));
        assert_eq!(snapshot("c1").unwrap(), ("c1", None));
        assert_eq!(instance_path("c1/etc/hosts").unwrap(), ("c1", "/etc/hosts".into()));
        assert_eq!(instance_path("c1/").unwrap(), ("c1", "/".into()));
        assert_eq!(instance_path("c1//etc").unwrap(), ("c1", "//etc".into()));
        assert!(instance_path("c1").is_err() && instance_path("/etc/hosts").is_err());
    }

    #[test]
    fn sockets() {
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(socket(None, false, None), PathBuf::from("/var/lib/berth/unix.socket"));
        assert_eq!(socket(path("/d"), false, path("/s")), PathBuf::from("/s"));
        assert_eq!(socket(path("/d"), true, path("/s")), PathBuf::from("/d/unix.socket"));
        assert_eq!(socket(path("/d"), false, path("")), PathBuf::from("/d/unix.socket"));
    }
}
