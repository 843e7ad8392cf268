//! What instances get of an image.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::helper::{self, Job};
use crate::info::ImageDoc;
use crate::jobs::inspect::RootfsKind;
use crate::progress::{Progress, ProgressEvent};
use crate::store::{Images, blocking};

/// Name of an image's disk among its files.
const DISK: &str = "disk.img";

impl Images {
    fn sources(&self, fingerprint: &str, image: &ImageDoc) -> (PathBuf, Option<PathBuf>) {
        let place = self.place(fingerprint);
        (place.join("metadata"), image.rootfs.map(|_| place.join("rootfs")))
    }

    /// Unpacks an image for a container into the empty directory `dest`, which then holds `rootfs/`, `metadata.yaml`
    /// and perhaps `templates/`.
    pub async fn unpack_rootfs(&self, project: &str, prefix: &str, dest: &Path, progress: &Progress) -> Result<()> {
        let (fingerprint, image) = self.find(project, prefix).await?;
        if !image.doc.kinds.container {
            return Err(Error::Invalid(format!("image {fingerprint} holds a disk; launch it as a virtual machine")));
        }
        let (metadata, rootfs) = self.sources(&fingerprint, &image.doc);
        let job = Job::new("unpack", helper::UNPACK)
            .option("--metadata", metadata)
            .maybe("--rootfs", rootfs)
            .option("--dest", dest);
        self.inner.helper.run(job, progress).await?;
        self.touch(project, &fingerprint).await
    }

    /// Makes disk `dest` of an image, `size` bytes large; 0 means as large as the image's own disk.
    pub async fn create_disk(
        &self,
        project: &str,
        prefix: &str,
        dest: &Path,
        size: u64,
        progress: &Progress,
    ) -> Result<()> {
        let (fingerprint, image) = self.find(project, prefix).await?;
        if !image.doc.kinds.virtual_machine {
            self.own_kernel(&format!("image {fingerprint}"))?;
        }
        let cached = self.cached_disk(&fingerprint, &image.doc, progress).await?;
        progress(ProgressEvent { stage: "disk".into(), percent: Some(80), text: "Copying the disk".into() });
        let half_made = RemoveUnlessDone(Some(dest.to_owned()));
        let to = dest.to_owned();
        let grown = blocking(move || copy_disk(&cached, &to, size)).await?;
        // Partitions of a foreign disk are the guest's own matter.
        if grown && image.doc.rootfs != Some(RootfsKind::Qcow2) {
            progress(ProgressEvent { stage: "disk".into(), percent: Some(90), text: "Growing the file system".into() });
            self.inner.helper.run(Job::new("grow", helper::UNPACK).option("--disk", dest), progress).await?;
        }
        self.touch(project, &fingerprint).await?;
        half_made.done();
        Ok(())
    }

    async fn cached_disk(&self, fingerprint: &str, image: &ImageDoc, progress: &Progress) -> Result<PathBuf> {
        let disk = self.place(fingerprint).join(DISK);
        // Whoever comes second finds it made.
        let _claim = self.inner.claims.take(fingerprint).await;
        if tokio::fs::try_exists(&disk).await.map_err(Error::io("look for", &disk))? {
            return Ok(disk);
        }
        let (metadata, rootfs) = self.sources(fingerprint, image);
        let work = self.staging()?;
        let job = match (image.rootfs, rootfs) {
            (Some(RootfsKind::Qcow2), Some(source)) => Job::new("convert", helper::UNPACK).option("--source", source),
            (_, rootfs) => {
                let job = Job::new("disk", helper::UNPACK).option("--metadata", metadata).maybe("--rootfs", rootfs);
                if image.kinds.virtual_machine { job.flag("--layer") } else { job }
            }
        };
        self.inner.helper.run(job.option("--work", work.path()), progress).await?;
        let to = disk.clone();
        blocking(move || {
            let made = work.path().join(DISK);
            File::open(&made).and_then(|file| file.sync_all()).map_err(Error::io("write", &made))?;
            fs::rename(&made, &to).map_err(Error::io("move", &made))
        })
        .await?;
        self.remember(fingerprint, &disk).await?;
        Ok(disk)
    }
}

/// Removes a file that was not finished.
struct RemoveUnlessDone(Option<PathBuf>);

impl RemoveUnlessDone {
    fn done(mut self) {
        self.0 = None;
    }
}

impl Drop for RemoveUnlessDone {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            // It may not have been made yet.
            let _ = fs::remove_file(path);
        }
    }
}

/// Copies `from` to the new file `to` of `size` bytes; tells whether it grew.
fn copy_disk(from: &Path, to: &Path, size: u64) -> Result<bool> {
    let source = File::open(from).map_err(Error::io("open", from))?;
    let length = source.metadata().map_err(Error::io("look at", from))?.len();
    if size != 0 && size < length {
        return Err(Error::Invalid(format!(
            "a root disk of {size} bytes is too small for the image, which needs {length}; raise `size` of the root disk"
        )));
    }
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    let target = options.open(to).map_err(Error::io("create", to))?;
    if crate::confine::sys::clone_blocks(source.as_fd(), target.as_fd()).is_err() {
        copy_data(&source, &target, length).map_err(Error::io("write", to))?;
    }
    let size = size.max(length);
    target.set_len(size).map_err(Error::io("grow", to))?;
    Ok(size > length)
}

/// Copies what is not a hole.
fn copy_data(source: &File, target: &File, length: u64) -> std::io::Result<()> {
    use rustix::fs::SeekFrom;
    use rustix::io::Errno;
    target.set_len(length)?;
    let mut at = 0;
    while at < length {
        let start = match rustix::fs::seek(source, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(e) => return Err(e.into()),
        };
        let end = rustix::fs::seek(source, SeekFrom::Hole(start))?;
        copy_range(source, target, start, end)?;
        at = end;
    }
    Ok(())
}

fn copy_range(source: &File, target: &File, start: u64, end: u64) -> std::io::Result<()> {
    let mut buffer = vec![0; 1 << 20];
    let (mut from, mut to) = (start, start);
    while from < end {
        let left = usize::try_from(end - from).unwrap_or(usize::MAX);
        match rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), left) {
            Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => {}
            // Older kernels and some pairs of file systems cannot; then the bytes go through here.
            Err(_) => {
                let count = source.read_at(&mut buffer[..left.min(1 << 20)], from)?;
                if count == 0 {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
                target.write_all_at(&buffer[..count], to)?;
                from += count as u64;
                to += count as u64;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_stay_holes() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().expect("tempdir");
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let file = File::create(&from).expect("create");
        file.set_len(64 << 20).expect("size");
        file.write_all_at(b"begin", 0).expect("write");
        file.write_all_at(b"middle", 33 << 20).expect("write");
        assert!(copy_disk(&from, &to, 128 << 20).expect("copy"));
        let copy = File::open(&to).expect("open");
        let info = copy.metadata().expect("metadata");
        assert_eq!(info.len(), 128 << 20);
        assert!(info.blocks() * 512 < 4 << 20, "{} blocks", info.blocks());
        let mut text = [0; 6];
        copy.read_exact_at(&mut text, 33 << 20).expect("read");
        assert_eq!(&text, b"middle");
        assert!(
            copy_disk(&from, &dir.path().join("small"), 1).expect_err("too small").to_string().contains("too small")
        );
    }
}
