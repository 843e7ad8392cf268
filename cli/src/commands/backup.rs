//! `berth export` and `berth import`.

use std::{
    io::IsTerminal as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use berth_api::{
    Endpoint,
    client::{HeaderMap, HeaderName, HeaderValue, RawResponse},
};
use clap::Args;
use tokio::fs::{self, File};

use super::{
    image_transfer::{disposition, send},
    launch,
};
use crate::{complete, progress::Progress, target, target::Context};

/// Write an instance with its snapshots to a file, which LXD can import too
///
/// The file goes from the instance to here; the server keeps no copy of it.
#[derive(Debug, Args)]
pub struct Export {
    /// Instance
    #[arg(add = complete::instances())]
    instance: String,
    /// File to write, `-` for standard output [default: INSTANCE.tar.gz or as it is compressed]
    file: Option<PathBuf>,
    /// Leave the snapshots out
    #[arg(long)]
    instance_only: bool,
    /// Compression: none, gzip, zstd, xz, lzma or bzip2
    #[arg(long, value_name = "NAME")]
    compression: Option<String>,
}

impl Export {
    pub async fn run(self, context: &Context) -> Result<()> {
        let name = target::required(&self.instance, "instance")?;
        let stdout = self.file.as_deref() == Some(Path::new("-"));
        if stdout && std::io::stdout().is_terminal() {
            bail!("the archive is not written to a terminal: give a file, or send standard output elsewhere");
        }
        let mut endpoint = target::instance(name).join(&["export"]).flag("instance-only", self.instance_only);
        if let Some(compression) = &self.compression {
            endpoint = endpoint.query("compression", compression);
        }
        let response = context.client.download(&endpoint).await.map_err(|error| launch::missing(error, name))?;
        let progress = Progress::new(&format!("Exporting {name}"), context.quiet);
        if stdout {
            response.copy_to(&mut tokio::io::stdout(), |count| progress.bytes(count, None)).await?;
            return Ok(());
        }
        let told = disposition(&response);
        let path = self.file.clone().unwrap_or_else(|| PathBuf::from(told.unwrap_or_else(|| format!("{name}.tar"))));
        save(response, &path, &progress).await?;
        drop(progress);
        launch::say(context, &format!("Instance exported: {}", path.display()))
    }
}

/// Writes the body to a file that appears when it is whole.
async fn save(response: RawResponse, path: &Path, progress: &Progress) -> Result<()> {
    let failed = || format!("cannot write {}", path.display());
    let mut name = path.file_name().with_context(|| format!("{} is no file", path.display()))?.to_owned();
    name.push(".part");
    let part = path.with_file_name(name);
    let written = async {
        let mut file = File::create(&part).await.with_context(failed)?;
        response.copy_to(&mut file, |count| progress.bytes(count, None)).await?;
        fs::rename(&part, path).await.with_context(failed)
    };
    let done = written.await;
    if done.is_err() {
        // What is left of a failed one is of no use.
        let _ = fs::remove_file(&part).await;
    }
    done
}

/// Make an instance of a file that Berth or LXD exported
#[derive(Debug, Args)]
pub struct Import {
    /// File to read
    file: PathBuf,
    /// Name of the instance [default: as it was called]
    name: Option<String>,
    /// Storage pool to put it in
    #[arg(short, long, visible_alias = "pool", value_name = "POOL", add = complete::pools())]
    storage: Option<String>,
}

impl Import {
    pub async fn run(self, context: &Context) -> Result<()> {
        let mut headers = HeaderMap::new();
        let mut set = |name: &'static str, value: &str| -> Result<()> {
            let value = HeaderValue::from_str(value).with_context(|| format!("`{value}` cannot be a name"))?;
            headers.insert(HeaderName::from_static(name), value);
            Ok(())
        };
        if let Some(name) = &self.name {
            set("x-lxd-name", target::required(name, "instance")?)?;
        }
        if let Some(pool) = &self.storage {
            set("x-lxd-pool", pool)?;
        }
        let title = format!("Importing {}", self.file.display());
        let operation = send(context, &Endpoint::new(&["instances"]), &self.file, headers, &title).await?;
        let made = operation.as_ref().and_then(launch::created);
        launch::say(context, &format!("Instance imported: {}", made.or(self.name).unwrap_or_default()))
    }
}
