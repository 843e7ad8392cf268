//! The images of each project, and their files.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use berth_store::doc::{self, Versioned};
use berth_store::{Key, Outcome, Rev, Store, Txn, step};

use crate::claims::Claims;
use crate::error::{Error, Result};
use crate::helper::Helper;
use crate::info::{
    AliasDoc, ExportFiles, ImageDoc, ImageInfo, ImageUpdate, Kinds, Programs, RootfsName, alias_key, aliases_of,
    image_key, images_of,
};
use crate::jobs::inspect::RootfsKind;
use crate::metadata;
use crate::staging::{self, Staging};
use crate::unpack::decode::{self, Format};

/// Boot files nobody used for so long are removed at start.
const BOOT_CACHE_AGE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Most profiles of an image.
const PROFILES_MAX: usize = 64;
/// Name of the directory of boot files.
pub(crate) const BOOT_CACHE: &str = "boot-cache";
/// Name of the directory that tells which boot files belong to which disk.
pub(crate) const BOOT_RECORDS: &str = "boot-records";

/// The image store. Clones share it.
#[derive(Clone)]
pub struct Images {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub store: Arc<dyn Store>,
    pub dir: PathBuf,
    pub helper: Helper,
    /// The kernel for disks that hold none, if there is one.
    pub kernel: PathBuf,
    pub claims: Claims,
}

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// Runs blocking work on a thread for it.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}

/// Whether this is a whole fingerprint.
pub(crate) fn is_fingerprint(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

impl Images {
    /// Opens the image store in `dir`/images. Removes what an earlier daemon left half-done.
    pub async fn open(store: Arc<dyn Store>, dir: PathBuf, programs: Programs) -> Result<Self> {
        let dir = dir.join("images");
        let known: HashSet<String> = store.range(&Key::new(&["image"])).await?.iter().map(|kv| kv.key.name()).collect();
        let place = dir.clone();
        blocking(move || prepare(&place, &known)).await?;
        let Programs { helper, kernel } = programs;
        let inner = Inner { store, dir, helper: Helper::new(helper), kernel, claims: Claims::default() };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Writing and reading backups of instances.
    pub fn backups(&self) -> crate::backup::Backups {
        crate::backup::Backups::new(self.inner.helper.clone())
    }

    /// A private directory for an upload.
    pub fn staging(&self) -> Result<Staging> {
        Staging::new(&self.inner.dir)
    }

    pub(crate) fn store(&self) -> &dyn Store {
        self.inner.store.as_ref()
    }

    /// Directory of an image's files.
    pub(crate) fn place(&self, fingerprint: &str) -> PathBuf {
        self.inner.dir.join(fingerprint)
    }

    /// All images of a project, by fingerprint.
    pub async fn list(&self, project: &str) -> Result<Vec<ImageInfo>> {
        let images = doc::list::<ImageDoc>(self.store(), &images_of(project)).await?;
        let mut aliases = self.aliases_by_target(project).await?;
        let infos = images.into_iter().map(|(key, image)| {
            let fingerprint = key.name();
            let aliases = aliases.remove(&fingerprint).unwrap_or_default();
            self.info(fingerprint, image, aliases)
        });
        Ok(infos.collect())
    }

    /// Bytes of all images of a project.
    pub async fn size_of_all(&self, project: &str) -> Result<u64> {
        let images = doc::list::<ImageDoc>(self.store(), &images_of(project)).await?;
        Ok(images.iter().map(|(_, image)| image.doc.size).sum())
    }

    /// The image whose fingerprint begins with `prefix`.
    pub async fn get(&self, project: &str, prefix: &str) -> Result<ImageInfo> {
        let (fingerprint, image) = self.find(project, prefix).await?;
        let aliases = self.aliases_by_target(project).await?.remove(&fingerprint).unwrap_or_default();
        Ok(self.info(fingerprint, image, aliases))
    }

    /// The image an alias or the beginning of a fingerprint stands for.
    pub async fn resolve(&self, project: &str, name: &str) -> Result<ImageInfo> {
        match doc::get::<AliasDoc>(self.store(), &alias_key(project, name)).await? {
            Some(alias) => self.get(project, &alias.doc.target).await,
            None => self.get(project, name).await,
        }
    }

    fn info(&self, fingerprint: String, image: Versioned<ImageDoc>, aliases: Vec<(String, String)>) -> ImageInfo {
        let Versioned { doc, mod_rev } = image;
        let virtual_machine = doc.kinds.virtual_machine || self.inner.kernel.exists();
        let kinds = Kinds { virtual_machine, ..doc.kinds };
        ImageInfo {
            fingerprint,
            kinds,
            image_type: doc.image_type(),
            architecture: doc.architecture,
            size: doc.size,
            properties: doc.properties,
            public: doc.public,
            auto_update: doc.auto_update,
            cached: false,
            filename: doc.filename,
            profiles: doc.profiles,
            created_at: doc.created_at,
            expires_at: doc.expires_at,
            last_used_at: doc.last_used_at,
            uploaded_at: doc.uploaded_at,
            aliases,
            revision: mod_rev,
        }
    }

    pub(crate) async fn find(&self, project: &str, prefix: &str) -> Result<(String, Versioned<ImageDoc>)> {
        let missing = || Error::ImageNotFound { project: project.to_owned(), name: prefix.to_owned() };
        if is_fingerprint(prefix) {
            let image = doc::get::<ImageDoc>(self.store(), &image_key(project, prefix)).await?;
            return Ok((prefix.to_owned(), image.ok_or_else(missing)?));
        }
        if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(missing());
        }
        let wanted = prefix.to_ascii_lowercase();
        let all = doc::list::<ImageDoc>(self.store(), &images_of(project)).await?;
        let mut matching = all.into_iter().filter(|(key, _)| key.name().starts_with(&wanted));
        let (key, image) = matching.next().ok_or_else(missing)?;
        if matching.next().is_some() {
            return Err(Error::Ambiguous { project: project.to_owned(), prefix: prefix.to_owned() });
        }
        Ok((key.name(), image))
    }

    pub(crate) async fn aliases_by_target(&self, project: &str) -> Result<BTreeMap<String, Vec<(String, String)>>> {
        let mut by_target: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
        for (key, alias) in doc::list::<AliasDoc>(self.store(), &aliases_of(project)).await? {
            by_target.entry(alias.doc.target).or_default().push((key.name(), alias.doc.description));
        }
        Ok(by_target)
    }

    /// Changes what can be changed; with `if_match` only if the record still has that revision.
    pub async fn update(
        &self,
        project: &str,
        prefix: &str,
        change: ImageUpdate,
        if_match: Option<Rev>,
    ) -> Result<ImageInfo> {
        if let Some(properties) = &change.properties {
            metadata::properties(properties).map_err(Error::Invalid)?;
        }
        check_profiles(change.profiles.as_deref().unwrap_or_default())?;
        let (fingerprint, Versioned { mut doc, mod_rev }) = self.find(project, prefix).await?;
        let revision = if_match.unwrap_or(mod_rev);
        doc.public = change.public.unwrap_or(doc.public);
        doc.auto_update = change.auto_update.unwrap_or(doc.auto_update);
        doc.properties = change.properties.unwrap_or(doc.properties);
        doc.profiles = change.profiles.unwrap_or(doc.profiles);
        doc.expires_at = change.expires_at.unwrap_or(doc.expires_at);
        let key = image_key(project, &fingerprint);
        let txn = Txn::new().mod_rev(key.clone(), revision).write(doc::put(key, &doc));
        match self.store().txn(txn).await? {
            Outcome::Committed { .. } => self.get(project, &fingerprint).await,
            Outcome::Conflict { .. } => Err(Error::Changed { what: format!("image {fingerprint}") }),
        }
    }

    pub(crate) async fn touch(&self, project: &str, fingerprint: &str) -> Result<()> {
        let used = |image: &mut ImageDoc| {
            image.last_used_at = now();
            Ok::<(), Error>(())
        };
        doc::update(self.store(), &image_key(project, fingerprint), used).await.map(drop)
    }

    /// Removes an image from a project with its aliases; the files go when no project has it any more.
    pub async fn delete(&self, project: &str, prefix: &str) -> Result<()> {
        let (fingerprint, _) = self.find(project, prefix).await?;
        let _claim = self.inner.claims.take(&fingerprint).await;
        let key = image_key(project, &fingerprint);
        let aliases = self.aliases_by_target(project).await?.remove(&fingerprint).unwrap_or_default();
        let without = |txn: Txn, names: &[(String, String)]| {
            names.iter().fold(txn, |txn, (name, _)| txn.delete(alias_key(project, name)))
        };
        // A transaction has room for a limited number of writes: what does not fit goes first.
        let (first, last) = aliases.split_at(aliases.len().saturating_sub(self.store().limits().max_ops / 2));
        for names in first.chunks((self.store().limits().max_ops / 2).max(1)) {
            self.store().txn(without(Txn::new(), names)).await?;
        }
        let txn = without(Txn::new().exists(key.clone()).delete(key), last);
        if self.store().txn(txn).await?.committed().is_none() {
            return Err(Error::ImageNotFound { project: project.to_owned(), name: prefix.to_owned() });
        }
        self.remove_unused_files(&fingerprint).await
    }

    /// Removes the files of an image no project has. The caller holds its claim.
    pub(crate) async fn remove_unused_files(&self, fingerprint: &str) -> Result<()> {
        let all = self.store().range(&Key::new(&["image"])).await?;
        if all.iter().any(|kv| kv.key.name() == fingerprint) {
            return Ok(());
        }
        let place = self.place(fingerprint);
        let trash = self.staging()?;
        let to = trash.path().join(fingerprint);
        blocking(move || {
            match fs::rename(&place, to) {
                Ok(()) => step::done("files of an image out of their place"),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(Error::io("remove", &place)(e)),
            }
            drop(trash);
            Ok(())
        })
        .await
    }

    /// The files of an image.
    pub async fn export(&self, project: &str, prefix: &str) -> Result<ExportFiles> {
        let (fingerprint, image) = self.find(project, prefix).await?;
        let place = self.place(&fingerprint);
        let kind = image.doc.rootfs;
        blocking(move || {
            let metadata = place.join("metadata");
            let ending = ending_of(&metadata)?;
            let start = if kind.is_some() { "meta-" } else { "" };
            let rootfs = match kind {
                None => None,
                Some(RootfsKind::Squashfs) => Some(".squashfs"),
                Some(RootfsKind::Qcow2) => Some(".qcow2"),
                Some(RootfsKind::Tar) => Some(ending_of(&place.join("rootfs"))?),
            };
            Ok(ExportFiles {
                metadata: (format!("{start}{fingerprint}{ending}"), metadata),
                rootfs: rootfs.map(|ending| (format!("{fingerprint}{ending}"), place.join("rootfs"))),
                rootfs_name: if kind == Some(RootfsKind::Qcow2) { RootfsName::RootfsImg } else { RootfsName::Rootfs },
            })
        })
        .await
    }
}

pub(crate) fn check_profiles(profiles: &[String]) -> Result<()> {
    if profiles.len() > PROFILES_MAX || profiles.iter().any(|name| name.is_empty() || name.len() > 255) {
        return Err(Error::Invalid(format!("profiles of an image: at most {PROFILES_MAX} names of 1 to 255 bytes")));
    }
    Ok(())
}

fn ending_of(path: &Path) -> Result<&'static str> {
    let mut file = fs::File::open(path).map_err(Error::io("open", path))?;
    let format = decode::of_file(&mut file).map_err(Error::io("read", path))?;
    Ok(match format {
        Format::Gzip => ".tar.gz",
        Format::Xz => ".tar.xz",
        Format::Lzma => ".tar.lzma",
        Format::Zstd => ".tar.zst",
        Format::Bzip2 => ".tar.bz2",
        Format::Squashfs => ".squashfs",
        Format::Qcow2 => ".qcow2",
        Format::Plain => ".tar",
    })
}

/// Creates what is missing and removes leftovers.
fn prepare(dir: &Path, known: &HashSet<String>) -> Result<()> {
    let make = |path: &Path| {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(Error::io("create directory", path))
    };
    make(dir)?;
    for entry in fs::read_dir(dir).map_err(Error::io("read directory", dir))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let lost = is_fingerprint(&name) && !known.contains(&name);
        if lost || name.starts_with(staging::PREFIX) {
            staging::remove_all(&entry.path()).map_err(Error::io("remove leftover", &entry.path()))?;
        }
    }
    for boot in [dir.join(BOOT_CACHE), dir.join(BOOT_RECORDS)] {
        make(&boot)?;
        for entry in fs::read_dir(&boot).map_err(Error::io("read directory", &boot))?.flatten() {
            let age = entry.metadata().and_then(|info| info.modified()).ok().and_then(|time| time.elapsed().ok());
            let half_done = entry.file_name().to_string_lossy().starts_with(".new-");
            if half_done || age.is_some_and(|age| age > BOOT_CACHE_AGE) {
                let path = entry.path();
                let removed = if path.is_dir() { staging::remove_all(&path) } else { fs::remove_file(&path) };
                removed.map_err(Error::io("remove leftover", &path))?;
            }
        }
    }
    Ok(())
}
