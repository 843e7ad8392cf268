//! Device nodes.

use std::path::PathBuf;

use berth_containers::spec::{Node, NodeKind, NodeSource};

use super::Keys;

/// Permissions of a node that names none, as LXD has them.
const MODE: u32 = 0o660;

pub(super) fn parse(keys: &Keys<'_>, kind: NodeKind) -> Result<Node, String> {
    keys.only(&["source", "path", "major", "minor", "uid", "gid", "mode", "required"])?;
    let absolute = |key: &str| match keys.get(key) {
        Some(path) if !path.starts_with('/') || path.split('/').any(|part| part == "..") => {
            Err(format!("\"{key}\" must be an absolute path without \"..\""))
        }
        path => Ok(path),
    };
    let (source, path) = (absolute("source")?, absolute("path")?);
    let target = path.or(source).ok_or("\"source\", a device node of the host, or \"path\" must be given")?;
    let source = match (keys.parsed("major", number)?, keys.parsed("minor", number)?) {
        (Some(major), Some(minor)) => NodeSource::Numbers { major, minor },
        (None, None) => NodeSource::Path(PathBuf::from(source.unwrap_or(target))),
        _ => return Err("\"major\" and \"minor\" go together; give both or none".to_owned()),
    };
    Ok(Node {
        kind,
        source,
        target: target.to_owned(),
        mode: keys.parsed("mode", mode)?.unwrap_or(MODE),
        uid: keys.parsed("uid", number)?.unwrap_or(0),
        gid: keys.parsed("gid", number)?.unwrap_or(0),
        required: keys.flag("required", true)?,
    })
}

pub(super) fn number(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("\"{text}\" is not a number"))
}

pub(super) fn mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode @ 0..=0o777) => Ok(mode),
        _ => Err(format!("\"{text}\" is not a mode such as 0660")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::{Device, parse as parse_device};
    use crate::model::Kind;

    fn node(pairs: &[(&str, &str)]) -> Result<Node, String> {
        let config = pairs.iter().chain(&[("type", "unix-char")]).map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        match parse_device("d0", &config.collect(), Some(Kind::Container))? {
            Device::Node(node) => Ok(node),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn path_and_source_stand_for_each_other() {
        let here = node(&[("path", "/dev/ttyS0")]).unwrap();
        assert_eq!((here.source, &*here.target), (NodeSource::Path("/dev/ttyS0".into()), "/dev/ttyS0"));
        let there = node(&[("source", "/dev/ttyS0"), ("path", "/dev/modem"), ("mode", "0600"), ("gid", "20")]).unwrap();
        assert_eq!((&*there.target, there.mode, there.gid, there.uid), ("/dev/modem", 0o600, 20, 0));
        let numbers = node(&[("path", "/dev/x"), ("major", "1"), ("minor", "3")]).unwrap();
        assert_eq!(numbers.source, NodeSource::Numbers { major: 1, minor: 3 });
    }

    #[test]
    fn nonsense_is_refused() {
        for wrong in [
            &[][..],
            &[("path", "dev/x")],
            &[("path", "/dev/../x")],
            &[("path", "/dev/x"), ("major", "1")],
            &[("path", "/dev/x"), ("mode", "4755")],
            &[("path", "/dev/x"), ("mode", "rw")],
            &[("path", "/dev/x"), ("uid", "root")],
        ] {
            assert!(node(wrong).is_err(), "{wrong:?}");
        }
    }
}
