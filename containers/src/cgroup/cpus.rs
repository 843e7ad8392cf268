//! Lists of CPUs, and the choice among them.

use std::collections::BTreeSet;

/// Highest CPU number taken seriously.
const MAX_CPU: u32 = 8191;

/// Reads a list as in `0-2,4`.
pub(super) fn parse(text: &str) -> Option<BTreeSet<u32>> {
    let mut set = BTreeSet::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        if first > last || last > MAX_CPU {
            return None;
        }
        set.extend(first..=last);
    }
    Some(set)
}

/// The shortest text for a set.
pub(super) fn format(set: &BTreeSet<u32>) -> String {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for cpu in set {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *cpu => *last = *cpu,
            _ => ranges.push((*cpu, *cpu)),
        }
    }
    let text = ranges.iter().map(|(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") });
    text.collect::<Vec<_>>().join(",")
}

/// `count` CPUs of `online`, those with the fewest of `taken` on them first. More than there are is all of them.
pub(super) fn spread(online: &BTreeSet<u32>, taken: &[BTreeSet<u32>], count: usize) -> BTreeSet<u32> {
    let mut order: Vec<_> =
        online.iter().map(|cpu| (taken.iter().filter(|set| set.contains(cpu)).count(), *cpu)).collect();
    order.sort_unstable();
    order.into_iter().take(count).map(|(_, cpu)| cpu).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(set in proptest::collection::btree_set(0..300u32, 0..40)) {
            prop_assert_eq!(parse(&format(&set)), Some(set));
        }

        #[test]
        fn any_text_is_no_panic(text in "[0-9,\\- ]{0,30}") {
            let _ = parse(&text);
        }

        #[test]
        fn the_spread_is_even(loads in proptest::collection::vec(1..4usize, 0..20)) {
            let online: BTreeSet<u32> = (0..4).collect();
            let mut taken = Vec::new();
            for count in loads {
                taken.push(spread(&online, &taken, count));
            }
            let on = |cpu: &u32| taken.iter().filter(|set| set.contains(cpu)).count();
            let (least, most) = (online.iter().map(on).min(), online.iter().map(on).max());
            prop_assert!(most.unwrap() - least.unwrap() <= 1);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(parse("0-99999999"), None);
        assert_eq!(parse("3-1"), None);
        assert_eq!(parse("x"), None);
    }
}
