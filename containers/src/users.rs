//! Users and groups as the container's own files tell them.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

/// More of `/etc/passwd` or `/etc/group` is not read.
const FILE_MAX: u64 = 4 * 1024 * 1024;
/// `NGROUPS_MAX` of the kernel.
const GROUPS_MAX: usize = 65536;

/// What is known of a user.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) home: Option<String>,
    pub(crate) groups: Vec<u32>,
}

/// Looks up `uid` in the files of the calling process's root, which may be hostile: anything that is not a
/// readable regular file counts as empty.
pub(crate) fn look_up(uid: u32, gid: u32) -> User {
    parse(&read("/etc/passwd"), &read("/etc/group"), uid, gid)
}

fn read(path: &str) -> String {
    let open = || -> std::io::Result<Vec<u8>> {
        // A FIFO must not hold us up.
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
        let mut bytes = Vec::new();
        if file.metadata()?.is_file() {
            file.take(FILE_MAX).read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    };
    String::from_utf8_lossy(&open().unwrap_or_default()).into_owned()
}

fn parse(passwd: &str, group: &str, uid: u32, gid: u32) -> User {
    let entry = passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.len() >= 6 && !fields[0].is_empty() && fields[2].parse() == Ok(uid));
    let Some(entry) = entry else { return User { home: None, groups: vec![gid] } };
    let mut groups = vec![gid];
    for line in group.lines() {
        let fields: Vec<_> = line.split(':').collect();
        let [_, _, id, members] = fields.as_slice() else { continue };
        let Ok(id) = id.parse() else { continue };
        // All ones means "no change" to the kernel.
        if id != u32::MAX && members.split(',').any(|member| member == entry[0]) && !groups.contains(&id) {
            groups.push(id);
        }
    }
    groups.truncate(GROUPS_MAX);
    User { home: Some(entry[5].to_owned()).filter(|home| home.starts_with('/')), groups }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nbroken\nann:x:1000:1000:,,,:/home/ann:/bin/sh\nrel:x:7:7::x:\n";
    const GROUP: &str = "root:x:0:\nsudo:x:27:bob,ann\nann:x:1000:ann\nvideo:x:44:anna\nbad:x:4294967295:ann\n";

    #[test]
    fn home_and_groups_are_found() {
        assert_eq!(parse(PASSWD, GROUP, 1000, 1000), User { home: Some("/home/ann".into()), groups: vec![1000, 27] });
        assert_eq!(parse(PASSWD, GROUP, 5, 6), User { home: None, groups: vec![6] });
        assert_eq!(parse(PASSWD, GROUP, 7, 7).home, None, "a relative home is none");
    }

    proptest! {
        #[test]
        fn any_text_is_no_panic(passwd in "[a-z0-9:,\n]{0,80}", group in "[a-z0-9:,\n]{0,80}", uid in 0..20u32) {
            parse(&passwd, &group, uid, 0);
        }
    }
}
