//! The store: import, export, aliases, deletion, disks.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use berth_images::{
    Error, ImageInfo, ImageUpdate, Images, ImportFiles, ImportOptions, Programs, ProgressEvent, RootfsName, Staging,
};
use berth_store::mem::MemStore;
use berth_store::{Always, ErrorKind, Store};
use sha2::{Digest, Sha256};

use crate::kit::{self, HELPER, METADATA, Tar, tool};

struct Fixture {
    dir: tempfile::TempDir,
    store: Arc<dyn Store>,
    images: Images,
}

fn quiet(_: ProgressEvent) {}

fn programs(helper: &str) -> Programs {
    Programs { helper: helper.into(), kernel: "/no/such/vmlinux".into() }
}

impl Fixture {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let store: Arc<dyn Store> = Arc::new(MemStore::new());
        let images = Images::open(Arc::clone(&store), dir.path().to_owned(), programs(HELPER)).await.expect("open");
        Self { dir, store, images }
    }

    async fn reopen(&self) -> Images {
        Images::open(Arc::clone(&self.store), self.dir.path().to_owned(), programs(HELPER)).await.expect("open")
    }

    fn upload(&self, tar: Tar) -> (Staging, ImportFiles) {
        let staging = self.images.staging().expect("staging");
        let metadata = tar.save(staging.path(), "upload");
        (staging, ImportFiles { metadata, rootfs: None })
    }

    async fn import(&self, project: &str, tar: Tar, options: ImportOptions) -> Result<ImageInfo, Error> {
        let (staging, files) = self.upload(tar);
        self.images.import(project, staging, files, options, &Always, &quiet).await
    }

    /// Names in the directory of images, without those of directories that are being removed.
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path().join("images")).expect("images").flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| !name.starts_with("boot-") && !name.starts_with(".staging-")).collect()
    }
}

fn alias(name: &str) -> ImportOptions {
    ImportOptions { aliases: vec![(name.to_owned(), "a test".to_owned())], ..ImportOptions::default() }
}

fn small() -> Tar {
    Tar::unified().file("rootfs/etc-release", b"test", 0o644)
}

#[tokio::test]
async fn what_goes_in_comes_out() {
    let f = Fixture::new().await;
    let bytes = small().bytes();
    let fingerprint = hex::encode(Sha256::digest(&bytes));
    let options = ImportOptions {
        public: true,
        properties: BTreeMap::from([("os".to_owned(), "Mine".to_owned())]),
        filename: "x.tar".to_owned(),
        expected_fingerprint: Some(fingerprint.clone()),
        ..alias("test/one")
    };
    let image = f.import("default", small(), options).await.expect("import");
    assert_eq!(image.fingerprint, fingerprint);
    assert_eq!(image.image_type, "container");
    assert!(image.kinds.container && !image.kinds.virtual_machine && image.public);
    assert_eq!(
        (image.architecture.as_str(), image.created_at, image.size),
        ("x86_64", 1_700_000_000, bytes.len() as u64)
    );
    assert_eq!((image.properties["os"].as_str(), image.properties["description"].as_str()), ("Mine", "a test"));
    assert_eq!(image.aliases, [("test/one".to_owned(), "a test".to_owned())]);
    assert_eq!(f.images.resolve("default", "test/one").await.expect("alias"), image);
    assert_eq!(f.images.resolve("default", &fingerprint[..8]).await.expect("prefix"), image);
    assert_eq!(f.images.list("default").await.expect("list"), [image]);
    assert!(f.images.list("other").await.expect("list").is_empty());
    let files = f.images.export("default", &fingerprint[..12]).await.expect("export");
    assert_eq!(files.metadata.0, format!("{fingerprint}.tar"));
    assert_eq!(fs::read(files.metadata.1).expect("read"), bytes);
    assert_eq!(f.names(), [fingerprint]);
}

#[tokio::test]
async fn split_images_keep_both_files() {
    let f = Fixture::new().await;
    let staging = f.images.staging().expect("staging");
    let source = staging.path().join("source");
    fs::create_dir(&source).expect("mkdir");
    fs::write(source.join("x"), "content").expect("write");
    let metadata = Tar::new().file("metadata.yaml", METADATA.as_bytes(), 0o644).save(staging.path(), "m");
    let rootfs = staging.path().join("r");
    tool("mksquashfs", &[source.as_os_str(), rootfs.as_os_str(), "-quiet".as_ref(), "-no-progress".as_ref()]);
    let both = [fs::read(&metadata).expect("read"), fs::read(&rootfs).expect("read")].concat();
    let files = ImportFiles { metadata, rootfs: Some((rootfs, RootfsName::Rootfs)) };
    let image =
        f.images.import("default", staging, files, ImportOptions::default(), &Always, &quiet).await.expect("import");
    assert_eq!(image.fingerprint, hex::encode(Sha256::digest(&both)));
    let files = f.images.export("default", &image.fingerprint).await.expect("export");
    let (name, path) = files.rootfs.expect("rootfs");
    assert_eq!(name, format!("{}.squashfs", image.fingerprint));
    assert_eq!(files.metadata.0, format!("meta-{}.tar", image.fingerprint));
    assert_eq!([fs::read(files.metadata.1).expect("read"), fs::read(path).expect("read")].concat(), both);
    let dest = f.dir.path().join("dest");
    fs::create_dir(&dest).expect("mkdir");
    f.images.unpack_rootfs("default", &image.fingerprint, &dest, &quiet).await.expect("unpack");
    assert_eq!(fs::read_to_string(dest.join("rootfs/x")).expect("x"), "content");
    assert!(f.images.get("default", &image.fingerprint).await.expect("get").last_used_at > 0);
}

#[tokio::test]
async fn bad_uploads_leave_nothing() {
    let f = Fixture::new().await;
    let no_metadata = Tar::new().file("rootfs/x", b"", 0o644);
    assert!(
        f.import("default", no_metadata, alias("a")).await.expect_err("metadata").to_string().contains("metadata.yaml")
    );
    let no_rootfs = Tar::new().file("metadata.yaml", METADATA.as_bytes(), 0o644);
    assert!(f.import("default", no_rootfs, alias("a")).await.expect_err("rootfs").to_string().contains("second file"));
    let wrong = ImportOptions { expected_fingerprint: Some("0".repeat(64)), ..alias("a") };
    assert!(matches!(f.import("default", small(), wrong).await, Err(Error::Fingerprint { .. })));
    let bad_alias = f.import("default", small(), alias("a b")).await.expect_err("alias");
    assert_eq!(bad_alias.kind(), ErrorKind::Invalid);
    assert!(f.names().is_empty());
    assert!(f.images.aliases("default").await.expect("aliases").is_empty());
}

#[tokio::test]
async fn taken_names_are_refused_and_change_nothing() {
    let f = Fixture::new().await;
    let first = f.import("default", small(), alias("a")).await.expect("import");
    assert!(matches!(f.import("default", small(), alias("b")).await, Err(Error::ImageExists { .. })));
    let other = Tar::unified().file("rootfs/other", b"o", 0o644);
    let error = f.import("default", other, alias("a")).await.expect_err("alias");
    assert!(matches!(error, Error::AliasExists { .. }) && error.kind() == ErrorKind::Conflict);
    assert_eq!(f.names(), [first.fingerprint]);
}

#[tokio::test]
async fn projects_share_files_until_the_last_lets_go() {
    let f = Fixture::new().await;
    let image = f.import("one", small(), alias("a")).await.expect("import");
    f.import("two", small(), alias("a")).await.expect("import");
    f.images.delete("one", &image.fingerprint[..10]).await.expect("delete");
    assert_eq!(f.names(), std::slice::from_ref(&image.fingerprint));
    assert_eq!(f.images.alias_get("one", "a").await.expect_err("gone").kind(), ErrorKind::NotFound);
    assert_eq!(f.images.alias_get("two", "a").await.expect("there").target, image.fingerprint);
    f.images.delete("two", "no such").await.expect_err("missing");
    f.images.delete("two", &image.fingerprint).await.expect("delete");
    assert!(f.names().is_empty());
}

#[tokio::test]
async fn parallel_imports_and_deletions_keep_files_and_records_together() {
    let f = Arc::new(Fixture::new().await);
    let tasks: Vec<_> = (0..6)
        .map(|n| {
            let f = Arc::clone(&f);
            tokio::spawn(async move {
                let project = format!("p{n}");
                let image = f.import(&project, small(), ImportOptions::default()).await.expect("import");
                assert!(f.images.export(&project, &image.fingerprint).await.is_ok());
                if n % 2 == 0 {
                    f.images.delete(&project, &image.fingerprint).await.expect("delete");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("task");
    }
    assert_eq!(f.names().len(), 1);
    assert!(f.dir.path().join("images").join(&f.names()[0]).join("metadata").exists());
}

#[tokio::test]
async fn aliases_are_made_renamed_moved_and_removed() {
    let f = Fixture::new().await;
    let one = f.import("default", small(), ImportOptions::default()).await.expect("import");
    let two = f.import("default", Tar::unified(), ImportOptions::default()).await.expect("import");
    let images = &f.images;
    images.alias_create("default", "a", &one.fingerprint[..12], "d").await.expect("create");
    assert!(matches!(images.alias_create("default", "a", &one.fingerprint, "").await, Err(Error::AliasExists { .. })));
    assert!(matches!(images.alias_create("default", "b", "ffff", "").await, Err(Error::ImageNotFound { .. })));
    images.alias_update("default", "a", Some(&two.fingerprint), Some("new"), None).await.expect("update");
    assert!(matches!(images.alias_update("default", "a", None, None, Some(1)).await, Err(Error::Changed { .. })));
    images.alias_rename("default", "a", "c/d").await.expect("rename");
    let info = images.alias_get("default", "c/d").await.expect("get");
    assert_eq!(
        (info.target.as_str(), info.description.as_str(), info.image_type),
        (two.fingerprint.as_str(), "new", "container")
    );
    images.alias_delete("default", "c/d").await.expect("delete");
    assert!(images.aliases("default").await.expect("list").is_empty());
}

#[tokio::test]
async fn updates_respect_revisions() {
    let f = Fixture::new().await;
    let image = f.import("default", small(), ImportOptions::default()).await.expect("import");
    let change = ImageUpdate { public: Some(true), profiles: Some(vec!["p".to_owned()]), ..ImageUpdate::default() };
    let changed =
        f.images.update("default", &image.fingerprint, change.clone(), Some(image.revision)).await.expect("update");
    assert!(changed.public && changed.profiles == ["p"] && changed.properties == image.properties);
    let stale = f.images.update("default", &image.fingerprint, change, Some(image.revision)).await;
    assert!(matches!(stale, Err(Error::Changed { .. })));
}

#[tokio::test]
async fn opening_removes_leftovers_only() {
    let f = Fixture::new().await;
    let image = f.import("default", small(), ImportOptions::default()).await.expect("import");
    let images = f.dir.path().join("images");
    for name in [".staging-dead", "boot-cache/.new-dead", &"ab".repeat(32)] {
        fs::create_dir_all(images.join(name).join("x")).expect("mkdir");
    }
    let again = f.reopen().await;
    assert_eq!(f.names(), std::slice::from_ref(&image.fingerprint));
    assert!(!images.join(".staging-dead").exists() && !images.join("boot-cache/.new-dead").exists());
    assert!(again.export("default", &image.fingerprint).await.is_ok());
    assert_eq!(fs::metadata(&images).expect("images").mode() & 0o777, 0o700);
}

/// A unified image with a layer that adds `kernel`, changes `a` and removes `b`.
fn with_layer(staging: &Staging) -> PathBuf {
    let layer = staging.path().join("layer");
    fs::create_dir(&layer).expect("mkdir");
    fs::write(layer.join("kernel"), "k").expect("write");
    fs::write(layer.join("a"), "layer").expect("write");
    let file = staging.path().join("layer.squashfs");
    tool("mksquashfs", &[layer.as_os_str(), file.as_os_str(), "-quiet".as_ref(), "-no-progress".as_ref()]);
    Tar::unified()
        .file("rootfs/a", b"base", 0o644)
        .file("rootfs/b", b"base", 0o644)
        .file("rootfs/c", b"base", 0o644)
        .file("vm/layer.squashfs", &fs::read(file).expect("read"), 0o644)
        .file("vm/removed.json", br#"["b", "../../evil", "no/such"]"#, 0o644)
        .save(staging.path(), "image.tar")
}

#[tokio::test]
async fn disks_hold_root_file_system_and_layer_and_grow() {
    let f = Fixture::new().await;
    let staging = f.images.staging().expect("staging");
    let files = ImportFiles { metadata: with_layer(&staging), rootfs: None };
    let image =
        f.images.import("default", staging, files, ImportOptions::default(), &Always, &quiet).await.expect("import");
    assert!(image.kinds.container && image.kinds.virtual_machine);
    let create = async |name: &str, size| {
        let disk = f.dir.path().join(name);
        f.images.create_disk("default", &image.fingerprint, &disk, size, &quiet).await.map(|()| disk)
    };
    let (one, two) = tokio::join!(create("one.img", 3 << 30), create("two.img", 0));
    let (one, two) = (one.expect("disk"), two.expect("disk"));
    let info = fs::metadata(&one).expect("disk");
    assert_eq!(info.len(), 3 << 30);
    assert!(info.blocks() * 512 < 200 << 20, "sparse");
    assert_eq!(fs::metadata(&two).expect("disk").len(), 1 << 30);
    let fs4 = ext4_view::Ext4::load_from_path(&one).expect("ext4");
    assert_eq!(fs4.label().to_str(), Ok("root"));
    assert_eq!(fs4.read_to_string("/a").expect("a"), "layer");
    assert_eq!(fs4.read_to_string("/c").expect("c"), "base");
    assert_eq!(fs4.read_to_string("/kernel").expect("kernel"), "k");
    assert!(!fs4.exists("/b").expect("b"));
    tool("e2fsck", &["-fn".as_ref(), one.as_os_str()]);
    let error = create("small.img", 1 << 20).await.expect_err("too small");
    assert!(error.to_string().contains("too small") && !f.dir.path().join("small.img").exists());
    assert_eq!(f.names(), [image.fingerprint]);
}

#[tokio::test]
async fn a_container_image_makes_no_virtual_machine() {
    let f = Fixture::new().await;
    let image = f.import("default", small(), ImportOptions::default()).await.expect("import");
    let disk = f.dir.path().join("disk");
    let error = f.images.create_disk("default", &image.fingerprint, &disk, 0, &quiet).await.expect_err("no kernel");
    let text = error.to_string();
    assert!(text.contains("cargo xtask kernel") && text.contains("launch the image as a container"), "{text}");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(!image.kinds.virtual_machine && f.images.check_bootable(&image).is_err());
    assert!(!disk.exists());
}

#[tokio::test]
async fn a_container_image_boots_on_the_installed_kernel() {
    let f = Fixture::new().await;
    let kernel = kit::save(f.dir.path(), "vmlinux", b"\x7fELF");
    let with_kernel = Programs { kernel: kernel.clone(), ..programs(HELPER) };
    let images = Images::open(Arc::clone(&f.store), f.dir.path().to_owned(), with_kernel).await.expect("open");
    let f = Fixture { images, ..f };
    let tar = Tar::unified().entry("rootfs/etc", tar::EntryType::Directory, "", &[], 0o755).file(
        "rootfs/etc/os-release",
        b"ID=test\n",
        0o644,
    );
    let image = f.import("default", tar, ImportOptions::default()).await.expect("import");
    assert!(image.kinds.container && image.kinds.virtual_machine);
    assert_eq!(image.image_type, "container");
    let disk = f.dir.path().join("root.img");
    f.images.create_disk("default", &image.fingerprint, &disk, 2 << 30, &quiet).await.expect("disk");
    assert_eq!(fs::metadata(&disk).expect("disk").len(), 2 << 30);
    let boot = f.images.boot_files(&disk, None).await.expect("boot");
    assert_eq!((boot.kernel, boot.initrd), (kernel.clone(), None));
    assert_eq!((boot.root.as_str(), boot.modules.len()), ("root=/dev/vda", 0));
    fs::remove_file(&kernel).expect("remove");
    let error = f.images.boot_files(&disk, None).await.expect_err("no kernel").to_string();
    assert!(error.contains("root.img holds no kernel") && error.contains("cargo xtask kernel"), "{error}");
}

#[tokio::test]
async fn a_missing_helper_is_named() {
    let f = Fixture::new().await;
    let images = Images::open(Arc::clone(&f.store), f.dir.path().to_owned(), programs("/no/such/berth-image"))
        .await
        .expect("open");
    let staging = images.staging().expect("staging");
    let metadata = small().save(staging.path(), "m");
    let error = images
        .import("default", staging, ImportFiles { metadata, rootfs: None }, ImportOptions::default(), &Always, &quiet)
        .await;
    assert!(error.expect_err("no helper").to_string().contains("/no/such/berth-image"));
}

#[tokio::test]
async fn builds_are_checked_before_they_start() {
    let f = Fixture::new().await;
    let request = |distribution: &str, package: &str| berth_images::BuildRequest {
        distribution: distribution.to_owned(),
        packages: vec![package.to_owned()],
        ..berth_images::BuildRequest::default()
    };
    for (request, reason) in
        [(request("plan9/4", "vim"), "known are"), (request("debian/12", "-evil"), "no name of a Debian package")]
    {
        let error = f.images.build("default", request, &Always, &quiet).await.expect_err(reason);
        assert!(error.to_string().contains(reason) && error.kind() == ErrorKind::Invalid, "{error}");
    }
    let _ = kit::HELPER;
}
