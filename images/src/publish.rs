//! Making an image of an instance's volume.

use std::collections::BTreeMap;
use std::path::Path;

use berth_store::Admission;

use crate::error::{Error, Result};
use crate::helper::{self, Job};
use crate::info::{ImageInfo, ImportFiles, ImportOptions, RootfsName};
use crate::jobs::pack::{ARCHIVE, DISK, METADATA};
use crate::metadata::{self, Metadata};
use crate::pack::Compression;
use crate::progress::Progress;
use crate::store::{Images, blocking, now};
use crate::unpack::check::{METADATA_MAX, read_plain};

/// What an image is made of. Nobody may change it meanwhile.
#[derive(Debug, Clone, Copy)]
pub enum PublishSource<'a> {
    /// The volume of a container, with `rootfs/`.
    Container(&'a Path),
    /// The volume of a virtual machine, and the raw disk in it.
    VirtualMachine(&'a Path, &'a Path),
}

/// How the image is to be made.
#[derive(Debug, Clone)]
pub struct PublishRequest {
    /// Architecture in the kernel's words.
    pub architecture: String,
    /// When it is outdated, seconds since 1970; 0 for never.
    pub expires_at: i64,
    /// Properties in place of those of the image that the instance was made from; with none these are kept.
    pub properties: BTreeMap<String, String>,
    /// How the archive is compressed.
    pub compression: Compression,
    /// How it is taken into the store.
    pub options: ImportOptions,
}

impl Images {
    /// Makes an image of a volume and takes it into a project.
    pub async fn publish(
        &self,
        project: &str,
        source: PublishSource<'_>,
        request: PublishRequest,
        admission: &dyn Admission,
        progress: &Progress,
    ) -> Result<ImageInfo> {
        let staging = self.staging()?;
        let (volume, disk) = match source {
            PublishSource::Container(volume) => (volume, None),
            PublishSource::VirtualMachine(volume, disk) => (volume, Some(disk)),
        };
        let written = staging.path().join(METADATA);
        let (directory, compression) = (volume.to_owned(), request.compression);
        let options = request.options.clone();
        blocking(move || {
            let metadata = metadata_of(&directory, request)?;
            let text = serde_saphyr::to_string(&metadata)
                .map_err(|e| Error::Invalid(format!("the metadata of the image cannot be written: {e}")))?;
            std::fs::write(&written, text).map_err(Error::io("write", &written))
        })
        .await?;
        let mut job = Job::new("pack", helper::UNPACK)
            .option("--volume", volume)
            .option("--work", staging.path())
            .option("--compression", compression.as_str());
        if disk.is_some() {
            job = job.flag("--disk");
        }
        self.inner.helper.run(job, progress).await?;
        let mut rootfs = None;
        if let Some(disk) = disk {
            let job = Job::new("pack-disk", helper::UNPACK).option("--source", disk).option("--work", staging.path());
            self.inner.helper.run(job, progress).await?;
            rootfs = Some((staging.path().join(DISK), RootfsName::RootfsImg));
        }
        let files = ImportFiles { metadata: staging.path().join(ARCHIVE), rootfs };
        self.import(project, staging, files, options, admission, progress).await
    }
}

/// The metadata of the image that the instance was made from, with what is new. The volume holds what a guest or an
/// archive left there, so it is read with care, and not at all if it does not make sense.
fn metadata_of(volume: &Path, request: PublishRequest) -> Result<Metadata> {
    let directory = std::fs::File::open(volume).map_err(Error::io("open", volume))?;
    let old = read_plain(&directory, "metadata.yaml", METADATA_MAX).ok();
    let old = old.and_then(|text| String::from_utf8(text).ok()).and_then(|text| metadata::parse(&text).ok());
    let Metadata { properties, templates, .. } = old.unwrap_or_default();
    let mut metadata = Metadata { templates, ..Metadata::default() };
    metadata.architecture = request.architecture;
    metadata.creation_date = now();
    metadata.expiry_date = request.expires_at;
    // Those of the old image are kept unless there are new ones.
    metadata.properties = if request.properties.is_empty() { properties } else { request.properties };
    Ok(metadata)
}
