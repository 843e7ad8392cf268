//! Comparing kernel versions: runs of digits count as numbers.

use std::cmp::Ordering;

fn chunks(text: &str) -> Vec<(bool, &str)> {
    let mut chunks = Vec::new();
    let mut start = 0;
    let bytes = text.as_bytes();
    for end in 1..=bytes.len() {
        if end == bytes.len() || bytes[end].is_ascii_digit() != bytes[start].is_ascii_digit() {
            // A cut between a digit and something else is always between two characters.
            chunks.push((bytes[start].is_ascii_digit(), &text[start..end]));
            start = end;
        }
    }
    chunks
}

/// Which of two versions is the newer.
pub fn compare(a: &str, b: &str) -> Ordering {
    let (left, right) = (chunks(a), chunks(b));
    for (x, y) in left.iter().zip(&right) {
        let order = match (x, y) {
            ((true, x), (true, y)) => {
                let (x, y) = (x.trim_start_matches('0'), y.trim_start_matches('0'));
                x.len().cmp(&y.len()).then_with(|| x.cmp(y))
            }
            ((_, x), (_, y)) => x.cmp(y),
        };
        if order != Ordering::Equal {
            return order;
        }
    }
    left.len().cmp(&right.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_count_as_numbers() {
        assert_eq!(compare("6.1.0-10-amd64", "6.1.0-9-amd64"), Ordering::Greater);
        assert_eq!(compare("6.1.0-9-amd64", "6.1.0-9-amd64"), Ordering::Equal);
        assert_eq!(compare("5.10.0", "6.1"), Ordering::Less);
    }

    proptest! {
        #[test]
        fn it_is_an_order(a in "\\PC{0,12}", b in "\\PC{0,12}") {
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
            prop_assert_eq!(compare(&a, &a), Ordering::Equal);
        }
    }
}
