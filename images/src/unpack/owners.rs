//! Owners of files as a container sees them, where an archive has those of the host: LXD shifts the files of a container
//! where it cannot have them mounted shifted, and puts them into backups so.

use serde::Deserialize;

use super::tree::Attributes;
use crate::wire::{Failure, JobResult};

/// Most ranges a map has (user_namespaces(7)).
const RANGES_MAX: usize = 340;

/// LXD's `volatile.last_state.idmap`: which ids of the host stand for which of the container. None: they are the same.
#[derive(Debug, Clone, Default)]
pub struct Owners(Vec<Range>);

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Range {
    isuid: bool,
    isgid: bool,
    hostid: u32,
    nsid: u32,
    maprange: u32,
}

impl Range {
    fn inside(&self, id: u32) -> Option<u32> {
        let offset = id.checked_sub(self.hostid).filter(|offset| *offset < self.maprange)?;
        self.nsid.checked_add(offset)
    }
}

impl Owners {
    /// Reads a map; an empty text is none.
    pub fn parse(text: &str) -> JobResult<Self> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let bad = |reason: String| Failure::invalid(format!("volatile.last_state.idmap in the backup: {reason}"));
        let ranges: Vec<Range> = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
        if ranges.len() > RANGES_MAX {
            return Err(bad(format!("it has more than {RANGES_MAX} ranges")));
        }
        Ok(Self(ranges))
    }

    /// An id that is in no range stays.
    fn uid(&self, id: u32) -> u32 {
        self.0.iter().filter(|range| range.isuid).find_map(|range| range.inside(id)).unwrap_or(id)
    }

    fn gid(&self, id: u32) -> u32 {
        self.0.iter().filter(|range| range.isgid).find_map(|range| range.inside(id)).unwrap_or(id)
    }

    /// Makes the ids in attributes the container's.
    pub fn apply(&self, attributes: &mut Attributes) {
        if self.0.is_empty() {
            return;
        }
        attributes.uid = self.uid(attributes.uid);
        attributes.gid = self.gid(attributes.gid);
        for (name, value) in &mut attributes.extended {
            match name.as_slice() {
                b"system.posix_acl_access" | b"system.posix_acl_default" => self.acl(value),
                b"security.capability" => self.capability(value),
                _ => {}
            }
        }
    }

    /// An access control list: a version of four bytes, then entries of tag, permissions and id (linux/posix_acl_xattr.h).
    fn acl(&self, value: &mut [u8]) {
        const USER: u16 = 0x02;
        const GROUP: u16 = 0x08;
        let Some(entries) = value.get_mut(4..) else { return };
        for entry in entries.chunks_exact_mut(8) {
            let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
            let new = match u16::from_le_bytes([entry[0], entry[1]]) {
                USER => self.uid(id),
                GROUP => self.gid(id),
                _ => continue,
            };
            entry[4..].copy_from_slice(&new.to_le_bytes());
        }
    }

    /// File capabilities of version 3 name the root user they are for; those of version 2 are the same for the own root user
    /// (linux/capability.h).
    fn capability(&self, value: &mut Vec<u8>) {
        const VERSION_2: u8 = 2;
        const VERSION_3: u8 = 3;
        /// Length in version 2; four bytes with the id follow in version 3.
        const LENGTH: usize = 20;
        let Some(id) = value.get(LENGTH..).and_then(|id| <[u8; 4]>::try_from(id).ok()) else { return };
        if value[3] == VERSION_3 && self.uid(u32::from_le_bytes(id)) == 0 {
            value.truncate(LENGTH);
            value[3] = VERSION_2;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAP: &str = r#"[{"Isuid":true,"Isgid":false,"Hostid":100000,"Nsid":0,"Maprange":65536},
        {"Isuid":false,"Isgid":true,"Hostid":200000,"Nsid":0,"Maprange":65536}]"#;

    #[test]
    fn ids_become_those_inside() {
        let owners = Owners::parse(MAP).unwrap();
        let acl = [2u32.to_le_bytes(), [2, 0, 6, 0], 100_012u32.to_le_bytes(), [8, 0, 6, 0], 200_007u32.to_le_bytes()];
        let mut capability = vec![1, 0, 0, 3];
        capability.extend([7; 16]);
        capability.extend(100_000u32.to_le_bytes());
        let mut attributes = Attributes {
            uid: 100_033,
            gid: 200_044,
            extended: vec![
                (b"system.posix_acl_access".to_vec(), acl.concat()),
                (b"security.capability".to_vec(), capability),
            ],
            ..Attributes::default()
        };
        owners.apply(&mut attributes);
        assert_eq!((attributes.uid, attributes.gid), (33, 44));
        assert_eq!((attributes.extended[0].1[8], attributes.extended[0].1[16]), (12, 7));
        assert_eq!((attributes.extended[1].1.len(), attributes.extended[1].1[3]), (20, 2));
    }

    #[test]
    fn what_is_not_mapped_stays() {
        let owners = Owners::parse(MAP).unwrap();
        assert_eq!((owners.uid(99_999), owners.uid(165_536), owners.gid(100_000)), (99_999, 165_536, 100_000));
        for none in ["", "[]"] {
            assert_eq!(Owners::parse(none).unwrap().uid(100_000), 100_000);
        }
        assert!(Owners::parse("{").is_err());
    }
}
