//! `berth file`.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use berth_api::client::{Method, Upload};
use clap::Subcommand;

use super::file_transfer::{Kind, Ownership, Pull, Push, endpoint, headers, stat};
use crate::{complete, editor, target, target::Context};

/// Work with files of instances
#[derive(Debug, Subcommand)]
pub enum File {
    /// Delete files in instances
    #[command(alias = "rm")]
    Delete {
        /// INSTANCE/PATH
        #[arg(required = true, add = complete::instance_paths())]
        paths: Vec<String>,
    },
    /// Edit a file in an instance
    Edit {
        /// INSTANCE/PATH
        #[arg(add = complete::instance_paths())]
        path: String,
    },
    /// Copy files from instances
    Pull {
        /// INSTANCE/PATH..., then where to: a file, a directory, or `-` for standard output
        #[arg(required = true, num_args = 2.., add = complete::instance_paths())]
        paths: Vec<String>,
        /// Make missing directories
        #[arg(short = 'p', long)]
        create_dirs: bool,
        /// Whole directories
        #[arg(short, long)]
        recursive: bool,
    },
    /// Copy files into an instance
    Push {
        /// Files (`-` for standard input), then INSTANCE/PATH; a path that ends with / is a directory
        #[arg(required = true, num_args = 2..)]
        paths: Vec<String>,
        /// Make missing directories
        #[arg(short = 'p', long)]
        create_dirs: bool,
        /// Whole directories
        #[arg(short, long)]
        recursive: bool,
        /// User id; that of the file without
        #[arg(long, value_name = "UID")]
        uid: Option<u32>,
        /// Group id; that of the file without
        #[arg(long, value_name = "GID")]
        gid: Option<u32>,
        /// Permissions, octal; those of the file without
        #[arg(long, value_name = "MODE", value_parser = octal)]
        mode: Option<u32>,
    },
}

/// Permissions as `chmod` takes them.
fn octal(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text.strip_prefix("0o").unwrap_or(text), 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => Err("permissions are octal, as in 0644".into()),
    }
}

impl File {
    pub async fn run(self, context: &Context) -> Result<()> {
        match self {
            Self::Delete { paths } => {
                for path in &paths {
                    let (instance, path) = target::instance_path(path)?;
                    let done = context.delete(&endpoint(instance, &path), "").await;
                    done.with_context(|| format!("cannot delete {instance}{path}"))?;
                }
                Ok(())
            }
            Self::Edit { path } => edit(context, &path).await,
            Self::Pull { mut paths, create_dirs, recursive } => {
                let to = paths.pop().unwrap_or_default();
                Pull { context, create_dirs, recursive }.run(&paths, &to).await
            }
            Self::Push { mut paths, create_dirs, recursive, uid, gid, mode } => {
                let to = paths.pop().unwrap_or_default();
                let (instance, path) = target::instance_path(&to)?;
                let push = Push { context, instance, create_dirs, recursive, ownership: Ownership { uid, gid, mode } };
                push.run(&paths.into_iter().map(PathBuf::from).collect::<Vec<_>>(), &path).await
            }
        }
    }
}

/// Edits a file by way of a temporary one; owner and permissions stay.
async fn edit(context: &Context, text: &str) -> Result<()> {
    let (instance, path) = target::instance_path(text)?;
    let endpoint = endpoint(instance, &path);
    let response = context.client.download(&endpoint).await.with_context(|| format!("cannot read {instance}{path}"))?;
    let (kind, ownership) = stat(&response);
    if kind != Kind::File {
        bail!("{instance}{path} is not a regular file");
    }
    let suffix = path.rsplit_once('.').map_or(String::new(), |(_, end)| format!(".{}", end.replace('/', "")));
    let file = tempfile::Builder::new().prefix("berth-").suffix(&suffix).tempfile()?;
    let mut before = Vec::new();
    response.copy_to(&mut before, |_| {}).await?;
    std::fs::write(file.path(), &before).context("cannot write the temporary file")?;
    editor::open(file.path())?;
    let after = std::fs::read(file.path()).context("cannot read the edited file")?;
    if after == before {
        eprintln!("Nothing was changed.");
        return Ok(());
    }
    let headers = headers(Kind::File, ownership);
    let sent = context.client.upload(Method::POST, &endpoint, headers, Upload::bytes(after)).await;
    sent.with_context(|| format!("cannot write {instance}{path}")).map(|_| ())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    #[test]
    fn permissions_are_octal() {
        assert_eq!(octal("0644"), Ok(0o644));
        assert_eq!(octal("4755"), Ok(0o4755));
        assert!(octal("999").is_err() && octal("10000").is_err() && octal("rwx").is_err());
    }

    #[test]
    fn standard_streams_are_dashes() {
        for line in ["berth file push - c1/tmp/x", "berth file push -p a b c1/tmp/", "berth file pull -r c1/etc ."] {
            assert!(matches!(Cli::try_parse_from(line.split(' ')).unwrap().command, Command::File(_)), "{line}");
        }
        match Cli::try_parse_from("berth file pull c1/etc/hosts -".split(' ')).unwrap().command {
            Command::File(File::Pull { paths, .. }) => assert_eq!(paths, ["c1/etc/hosts", "-"]),
            other => panic!("{other:?}"),
        }
        match Cli::try_parse_from("berth file push --mode 600 --uid 5 x c1/y".split(' ')).unwrap().command {
            Command::File(File::Push { mode, uid, .. }) => assert_eq!((mode, uid), (Some(0o600), Some(5))),
            other => panic!("{other:?}"),
        }
    }
}
