//! Taking images in.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use berth_store::{Admission, Outcome, Txn, admitted, doc, step};
use sha2::{Digest, Sha256};

use crate::aliases;
use crate::error::{Error, Result};
use crate::helper::{self, Job};
use crate::info::{
    AliasDoc, BuildRequest, ImageDoc, ImageInfo, ImportFiles, ImportOptions, Kinds, RootfsName, alias_key, image_key,
};
use crate::jobs::build;
use crate::jobs::inspect::{Inspection, RootfsKind};
use crate::metadata;
use crate::progress::{Progress, ProgressEvent};
use crate::staging::Staging;
use crate::store::{Images, blocking, check_profiles, is_fingerprint, now};

/// Most aliases that one upload may make.
const ALIASES_MAX: usize = 40;
/// Longest name of a file.
const FILENAME_MAX: usize = 255;

fn report(progress: &Progress, stage: &str, text: &str) {
    progress(ProgressEvent { stage: stage.to_owned(), percent: None, text: text.to_owned() });
}

impl Images {
    /// Takes an upload into a project, if that admits it.
    pub async fn import(
        &self,
        project: &str,
        staging: Staging,
        files: ImportFiles,
        options: ImportOptions,
        admission: &dyn Admission,
        progress: &Progress,
    ) -> Result<ImageInfo> {
        check(&options)?;
        report(progress, "import", "Checking the image");
        let rootfs = files.rootfs.as_ref().map(|(path, _)| path.clone());
        let job = Job::new("inspect", helper::UNPACK)
            .option("--metadata", &files.metadata)
            .maybe("--rootfs", rootfs.as_ref());
        let value = self.inner.helper.run(job, progress).await?;
        let inspection: Inspection = serde_json::from_value(value).map_err(|e| Error::Helper {
            helper: self.inner.helper.path().to_owned(),
            reason: format!("gave a result of another release ({e}); install daemon and helper of the same release"),
        })?;
        let metadata = metadata::parse(&inspection.metadata)?;
        let kinds = kinds(&inspection, files.rootfs.as_ref().map(|(_, name)| *name))?;
        report(progress, "import", "Computing the fingerprint");
        let paths: Vec<PathBuf> = [Some(files.metadata.clone()), rootfs].into_iter().flatten().collect();
        let (fingerprint, size) = blocking(move || digest(&paths)).await?;
        let expected = options.expected_fingerprint.as_ref().filter(|text| !text.is_empty());
        if let Some(expected) = expected.filter(|text| !text.eq_ignore_ascii_case(&fingerprint)) {
            return Err(Error::Fingerprint { expected: expected.clone(), actual: fingerprint });
        }
        let mut properties = metadata.properties;
        properties.extend(options.properties.clone());
        metadata::properties(&properties).map_err(Error::Invalid)?;
        let image = ImageDoc {
            kinds,
            architecture: metadata.architecture,
            size,
            rootfs: inspection.rootfs,
            properties,
            public: options.public,
            auto_update: false,
            filename: options.filename.clone(),
            profiles: options.profiles.clone(),
            created_at: metadata.creation_date,
            expires_at: metadata.expiry_date,
            last_used_at: 0,
            uploaded_at: now(),
        };
        // Found out before the files are moved; what counts is the transaction that records the image.
        admission.admit(size).await?;
        self.keep(project, &fingerprint, staging, files, (&image, &options, admission)).await?;
        self.get(project, &fingerprint).await
    }

    async fn keep(
        &self,
        project: &str,
        fingerprint: &str,
        staging: Staging,
        files: ImportFiles,
        record: (&ImageDoc, &ImportOptions, &dyn Admission),
    ) -> Result<()> {
        let _claim = self.inner.claims.take(fingerprint).await;
        let place = self.place(fingerprint);
        blocking(move || settle(staging, &files, &place)).await?;
        let (image, options, admission) = record;
        let outcome = self.record(project, fingerprint, image, options, admission).await;
        if outcome.is_err() {
            // Another project may have it already: then its files stay.
            self.remove_unused_files(fingerprint).await?;
        }
        outcome
    }

    async fn record(
        &self,
        project: &str,
        fingerprint: &str,
        image: &ImageDoc,
        options: &ImportOptions,
        admission: &dyn Admission,
    ) -> Result<()> {
        let key = image_key(project, fingerprint);
        let mut txn = Txn::new().absent(key.clone()).write(doc::put(key, image));
        for (name, description) in &options.aliases {
            let key = alias_key(project, name);
            let alias = AliasDoc { target: fingerprint.to_owned(), description: description.clone() };
            txn = txn.absent(key.clone()).write(doc::put(key, &alias));
        }
        let outcome = admitted(self.store(), &txn, admission, image.size).await?;
        let Outcome::Conflict { current } = outcome else { return Ok(()) };
        // The conditions are in the order in which they were added.
        let project = project.to_owned();
        let taken = options.aliases.iter().zip(current.iter().skip(1)).find(|(_, there)| there.is_some());
        Err(match (current.first(), taken) {
            (Some(Some(_)), _) => Error::ImageExists { project, fingerprint: fingerprint.to_owned() },
            (_, Some(((name, _), _))) => Error::AliasExists { project, name: name.clone() },
            _ => Error::Changed { what: format!("image {fingerprint}") },
        })
    }

    /// Builds an image from a distribution's packages and takes it into a project.
    pub async fn build(
        &self,
        project: &str,
        request: BuildRequest,
        admission: &dyn Admission,
        progress: &Progress,
    ) -> Result<ImageInfo> {
        build::release(&request.distribution)?;
        if let Some(bad) = request.packages.iter().find(|name| !build::usable_package(name)) {
            return Err(Error::Invalid(format!("\"{bad}\" is no name of a Debian package")));
        }
        let options =
            ImportOptions { public: request.public, aliases: request.aliases.clone(), ..ImportOptions::default() };
        check(&options)?;
        // Found out before the minute it takes, not after.
        for (name, _) in &options.aliases {
            if self.alias_get(project, name).await.is_ok() {
                return Err(Error::AliasExists { project: project.to_owned(), name: name.clone() });
            }
        }
        let staging = self.staging()?;
        let mut job = Job::new("build", helper::BUILD)
            .option("--distribution", &request.distribution)
            .option("--work", staging.path())
            .option("--date", now().to_string())
            .maybe("--mirror", request.mirror.as_ref());
        for package in &request.packages {
            job = job.option("--package", package);
        }
        self.inner.helper.run(job, progress).await?;
        let files = ImportFiles {
            metadata: staging.path().join("metadata.tar"),
            rootfs: Some((staging.path().join("rootfs.squashfs"), RootfsName::Rootfs)),
        };
        self.import(project, staging, files, options, admission, progress).await
    }
}

fn check(options: &ImportOptions) -> Result<()> {
    if options.aliases.len() > ALIASES_MAX {
        return Err(Error::Invalid(format!(
            "more than {ALIASES_MAX} aliases for one image; add the others afterwards"
        )));
    }
    for (at, (name, description)) in options.aliases.iter().enumerate() {
        aliases::check(name, description)?;
        if options.aliases[..at].iter().any(|(other, _)| other == name) {
            return Err(Error::Invalid(format!("image alias \"{name}\" is given twice")));
        }
    }
    if options.filename.len() > FILENAME_MAX || options.filename.chars().any(char::is_control) {
        return Err(Error::Invalid("the name of the image's file is too long or holds control characters".to_owned()));
    }
    let expected = options.expected_fingerprint.as_ref().filter(|text| !text.is_empty());
    if let Some(bad) = expected.filter(|text| !is_fingerprint(&text.to_ascii_lowercase())) {
        return Err(Error::Invalid(format!("\"{}\" is no SHA-256 fingerprint", bad.escape_debug())));
    }
    metadata::properties(&options.properties).map_err(Error::Invalid)?;
    check_profiles(&options.profiles)
}

fn kinds(inspection: &Inspection, name: Option<RootfsName>) -> Result<Kinds> {
    let container = |virtual_machine| Kinds { container: true, virtual_machine };
    match (inspection.rootfs, name) {
        (None, _) if inspection.unified => Ok(container(inspection.layer)),
        (None, _) => Err(Error::Invalid(
            "the image's archive holds metadata but no root file system; upload its second file with it".to_owned(),
        )),
        (Some(RootfsKind::Qcow2), _) => Ok(Kinds { container: false, virtual_machine: true }),
        (Some(_), Some(RootfsName::RootfsImg)) => Err(Error::Invalid(
            "the image's disk (rootfs.img) is not in qcow2 format; convert it with `qemu-img convert -O qcow2`"
                .to_owned(),
        )),
        (Some(_), _) => Ok(container(inspection.layer)),
    }
}

/// SHA-256 over all files one after the other, and their size.
fn digest(paths: &[PathBuf]) -> Result<(String, u64)> {
    let mut hash = Sha256::new();
    let mut size = 0;
    let mut buffer = vec![0; 1 << 20];
    for path in paths {
        let mut file = File::open(path).map_err(Error::io("open", path))?;
        loop {
            let count = file.read(&mut buffer).map_err(Error::io("read", path))?;
            if count == 0 {
                break;
            }
            hash.update(&buffer[..count]);
            size += count as u64;
        }
    }
    Ok((hex::encode(hash.finalize()), size))
}

/// Puts the files where they belong, unless they are there. They survive a crash from here on.
fn settle(staging: Staging, files: &ImportFiles, place: &Path) -> Result<()> {
    if place.is_dir() {
        return Ok(());
    }
    let ready = staging.path().join("image");
    fs::create_dir(&ready).map_err(Error::io("create directory", &ready))?;
    let rootfs = files.rootfs.as_ref().map(|(path, _)| (path, "rootfs"));
    for (from, name) in std::iter::once((&files.metadata, "metadata")).chain(rootfs) {
        File::open(from).and_then(|file| file.sync_all()).map_err(Error::io("write", from))?;
        fs::rename(from, ready.join(name)).map_err(Error::io("move", from))?;
    }
    let sync = |path: &Path| File::open(path).and_then(|dir| dir.sync_all()).map_err(Error::io("write", path));
    sync(&ready)?;
    fs::rename(&ready, place).map_err(Error::io("move", &ready))?;
    place.parent().map_or(Ok(()), sync)?;
    step::done("files of an image in their place");
    Ok(())
}
