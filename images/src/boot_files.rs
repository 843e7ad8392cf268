//! What virtual machines boot from.

use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::helper::{self, Job};
use crate::info::{BootFiles, ImageInfo};
use crate::jobs::boot::{Bootable, Found, INITRD, KERNEL, Report};
use crate::store::{BOOT_CACHE, BOOT_RECORDS, Images, blocking};

/// Name of the record of an image's own disk among the image's files.
const IMAGE_RECORD: &str = "boot.json";
/// Largest record.
const RECORD_MAX: u64 = 256 << 10;

/// What the name of the kernel for disks without one ends with where it is a directory of modules: `vmlinux.d`.
const MODULES: &str = "d";

/// The modules in a directory, if there is one, in the order of their names.
fn modules_in(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(Error::io("read directory", directory))?,
    };
    let mut modules: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    modules.sort();
    Ok(modules)
}

/// What was found on a disk, and the state the disk was in then.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    stamp: String,
    found: Found,
}

impl Record {
    /// One that cannot be read is as good as none: the disk is read again then.
    fn load(path: &Path) -> Option<Self> {
        let mut text = Vec::new();
        File::open(path).ok()?.take(RECORD_MAX).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }

    fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_vec(self).map_err(|e| Error::io("write", path)(e.into()))?;
        // Renamed into its place, so that nobody reads half of it.
        let temporary = path.with_extension("new");
        fs::write(&temporary, text).map_err(Error::io("write", &temporary))?;
        fs::rename(&temporary, path).map_err(Error::io("move", &temporary))
    }
}

impl Images {
    /// What a virtual machine boots from, read from its disk, which was made of `image` if one is named. A disk that is in
    /// the state in which it, or the image's own, was read before is not read again.
    pub async fn boot_files(&self, disk: &Path, image: Option<&str>) -> Result<BootFiles> {
        let (images, own) = (self.inner.dir.clone(), self.record_of(disk));
        let of_image = image.map(|fingerprint| self.place(fingerprint).join(IMAGE_RECORD));
        let path = own.clone();
        let known = blocking(move || {
            let records = std::iter::once(path).chain(of_image).filter_map(|path| Record::load(&path));
            Ok(records.filter(|record| images.join(BOOT_CACHE).join(&record.found.key).is_dir()).collect::<Vec<_>>())
        })
        .await?;
        match self.look(disk, &known).await? {
            Report::Known { stamp } => {
                let record = known.into_iter().find(|record| record.stamp == stamp);
                let record = record.ok_or_else(|| self.out_of_step("it named a state it was not asked for"))?;
                self.own_boot_files(record.found).await
            }
            Report::Found { stamp, bootable: Bootable::Own(found) } => {
                if let Some(stamp) = stamp {
                    let record = Record { stamp, found: found.clone() };
                    blocking(move || record.save(&own)).await?;
                }
                self.own_boot_files(found).await
            }
            Report::Found { bootable: Bootable::RootOnly { device }, .. } => {
                let kernel = self.own_kernel(&format!("disk {}", disk.display()))?;
                let directory = kernel.with_extension(MODULES);
                Ok(BootFiles {
                    kernel,
                    initrd: None,
                    root: format!("root={device}"),
                    kernel_args: vec!["rw".to_owned()],
                    release: String::new(),
                    modules: blocking(move || modules_in(&directory)).await?,
                })
            }
        }
    }

    /// Reads the disk of an image, so that instances made of it need not.
    pub(crate) async fn remember(&self, fingerprint: &str, disk: &Path) -> Result<()> {
        let report = match self.look(disk, &[]).await {
            Ok(report) => report,
            // Not bootable: told to whoever boots it.
            Err(Error::Invalid(_)) => return Ok(()),
            Err(e) => return Err(e),
        };
        let Report::Found { stamp: Some(stamp), bootable: Bootable::Own(found) } = report else { return Ok(()) };
        let path = self.place(fingerprint).join(IMAGE_RECORD);
        blocking(move || Record { stamp, found }.save(&path)).await
    }

    /// Complains with the next step if no virtual machine can be made of an image.
    pub fn check_bootable(&self, image: &ImageInfo) -> Result<()> {
        if image.kinds.virtual_machine {
            return Ok(());
        }
        self.own_kernel(&format!("image {}", image.fingerprint)).map(drop)
    }

    /// The kernel for `what`, which holds none.
    pub(crate) fn own_kernel(&self, what: &str) -> Result<PathBuf> {
        let kernel = &self.inner.kernel;
        if kernel.exists() {
            return Ok(kernel.clone());
        }
        Err(Error::Precondition(format!(
            "{what} holds no kernel, and Berth's own is not installed; build it (`cargo xtask kernel`) and put it at {}, or \
             launch the image as a container",
            kernel.display()
        )))
    }

    /// Where it is kept what was found on a disk. By the disk's path: one guest's disk must not pass for another's.
    fn record_of(&self, disk: &Path) -> PathBuf {
        let name = hex::encode(Sha256::digest(disk.as_os_str().as_encoded_bytes()));
        self.inner.dir.join(BOOT_RECORDS).join(format!("{name}.json"))
    }

    fn out_of_step(&self, how: impl std::fmt::Display) -> Error {
        Error::Helper {
            helper: self.inner.helper.path().to_owned(),
            reason: format!("gave a result of another release ({how}); install daemon and helper of the same release"),
        }
    }

    /// Has the helper look at a disk.
    async fn look(&self, disk: &Path, known: &[Record]) -> Result<Report> {
        let path = disk.to_owned();
        let file = blocking(move || {
            // A named pipe in place of the disk must not hold us up.
            let mut options = OpenOptions::new();
            options.read(true).custom_flags(libc::O_NONBLOCK);
            options.open(&path).map_err(Error::io("open disk", &path))
        })
        .await?;
        let job = Job::new("boot", helper::QUICK).option("--cache", self.inner.dir.join(BOOT_CACHE)).stdin(file);
        let job = known.iter().fold(job, |job, record| job.option("--known", &record.stamp));
        let value = self.inner.helper.run(job, &|_| {}).await.map_err(|error| match error {
            Error::Invalid(why) => Error::Invalid(format!("cannot boot from {}: {why}", disk.display())),
            other => other,
        })?;
        serde_json::from_value(value).map_err(|e| self.out_of_step(e))
    }

    async fn own_boot_files(&self, found: Found) -> Result<BootFiles> {
        let place = self.inner.dir.join(BOOT_CACHE).join(&found.key);
        let mark = place.clone();
        blocking(move || {
            // What is used stays in the cache.
            let now = FileTimes::new().set_modified(SystemTime::now());
            File::open(&mark).and_then(|dir| dir.set_times(now)).map_err(Error::io("open", &mark))
        })
        .await?;
        let mut kernel_args = found.args;
        if !kernel_args.iter().any(|arg| arg == "ro" || arg == "rw") {
            kernel_args.push("rw".to_owned());
        }
        Ok(BootFiles {
            kernel: place.join(KERNEL),
            initrd: found.initrd.then(|| place.join(INITRD)),
            root: found.root,
            kernel_args,
            release: found.release,
            modules: found.modules.iter().map(|name| place.join(name)).collect(),
        })
    }
}
