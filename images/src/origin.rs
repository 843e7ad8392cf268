//! What an instance keeps of the image it was made from, in its volume: `metadata.yaml` and `templates/`.
//!
//! An archive or a user may have written them, so nothing here follows a link, and everything has a cap.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::metadata::{self, Metadata, TEMPLATES_MAX};
use crate::unpack::check::{METADATA_MAX, TEMPLATE_MAX, open_plain, read_plain};

const METADATA: &str = "metadata.yaml";
const TEMPLATES: &str = "templates";
/// A file that is being written; no template may be called so, for it begins with a dot.
const UNFINISHED: &str = ".new";

/// An instance's volume, as far as it tells of the image.
#[derive(Debug)]
pub struct Origin {
    directory: OwnedFd,
    /// For messages.
    path: PathBuf,
}

impl Origin {
    /// Opens a volume.
    pub fn open(volume: &Path) -> Result<Self> {
        let directory = File::open(volume).map_err(Error::io("open", volume))?.into();
        Ok(Self { directory, path: volume.to_owned() })
    }

    /// What the image said of itself; `None` if there is nothing.
    pub fn metadata(&self) -> Result<Option<Metadata>> {
        match read_plain(&self.directory, METADATA, METADATA_MAX) {
            Ok(text) => {
                let text = String::from_utf8(text)
                    .map_err(|_| Error::Invalid("metadata.yaml of the instance is not UTF-8".to_owned()))?;
                metadata::parse(&text).map(Some)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("read", &self.path.join(METADATA))(e)),
        }
    }

    /// Puts other metadata in its place.
    pub fn set_metadata(&self, metadata: &Metadata) -> Result<()> {
        metadata::check(metadata)?;
        let text = serde_saphyr::to_string(metadata)
            .map_err(|e| Error::Invalid(format!("the metadata cannot be written: {e}")))?;
        // What was written can be read again.
        metadata::parse(&text)?;
        replace(&self.directory, METADATA, text.as_bytes()).map_err(Error::io("write", &self.path.join(METADATA)))
    }

    /// Names of the templates, sorted.
    pub fn templates(&self) -> Result<Vec<String>> {
        let list = |directory: OwnedFd| -> io::Result<Vec<String>> {
            let mut names = Vec::new();
            for entry in Dir::read_from(&directory)? {
                let entry = entry?;
                let Ok(name) = entry.file_name().to_str() else { continue };
                let regular = || {
                    let info = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
                    Ok::<_, Errno>(FileType::from_raw_mode(info.st_mode) == FileType::RegularFile)
                };
                if metadata::is_template_name(name) && regular()? {
                    names.push(name.to_owned());
                }
                if names.len() > TEMPLATES_MAX {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, format!("more than {TEMPLATES_MAX} files")));
                }
            }
            names.sort();
            Ok(names)
        };
        let path = self.path.join(TEMPLATES);
        match self.place()? {
            Some(directory) => list(directory).map_err(Error::io("list", &path)),
            None => Ok(Vec::new()),
        }
    }

    /// Content of a template.
    pub fn template(&self, name: &str) -> Result<Vec<u8>> {
        check_name(name)?;
        let missing = || Error::TemplateNotFound { name: name.to_owned() };
        let directory = self.place()?.ok_or_else(missing)?;
        read_plain(&directory, name, TEMPLATE_MAX).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => missing(),
            _ => Error::io("read", &self.path.join(TEMPLATES).join(name))(e),
        })
    }

    /// Makes a template, or gives it another content.
    pub fn set_template(&self, name: &str, content: &[u8]) -> Result<()> {
        check_name(name)?;
        if content.len() as u64 > TEMPLATE_MAX {
            return Err(Error::Invalid(format!("template \"{name}\" is larger than {TEMPLATE_MAX} bytes")));
        }
        let names = self.templates()?;
        if names.len() >= TEMPLATES_MAX && !names.iter().any(|known| known == name) {
            return Err(Error::Invalid(format!("an instance has at most {TEMPLATES_MAX} templates; delete one first")));
        }
        let path = self.path.join(TEMPLATES);
        let directory = match self.place()? {
            Some(directory) => directory,
            None => {
                rustix::fs::mkdirat(&self.directory, TEMPLATES, Mode::from_raw_mode(0o755))
                    .map_err(|e| Error::io("make", &path)(e.into()))?;
                self.place()?.ok_or_else(|| Error::io("open", &path)(io::ErrorKind::NotFound.into()))?
            }
        };
        replace(&directory, name, content).map_err(Error::io("write", &path.join(name)))
    }

    /// Removes a template. Metadata that speaks of it stays.
    pub fn remove_template(&self, name: &str) -> Result<()> {
        check_name(name)?;
        let missing = || Error::TemplateNotFound { name: name.to_owned() };
        let directory = self.place()?.ok_or_else(missing)?;
        match rustix::fs::unlinkat(&directory, name, AtFlags::empty()) {
            Ok(()) => Ok(()),
            Err(Errno::NOENT) => Err(missing()),
            Err(e) => Err(Error::io("remove", &self.path.join(TEMPLATES).join(name))(e.into())),
        }
    }

    /// The directory of the templates.
    fn place(&self) -> Result<Option<OwnedFd>> {
        match open_plain(&self.directory, TEMPLATES, OFlags::RDONLY | OFlags::DIRECTORY) {
            Ok(directory) => Ok(Some(directory)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("open", &self.path.join(TEMPLATES))(e)),
        }
    }
}

fn check_name(name: &str) -> Result<()> {
    if metadata::is_template_name(name) {
        return Ok(());
    }
    Err(Error::Invalid(format!("template name {name:?} is no plain file name; choose one such as hosts.tpl")))
}

/// Writes a file whole or not at all.
fn replace(directory: &OwnedFd, name: &str, content: &[u8]) -> io::Result<()> {
    // What a daemon that was killed left; the owner of the instance does one thing at a time.
    match rustix::fs::unlinkat(directory, UNFINISHED, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(e) => return Err(e.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, UNFINISHED, flags, Mode::from_raw_mode(0o644))?;
    let mut file = File::from(file);
    file.write_all(content)?;
    file.sync_all()?;
    rustix::fs::renameat(directory, UNFINISHED, directory, name)?;
    Ok(rustix::fs::fsync(directory.as_fd())?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::metadata::Template;

    fn volume() -> (tempfile::TempDir, PathBuf, Origin) {
        let outer = tempfile::tempdir().expect("tempdir");
        let path = outer.path().join("volume");
        fs::create_dir(&path).expect("volume");
        fs::write(outer.path().join("secret"), "architecture: x86_64\n").expect("secret");
        let origin = Origin::open(&path).expect("open");
        (outer, path, origin)
    }

    #[test]
    fn what_is_written_is_read_again() {
        let (_outer, path, origin) = volume();
        assert_eq!(origin.metadata().expect("none"), None);
        assert!(origin.templates().expect("none").is_empty());
        let template = Template { when: vec!["create".into()], template: "hosts.tpl".into(), ..Template::default() };
        let metadata = Metadata {
            architecture: "x86_64".into(),
            templates: [("/etc/hosts".to_owned(), template)].into(),
            ..Metadata::default()
        };
        origin.set_metadata(&metadata).expect("written");
        assert_eq!(origin.metadata().expect("read"), Some(metadata));
        origin.set_template("hosts.tpl", b"one").expect("made");
        origin.set_template("hosts.tpl", b"two").expect("changed");
        origin.set_template("a.tpl", b"").expect("made");
        assert_eq!(origin.templates().expect("list"), ["a.tpl", "hosts.tpl"]);
        assert_eq!(origin.template("hosts.tpl").expect("read"), b"two");
        origin.remove_template("a.tpl").expect("removed");
        assert!(origin.remove_template("a.tpl").expect_err("gone").to_string().contains("a.tpl"));
        assert_eq!(fs::read_dir(path.join("templates")).expect("list").count(), 1);
    }

    #[test]
    fn links_are_not_followed_and_names_stay_names() {
        let (outer, path, origin) = volume();
        symlink("../secret", path.join("metadata.yaml")).expect("link");
        origin.metadata().expect_err("a link");
        symlink("..", path.join("templates")).expect("link");
        origin.templates().expect_err("a link");
        origin.set_template("secret", b"x").expect_err("a link");
        fs::remove_file(path.join("templates")).expect("remove");
        for name in ["", "..", ".", "a/b", "/secret", "../../secret", ".new", "a\0b"] {
            origin.template(name).expect_err(name);
            origin.set_template(name, b"x").expect_err(name);
            origin.remove_template(name).expect_err(name);
        }
        origin.set_template("good", b"x").expect("made");
        symlink("../../secret", path.join("templates/link")).expect("link");
        origin.template("link").expect_err("a link");
        assert_eq!(origin.templates().expect("list"), ["good"]);
        // Writing takes the link's place.
        origin.set_template("link", b"mine").expect("made");
        assert_eq!(fs::read(outer.path().join("secret")).expect("read"), b"architecture: x86_64\n");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            path.join("templates/fifo"),
            FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .expect("fifo");
        origin.template("fifo").expect_err("a pipe does not hold us up");
    }

    #[test]
    fn sizes_and_counts_are_capped() {
        let (_outer, _path, origin) = volume();
        origin.set_template("big", &vec![b'x'; TEMPLATE_MAX as usize + 1]).expect_err("too large");
        for number in 0..TEMPLATES_MAX {
            origin.set_template(&format!("t{number}"), b"").expect("made");
        }
        origin.set_template("one-more", b"").expect_err("too many");
        origin.set_template("t0", b"x").expect("changed");
        let bad = Metadata { architecture: String::new(), ..Metadata::default() };
        origin.set_metadata(&bad).expect_err("no architecture");
    }
}
