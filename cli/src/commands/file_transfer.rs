//! Files to and from instances.

use std::{
    fs::{self, Metadata, OpenOptions, Permissions},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use berth_api::{
    Endpoint,
    client::{HeaderMap, HeaderName, HeaderValue, Method, RawResponse, Upload},
    exec::{HEADER_GID, HEADER_MODE, HEADER_TYPE, HEADER_UID, HEADER_WRITE},
};
use rustix::fs::OFlags;

use crate::{progress::Progress, target, target::Context};

/// Longest target of a symbolic link.
const MAX_LINK: usize = 4096;

/// Kind of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
}

/// Owner and permissions; what is absent is the server's choice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ownership {
    /// User id.
    pub uid: Option<u32>,
    /// Group id.
    pub gid: Option<u32>,
    /// Permissions.
    pub mode: Option<u32>,
}

impl Ownership {
    /// With what a local file says where nothing is given.
    fn or_of(self, metadata: &Metadata) -> Self {
        Self {
            uid: self.uid.or(Some(metadata.uid())),
            gid: self.gid.or(Some(metadata.gid())),
            mode: self.mode.or(Some(metadata.mode() & 0o7777)),
        }
    }
}

/// Endpoint of a file.
pub fn endpoint(instance: &str, path: &str) -> Endpoint {
    target::instance(instance).join(&["files"]).query("path", path)
}

/// Headers that describe a file.
pub fn headers(kind: Kind, ownership: Ownership) -> HeaderMap {
    let kind = match kind {
        Kind::File => "file",
        Kind::Directory => "directory",
        Kind::Symlink => "symlink",
    };
    let mut headers = HeaderMap::new();
    let mut add = |name: &str, value: String| {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::from_str(&value)) {
            headers.insert(name, value);
        }
    };
    add(HEADER_TYPE, kind.into());
    add(HEADER_WRITE, "overwrite".into());
    for (name, id) in [(HEADER_UID, ownership.uid), (HEADER_GID, ownership.gid)] {
        if let Some(id) = id {
            add(name, id.to_string());
        }
    }
    if let Some(mode) = ownership.mode {
        add(HEADER_MODE, format!("{mode:04o}"));
    }
    headers
}

/// What the headers of an answer say.
pub fn stat(response: &RawResponse) -> (Kind, Ownership) {
    let kind = match response.header(HEADER_TYPE) {
        "directory" => Kind::Directory,
        "symlink" => Kind::Symlink,
        _ => Kind::File,
    };
    let mode = response.header(HEADER_MODE);
    let ownership = Ownership {
        uid: response.header(HEADER_UID).parse().ok(),
        gid: response.header(HEADER_GID).parse().ok(),
        mode: u32::from_str_radix(mode.strip_prefix("0o").unwrap_or(mode), 8).ok().map(|mode| mode & 0o7777),
    };
    (kind, ownership)
}

/// Copies files into an instance.
pub struct Push<'a> {
    pub context: &'a Context,
    pub instance: &'a str,
    pub create_dirs: bool,
    pub recursive: bool,
    pub ownership: Ownership,
}

impl Push<'_> {
    /// Copies to a path; it is a directory if it ends with `/`, if it is one, or if there are many sources.
    pub async fn run(&self, sources: &[PathBuf], to: &str) -> Result<()> {
        let into = to.ends_with('/') || sources.len() > 1 || self.is_directory(to).await;
        let base = if into { to.trim_end_matches('/') } else { to };
        if self.create_dirs {
            let parent = if into { base } else { base.rsplit_once('/').map_or("", |(parent, _)| parent) };
            self.make_parents(parent).await?;
        }
        for source in sources {
            if source == Path::new("-") {
                if into {
                    bail!("standard input has no name: write that of the file, as in {}{to}NAME", self.instance);
                }
                self.stdin(to).await?;
                continue;
            }
            let metadata = fs::metadata(source).with_context(|| format!("cannot read {}", source.display()))?;
            let path = if into { format!("{base}/{}", file_name(source)?) } else { to.to_owned() };
            if metadata.is_dir() {
                if !self.recursive {
                    bail!("{} is a directory: copy it with --recursive", source.display());
                }
                self.tree(source, &path).await?;
            } else {
                self.file(source, &path, &metadata).await?;
            }
        }
        Ok(())
    }

    async fn is_directory(&self, path: &str) -> bool {
        let Ok(response) = self.context.client.download(&endpoint(self.instance, path)).await else { return false };
        stat(&response).0 == Kind::Directory
    }

    async fn make_parents(&self, path: &str) -> Result<()> {
        let mut made = String::new();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            made.push('/');
            made.push_str(part);
            // A directory that is there keeps what it is: the server leaves it alone.
            let ownership = Ownership { mode: Some(0o755), ..self.ownership };
            self.send(&made, Kind::Directory, ownership, Upload::bytes("")).await?;
        }
        Ok(())
    }

    async fn stdin(&self, path: &str) -> Result<()> {
        let upload = Upload::reader(tokio::io::stdin(), None, |_| {});
        self.send(path, Kind::File, self.ownership, upload).await
    }

    async fn file(&self, source: &Path, path: &str, metadata: &Metadata) -> Result<()> {
        let failed = || format!("cannot read {}", source.display());
        let file = tokio::fs::File::open(source).await.with_context(failed)?;
        let (sender, mut sizes) = tokio::sync::watch::channel(0_u64);
        let upload = Upload::reader(file, Some(metadata.len()), move |count| {
            sender.send_replace(count);
        });
        let progress = Progress::new(&format!("Pushing {}", source.display()), self.context.quiet);
        let send = self.send(path, Kind::File, self.ownership.or_of(metadata), upload);
        let show = async {
            while sizes.changed().await.is_ok() {
                progress.bytes(*sizes.borrow(), Some(metadata.len()));
            }
            std::future::pending::<Result<()>>().await
        };
        tokio::select! {
            sent = send => sent,
            never = show => never,
        }
    }

    /// Copies a directory and what is in it; links are copied as links.
    async fn tree(&self, source: &Path, path: &str) -> Result<()> {
        let mut open = vec![(source.to_owned(), path.to_owned())];
        while let Some((local, remote)) = open.pop() {
            let failed = || format!("cannot read {}", local.display());
            let metadata = fs::symlink_metadata(&local).with_context(failed)?;
            if metadata.is_symlink() {
                let link = fs::read_link(&local).with_context(failed)?;
                let link = link.to_str().with_context(|| format!("the target of {} is no text", local.display()))?;
                self.send(&remote, Kind::Symlink, self.ownership.or_of(&metadata), Upload::bytes(link.to_owned()))
                    .await?;
            } else if metadata.is_dir() {
                self.send(
                    &remote,
                    Kind::Directory,
                    Ownership { mode: None, ..self.ownership }.or_of(&metadata),
                    Upload::bytes(""),
                )
                .await?;
                for entry in fs::read_dir(&local).with_context(failed)? {
                    let path = entry.with_context(failed)?.path();
                    let below = format!("{remote}/{}", file_name(&path)?);
                    open.push((path, below));
                }
            } else if metadata.is_file() {
                self.file(&local, &remote, &metadata).await?;
            } else {
                eprintln!("{} is neither file, directory nor link; it is left out", local.display());
            }
        }
        Ok(())
    }

    async fn send(&self, path: &str, kind: Kind, ownership: Ownership, upload: Upload) -> Result<()> {
        let endpoint = endpoint(self.instance, path);
        let sent = self.context.client.upload(Method::POST, &endpoint, headers(kind, ownership), upload).await;
        sent.with_context(|| format!("cannot write {}{path}", self.instance)).map(|_| ())
    }
}

fn file_name(path: &Path) -> Result<String> {
    // `.` and `..` have no name of their own.
    let whole = path.canonicalize();
    let name = path.file_name().or_else(|| whole.as_ref().ok()?.file_name());
    match name.and_then(|name| name.to_str()) {
        Some(name) => Ok(name.to_owned()),
        None => bail!("{} has no name that can be used in the instance", path.display()),
    }
}

/// Copies files from instances.
pub struct Pull<'a> {
    pub context: &'a Context,
    pub create_dirs: bool,
    pub recursive: bool,
}

impl Pull<'_> {
    /// Copies to a local path, a directory if it ends with `/`, if it is one, or if there are many sources.
    pub async fn run(&self, sources: &[String], to: &str) -> Result<()> {
        let local = Path::new(to);
        let into = to.ends_with('/') || sources.len() > 1 || local.is_dir();
        if self.create_dirs {
            let parent = if into { Some(local) } else { local.parent() };
            if let Some(parent) = parent.filter(|parent| !parent.as_os_str().is_empty()) {
                fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
            }
        }
        for source in sources {
            let (instance, path) = target::instance_path(source)?;
            if to == "-" {
                let response = self.open(instance, &path).await?;
                if stat(&response).0 == Kind::Directory {
                    bail!("{source} is a directory: it cannot go to standard output");
                }
                response.copy_to(&mut tokio::io::stdout(), |_| {}).await?;
                continue;
            }
            let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
            let dest = if into {
                local.join(if name.is_empty() { instance } else { safe_name(name)? })
            } else {
                local.to_owned()
            };
            self.entry(instance, &path, &dest).await?;
        }
        Ok(())
    }

    async fn open(&self, instance: &str, path: &str) -> Result<RawResponse> {
        let response = self.context.client.download(&endpoint(instance, path)).await;
        response.with_context(|| format!("cannot read {instance}{path}"))
    }

    /// Copies one path, and with `recursive` what is below.
    async fn entry(&self, instance: &str, path: &str, dest: &Path) -> Result<()> {
        let mut open = vec![(path.to_owned(), dest.to_owned())];
        while let Some((remote, local)) = open.pop() {
            let response = self.open(instance, &remote).await?;
            let (kind, ownership) = stat(&response);
            let failed = || format!("cannot write {}", local.display());
            match kind {
                Kind::File => self.file(response, ownership, &local).await?,
                Kind::Symlink => {
                    let link = response.bytes(MAX_LINK).await?;
                    let link = String::from_utf8(link).with_context(|| format!("the link {remote} is no text"))?;
                    match fs::remove_file(&local) {
                        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                            return Err(error).with_context(failed);
                        }
                        _ => symlink(link.trim_end_matches('\n'), &local).with_context(failed)?,
                    }
                }
                Kind::Directory if !self.recursive => {
                    bail!("{instance}{remote} is a directory: copy it with --recursive")
                }
                Kind::Directory => {
                    let entries: Vec<String> = response.json().await?;
                    match fs::create_dir(&local) {
                        Err(error)
                            if error.kind() == std::io::ErrorKind::AlreadyExists && is_real_directory(&local) => {}
                        made => made.with_context(failed)?,
                    }
                    for entry in entries {
                        // The guest names its files; none may lead out of this directory.
                        let below = local.join(safe_name(&entry)?);
                        open.push((format!("{}/{entry}", remote.trim_end_matches('/')), below));
                    }
                }
            }
        }
        Ok(())
    }

    async fn file(&self, response: RawResponse, ownership: Ownership, local: &Path) -> Result<()> {
        let failed = || format!("cannot write {}", local.display());
        // In a tree, a link that the guest planted must not be followed.
        let nofollow = if self.recursive { OFlags::NOFOLLOW.bits().cast_signed() } else { 0 };
        let file = OpenOptions::new().write(true).create(true).truncate(true).custom_flags(nofollow).open(local);
        let file = file.with_context(failed)?;
        if let Some(mode) = ownership.mode {
            // No set-user-id bits: the file belongs to the user here.
            file.set_permissions(Permissions::from_mode(mode & 0o777)).with_context(failed)?;
        }
        let progress = Progress::new(&format!("Pulling {}", local.display()), self.context.quiet);
        let total = response.length();
        let mut file = tokio::fs::File::from_std(file);
        response.copy_to(&mut file, |count| progress.bytes(count, total)).await.with_context(failed)?;
        Ok(())
    }
}

fn is_real_directory(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir())
}

/// A name that stays where it is put.
fn safe_name(name: &str) -> Result<&str> {
    if matches!(name, "" | "." | "..") || name.contains(['/', '\0']) {
        bail!("the instance names a file {name:?}, which would leave the directory; nothing more is copied");
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_guests_are_checked() {
        assert!(safe_name("passwd").is_ok() && safe_name("...").is_ok());
        for bad in ["", ".", "..", "a/b", "../x", "a\0b"] {
            assert!(safe_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn headers_say_all() {
        let headers = headers(Kind::Directory, Ownership { uid: Some(5), gid: None, mode: Some(0o75) });
        assert_eq!(headers["x-lxd-type"], "directory");
        assert_eq!(headers["x-lxd-uid"], "5");
        assert_eq!(headers["x-lxd-mode"], "0075");
        assert!(!headers.contains_key("x-lxd-gid"));
    }

    #[test]
    fn dot_has_the_name_of_its_directory() {
        assert_eq!(file_name(Path::new("/tmp/x/")).unwrap(), "x");
        assert!(!file_name(Path::new(".")).unwrap().is_empty());
        assert!(file_name(Path::new("/")).is_err());
    }
}
