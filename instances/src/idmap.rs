//! Host ids for instances: a range of its own for each. A container is mapped to it; the process of a virtual machine is its
//! first user and group, so that no two of them, nor one of them and a container, are ever the same user.

use rand::Rng;

/// Ids of one instance.
pub(crate) const RANGE: u32 = 65_536;
/// Ranges begin here: above what distributions give to people, system users and `/etc/subuid`'s first lines.
const FIRST: u32 = 1_000_000 / RANGE + 1;
/// And end below 2^31, where some programs begin to see negative numbers.
const LAST: u32 = (1 << 31) / RANGE - 1;

/// A slot that no line of `/etc/subuid` or `/etc/subgid` overlaps, at random: the store decides whether it is free,
/// and chance keeps several daemons of one host apart.
pub(crate) fn candidate(delegated: &[(u32, u32)]) -> Option<u32> {
    /// Enough to find a free one even when nearly all is delegated.
    const ATTEMPTS: usize = 4096;
    let mut rng = rand::rng();
    (0..ATTEMPTS).map(|_| rng.random_range(FIRST..=LAST)).find(|slot| is_free(*slot, delegated))
}

/// First host id of a slot.
pub(crate) fn base(slot: u32) -> u32 {
    slot * RANGE
}

/// Slot of a range's first host id.
pub(crate) fn slot(base: u32) -> u32 {
    base / RANGE
}

fn is_free(slot: u32, delegated: &[(u32, u32)]) -> bool {
    let (first, last) = (u64::from(base(slot)), u64::from(base(slot)) + u64::from(RANGE) - 1);
    delegated.iter().all(|(start, count)| {
        let (start, end) = (u64::from(*start), u64::from(*start) + u64::from(*count));
        end <= first || start > last
    })
}

/// Ranges that the host's administrator has delegated to users.
pub(crate) fn delegated() -> Vec<(u32, u32)> {
    ["/etc/subuid", "/etc/subgid"]
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .flat_map(|text| text.lines().filter_map(parse_line).collect::<Vec<_>>())
        .collect()
}

fn parse_line(line: &str) -> Option<(u32, u32)> {
    let mut fields = line.trim().split(':').skip(1);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_candidate_never_overlaps_what_is_delegated(
            delegated in proptest::collection::vec((any::<u32>(), 0..100_000_000_u32), 0..8)
        ) {
            if let Some(slot) = candidate(&delegated) {
                let first = u64::from(base(slot));
                prop_assert!(first >= 1_000_000);
                prop_assert!(first + u64::from(RANGE) <= 1 << 31);
                for (start, count) in delegated {
                    let (start, end) = (u64::from(start), u64::from(start) + u64::from(count));
                    prop_assert!(end <= first || start >= first + u64::from(RANGE));
                }
            }
        }
    }

    #[test]
    fn slots_and_bases_are_two_words_for_one_thing() {
        assert_eq!(slot(base(FIRST)), FIRST);
        assert_eq!(parse_line("root:100000:65536"), Some((100_000, 65_536)));
        assert_eq!(parse_line("# nothing"), None);
    }
}
