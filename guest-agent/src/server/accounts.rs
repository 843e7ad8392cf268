//! Users and groups, by own readers of the guest's files: a static program cannot load its NSS modules.

use std::{collections::BTreeSet, fs};

/// Longest account file that is read.
const MAX_FILE: u64 = 8 * 1024 * 1024;

/// What the account files tell of a user.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    /// Home directory; none if the user is not known.
    pub home: Option<String>,
    /// Groups beside the primary one.
    pub groups: BTreeSet<u32>,
}

/// Looks `uid` up in `/etc/passwd` and `/etc/group`; unknown users and unreadable files give an empty account.
pub(super) fn look_up(uid: u32) -> Account {
    parse(uid, &read("/etc/passwd"), &read("/etc/group"))
}

fn read(path: &str) -> String {
    match fs::metadata(path) {
        Ok(meta) if meta.is_file() && meta.len() <= MAX_FILE => {
            String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
        }
        _ => String::new(),
    }
}

fn parse(uid: u32, passwd: &str, group: &str) -> Account {
    let mut account = Account::default();
    let user = passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.len() >= 6 && fields[2].parse() == Ok(uid)).then(|| (fields[0], fields[5]))
    });
    let Some((name, home)) = user else { return account };
    account.home = (!home.is_empty()).then(|| home.to_owned());
    for line in group.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        if let [_, _, gid, members] = fields[..]
            && members.split(',').any(|member| member == name)
            && let Ok(gid) = gid.parse()
        {
            account.groups.insert(gid);
        }
    }
    account
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nbroken\nann:x:1000:1000:,,,:/home/ann:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nsudo:x:27:bob,ann\nusers:x:100:ann\nanna:x:5:annabel\nodd:x:no:ann\n";

    #[test]
    fn groups_are_those_that_name_the_user() {
        let account = parse(1000, PASSWD, GROUP);
        assert_eq!(account.home.as_deref(), Some("/home/ann"));
        assert_eq!(account.groups, BTreeSet::from([27, 100]));
        assert_eq!(parse(0, PASSWD, GROUP).groups, BTreeSet::new());
        assert_eq!(parse(4711, PASSWD, GROUP), Account::default());
    }

    proptest! {
        #[test]
        fn any_file_is_taken(passwd in "[a0:,\n]{0,60}", group in "[a0:,\n]{0,60}") {
            parse(0, &passwd, &group);
        }
    }
}
