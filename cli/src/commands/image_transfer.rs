//! Images to and from files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use berth_api::{
    Endpoint,
    client::{Answer, HeaderMap, HeaderName, HeaderValue, Method, RawResponse, Upload, header, multipart, quoted},
    images::{Image, ImageAlias, ImageAliasesPost},
    operations::Operation,
};
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use tokio::fs::File;
use tokio_util::io::ReaderStream;

use crate::{output, pairs, progress::Progress, target, target::Context};

/// An upload of an image.
pub struct Import {
    pub file: String,
    pub rootfs: Option<String>,
    pub properties: Vec<String>,
    pub aliases: Vec<ImageAlias>,
    pub public: bool,
}

impl Import {
    pub async fn run(mut self, context: &Context) -> Result<()> {
        // Without a second file, the second argument is a property, as with `lxc`.
        if let Some(text) = self.rootfs.take_if(|text| text.contains('=') && !Path::new(text).exists()) {
            self.properties.insert(0, text);
        }
        if self.file.starts_with("http://") || self.file.starts_with("https://") {
            bail!("images are not fetched from the web yet: download it, then import the file");
        }
        let path = Path::new(&self.file);
        if path.is_dir() {
            bail!("{} is a directory: give the files in it, METADATA and ROOTFS", path.display());
        }
        let headers = self.headers()?;
        let title = format!("Importing {}", self.file);
        let (sender, sizes) = tokio::sync::watch::channel(0_u64);
        let sent = move |count| {
            sender.send_replace(count);
        };
        let (upload, headers, total) = match self.rootfs.clone() {
            None => single(path, headers, sent).await?,
            Some(rootfs) => double(path, Path::new(&rootfs), headers, sent).await?,
        };
        let images = Endpoint::new(&["images"]);
        let upload = context.client.upload(Method::POST, &images, headers, upload);
        let answer = watched(upload, sizes, total, Progress::new(&title, context.quiet)).await?;
        let operation = context.finish(answer, &title).await?;
        let fingerprint = fingerprint(operation.as_ref())?;
        for alias in &self.aliases {
            let name = target::required(&alias.name, "alias")?.to_owned();
            let post = ImageAliasesPost { name, target: fingerprint.clone(), ..ImageAliasesPost::default() };
            let made = context.create(&Endpoint::new(&["images", "aliases"]), &post).await;
            made.with_context(|| format!("the image {fingerprint} was imported, but not its alias `{}`", alias.name))?;
        }
        output::print(&format!("Image imported with fingerprint: {fingerprint}\n"))
    }

    fn headers(&self) -> Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        let name = Path::new(&self.file).file_name().and_then(|name| name.to_str()).unwrap_or("image");
        // Names outside of ASCII cannot be in a header.
        if let Ok(value) = HeaderValue::from_str(name) {
            headers.insert(HeaderName::from_static("x-lxd-filename"), value);
        }
        if self.public {
            headers.insert(HeaderName::from_static("x-lxd-public"), HeaderValue::from_static("1"));
        }
        let properties = pairs::map(&self.properties)?;
        if !properties.is_empty() {
            let pairs: Vec<String> =
                properties.iter().map(|(key, value)| format!("{}={}", quoted(key), quoted(value))).collect();
            headers.insert(HeaderName::from_static("x-lxd-properties"), HeaderValue::from_str(&pairs.join("&"))?);
        }
        Ok(headers)
    }
}

/// Waits for an upload and shows how much of it was sent.
async fn watched(
    upload: impl Future<Output = berth_api::client::Result<Answer>>,
    mut sizes: tokio::sync::watch::Receiver<u64>,
    total: u64,
    progress: Progress,
) -> Result<Answer> {
    let show = async {
        while sizes.changed().await.is_ok() {
            progress.bytes(*sizes.borrow(), Some(total));
        }
        std::future::pending().await
    };
    tokio::select! {
        answer = upload => Ok(answer?),
        never = show => never,
    }
}

/// Sends a file and waits for what the server makes of it.
pub async fn send(
    context: &Context,
    endpoint: &Endpoint,
    path: &Path,
    headers: HeaderMap,
    title: &str,
) -> Result<Option<Operation>> {
    let (sender, sizes) = tokio::sync::watch::channel(0_u64);
    let sent = move |count| {
        sender.send_replace(count);
    };
    let (upload, headers, total) = single(path, headers, sent).await?;
    let upload = context.client.upload(Method::POST, endpoint, headers, upload);
    let answer = watched(upload, sizes, total, Progress::new(title, context.quiet)).await?;
    context.finish(answer, title).await
}

type Prepared = (Upload, HeaderMap, u64);

async fn open(path: &Path) -> Result<(File, u64)> {
    let failed = || format!("cannot read {}", path.display());
    let file = File::open(path).await.with_context(failed)?;
    let length = file.metadata().await.with_context(failed)?.len();
    Ok((file, length))
}

/// One file.
async fn single(path: &Path, headers: HeaderMap, sent: impl Fn(u64) + Send + 'static) -> Result<Prepared> {
    let (file, length) = open(path).await?;
    Ok((Upload::reader(file, Some(length), sent), headers, length))
}

/// Metadata and root file system, as a form.
async fn double(
    metadata: &Path,
    rootfs: &Path,
    mut headers: HeaderMap,
    sent: impl Fn(u64) + Send + 'static,
) -> Result<Prepared> {
    let boundary = format!("berth-{}", uuid::Uuid::new_v4().simple());
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let (first, first_length) = open(metadata).await?;
    let (second, second_length) = open(rootfs).await?;
    let field = if is_disk(rootfs)? { "rootfs.img" } else { "rootfs" };
    let texts = [
        multipart::part_head(&boundary, "metadata", &name(metadata)),
        multipart::PART_TAIL.to_owned() + &multipart::part_head(&boundary, field, &name(rootfs)),
        multipart::PART_TAIL.to_owned() + &multipart::end(&boundary),
    ];
    let total = texts.iter().map(|text| text.len() as u64).sum::<u64>() + first_length + second_length;
    let [head, middle, tail] = texts.map(|text| futures::stream::iter([Ok(Bytes::from(text))]));
    let stream = head.chain(contents(first)).chain(middle).chain(contents(second)).chain(tail);
    let kind = HeaderValue::from_str(&format!("multipart/form-data; boundary={boundary}"))?;
    headers.insert(header::CONTENT_TYPE, kind);
    Ok((Upload::stream(stream, Some(total), sent), headers, total))
}

fn contents(file: File) -> impl Stream<Item = std::io::Result<Bytes>> {
    ReaderStream::with_capacity(file, 256 << 10)
}

/// Whether a file is a disk of a virtual machine (qcow2), not a root file system.
fn is_disk(path: &Path) -> Result<bool> {
    use std::io::Read as _;
    let mut magic = [0; 4];
    let mut file = fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(file.read_exact(&mut magic).is_ok() && &magic == b"QFI\xfb")
}

fn fingerprint(operation: Option<&Operation>) -> Result<String> {
    let value = operation.and_then(|operation| operation.value("fingerprint")?.as_str());
    value.map(str::to_owned).context("the daemon did not tell the fingerprint of the new image")
}

/// Prints the fingerprint of an image that was made.
pub fn tell(operation: Option<&Operation>) -> Result<()> {
    output::print(&format!("Image built with fingerprint: {}\n", fingerprint(operation)?))
}

/// Writes an image to files beside each other.
pub async fn export(context: &Context, endpoint: &Endpoint, image: &Image, target: Option<&str>) -> Result<()> {
    let mut response = context.client.download(&endpoint.clone().join(&["export"])).await?;
    let boundary = multipart::boundary(response.header("content-type")).map(str::to_owned);
    let progress = Progress::new("Exporting the image", context.quiet);
    let total = response.length();
    let Some(boundary) = boundary else {
        if target == Some("-") {
            response.copy_to(&mut tokio::io::stdout(), |_| {}).await?;
            return Ok(());
        }
        let name = disposition(&response).unwrap_or_else(|| image.fingerprint.clone());
        let path = place(target, &name, &image.fingerprint, "");
        let mut file = create(&path).await?;
        response.copy_to(&mut file, |count| progress.bytes(count, total)).await?;
        drop(progress);
        return output::print(&format!("Image exported: {}\n", path.display()));
    };
    if target == Some("-") {
        bail!("this image has two files: they cannot both go to standard output");
    }
    let mut splitter = multipart::Splitter::new(&boundary);
    let mut paths = Vec::new();
    let mut done = 0;
    while let Some(head) = splitter.next_head(&mut response).await? {
        let suffix = if head.field.starts_with("rootfs") { ".root" } else { "" };
        let path = place(target, &head.filename, &image.fingerprint, suffix);
        let mut file = create(&path).await?;
        splitter
            .copy_part(&mut response, &mut file, |count| {
                done += count;
                progress.bytes(done, total);
            })
            .await?;
        paths.push(path.display().to_string());
    }
    drop(progress);
    output::print(&format!("Image exported: {}\n", paths.join(" and ")))
}

async fn create(path: &Path) -> Result<File> {
    File::create(path).await.with_context(|| format!("cannot write {}", path.display()))
}

/// Where a file goes: into the directory under the server's name, or under the user's name with its endings.
fn place(target: Option<&str>, name: &str, fingerprint: &str, suffix: &str) -> PathBuf {
    // The name comes from the server: only its last part counts.
    let name = Path::new(name).file_name().and_then(|name| name.to_str()).unwrap_or(fingerprint);
    let target = target.unwrap_or(".");
    if target.ends_with('/') || Path::new(target).is_dir() {
        return Path::new(target).join(name);
    }
    let ending = endings(name.strip_prefix(fingerprint).unwrap_or(name));
    PathBuf::from(format!("{target}{suffix}{ending}"))
}

/// `.tar.xz` of `meta-x.tar.xz`.
fn endings(name: &str) -> &str {
    for double in [".tar.xz", ".tar.gz", ".tar.zst", ".tar.bz2"] {
        if name.ends_with(double) {
            return double;
        }
    }
    name.rfind('.').map_or("", |at| &name[at..])
}

/// The name that the server gives a file.
pub fn disposition(response: &RawResponse) -> Option<String> {
    let (_, name) = response.header("content-disposition").split_once("filename=")?;
    Some(name.split(';').next()?.trim_matches(['"', ' ']).to_owned()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_go_where_the_user_says() {
        let directory = tempfile::tempdir().unwrap();
        let here = directory.path().to_str().unwrap();
        assert_eq!(place(Some(here), "ab.squashfs", "ab", ".root"), directory.path().join("ab.squashfs"));
        assert_eq!(place(Some("out"), "meta-ab.tar.xz", "ab", ""), PathBuf::from("out.tar.xz"));
        assert_eq!(place(Some("out"), "ab.squashfs", "ab", ".root"), PathBuf::from("out.root.squashfs"));
        assert_eq!(place(None, "../../etc/x", "ab", ""), PathBuf::from("./x"));
        assert_eq!(place(None, "..", "ab", ""), PathBuf::from("./ab"));
    }

    #[test]
    fn properties_are_quoted() {
        let import = Import {
            file: "/tmp/x.tar.xz".into(),
            rootfs: None,
            properties: vec!["description=a b&c".into()],
            aliases: Vec::new(),
            public: true,
        };
        let headers = import.headers().unwrap();
        assert_eq!(headers["x-lxd-properties"], "description=a%20b%26c");
        assert_eq!(headers["x-lxd-filename"], "x.tar.xz");
        assert_eq!(headers["x-lxd-public"], "1");
    }
}
