//! What one tree has beyond another.

use std::fs::{self, File, FileTimes, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// Moves everything that `tree` adds or changes over `base` to `layer`; gives the paths that `tree` lacks.
///
/// Times of directories do not count.
pub fn split(base: &Path, tree: &Path, layer: &Path) -> io::Result<Vec<String>> {
    make_like(layer, &fs::symlink_metadata(tree)?)?;
    let mut walk = Walk { base, tree, layer, removed: Vec::new() };
    walk.directory(Path::new(""))?;
    Ok(walk.removed)
}

struct Walk<'a> {
    base: &'a Path,
    tree: &'a Path,
    layer: &'a Path,
    removed: Vec<String>,
}

fn names(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut names: Vec<PathBuf> =
        fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name().into())).collect::<io::Result<_>>()?;
    names.sort();
    Ok(names)
}

fn look(path: &Path) -> io::Result<Option<Metadata>> {
    match fs::symlink_metadata(path) {
        Ok(info) => Ok(Some(info)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

impl Walk<'_> {
    fn directory(&mut self, at: &Path) -> io::Result<()> {
        for name in names(&self.tree.join(at))? {
            let path = at.join(name);
            let (old, new) = (self.base.join(&path), self.tree.join(&path));
            let info = fs::symlink_metadata(&new)?;
            match look(&old)? {
                Some(before) if before.is_dir() && info.is_dir() => {
                    if !same_owner_and_mode(&before, &info) {
                        self.ensure(&path)?;
                    }
                    self.directory(&path)?;
                }
                Some(before) if same(&old, &before, &new, &info)? => {}
                _ => {
                    if let Some(parent) = path.parent() {
                        self.ensure(parent)?;
                    }
                    fs::rename(&new, self.layer.join(&path))?;
                }
            }
        }
        self.find_removed(at)
    }

    fn find_removed(&mut self, at: &Path) -> io::Result<()> {
        for name in names(&self.base.join(at))? {
            let path = at.join(name);
            // What was moved to the layer is not missing.
            if look(&self.tree.join(&path))?.is_none() && look(&self.layer.join(&path))?.is_none() {
                self.note_removed(&path)?;
            }
        }
        Ok(())
    }

    /// Contents before their directory, so that removing one after the other works.
    fn note_removed(&mut self, path: &Path) -> io::Result<()> {
        let full = self.base.join(path);
        if fs::symlink_metadata(&full)?.is_dir() {
            for name in names(&full)? {
                self.note_removed(&path.join(name))?;
            }
        }
        match path.to_str() {
            Some(text) => self.removed.push(text.to_owned()),
            None => return Err(io::Error::other(format!("{} is not UTF-8", path.display()))),
        }
        Ok(())
    }

    /// Makes directory `path` and its parents in the layer.
    fn ensure(&self, path: &Path) -> io::Result<()> {
        let mut at = PathBuf::new();
        for part in path.components() {
            at.push(part);
            let to = self.layer.join(&at);
            if look(&to)?.is_none() {
                make_like(&to, &fs::symlink_metadata(self.tree.join(&at))?)?;
            }
        }
        Ok(())
    }
}

fn make_like(path: &Path, info: &Metadata) -> io::Result<()> {
    fs::create_dir(path)?;
    chown(path, Some(info.uid()), Some(info.gid()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(info.mode() & 0o7777))?;
    File::open(path)?.set_times(FileTimes::new().set_modified(info.modified()?))
}

fn same_owner_and_mode(a: &Metadata, b: &Metadata) -> bool {
    (a.mode(), a.uid(), a.gid()) == (b.mode(), b.uid(), b.gid())
}

fn same(old: &Path, before: &Metadata, new: &Path, after: &Metadata) -> io::Result<bool> {
    if !same_owner_and_mode(before, after) {
        return Ok(false);
    }
    if after.is_symlink() {
        return Ok(fs::read_link(old)? == fs::read_link(new)?);
    }
    if !after.is_file() {
        return Ok(before.rdev() == after.rdev());
    }
    if before.len() != after.len() {
        return Ok(false);
    }
    // Times would be quicker and mostly right: a write in the same tick of the clock would be missed.
    same_content(File::open(old)?, File::open(new)?)
}

fn same_content(mut a: File, mut b: File) -> io::Result<bool> {
    let (mut left, mut right) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let count = a.read(&mut left)?;
        if count == 0 {
            return Ok(b.read(&mut right)? == 0);
        }
        if b.read_exact(&mut right[..count]).is_err() || left[..count] != right[..count] {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("parent")).expect("mkdir");
        fs::write(path, text).expect("write");
    }

    #[test]
    fn the_layer_holds_what_differs() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (base, tree, layer) = (dir.path().join("base"), dir.path().join("tree"), dir.path().join("layer"));
        for (path, old, new) in [
            ("etc/same", Some("1"), Some("1")),
            ("etc/changed", Some("1"), Some("2")),
            ("etc/longer", Some("1"), Some("12")),
            ("boot/deep/new", None, Some("k")),
            ("gone/a/b", Some("x"), None),
        ] {
            old.iter().for_each(|text| put(&base, path, text));
            new.iter().for_each(|text| put(&tree, path, text));
        }
        let removed = split(&base, &tree, &layer).expect("split");
        assert_eq!(removed, ["gone/a/b", "gone/a", "gone"]);
        let read = |path: &str| fs::read_to_string(layer.join(path)).ok();
        assert_eq!(read("etc/changed").as_deref(), Some("2"));
        assert_eq!(read("etc/longer").as_deref(), Some("12"));
        assert_eq!(read("boot/deep/new").as_deref(), Some("k"));
        assert_eq!(read("etc/same"), None);
    }
}
