//! Figures and what is told of them.

use serde::Serialize;

/// What a figure counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Milliseconds.
    Milliseconds,
    /// Units of 2^20 bytes.
    Mebibytes,
}

impl Unit {
    /// A figure with its unit, to four digits or so.
    pub fn show(self, value: f64) -> String {
        let unit = match self {
            Self::Milliseconds => "ms",
            Self::Mebibytes => "MiB",
        };
        let digits = if value < 10.0 {
            2
        } else if value < 1000.0 {
            1
        } else {
            0
        };
        format!("{value:.digits$} {unit}")
    }
}

/// Median and spread of some figures.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Summary {
    /// Middle one; of an even number the mean of the middle two.
    pub median: f64,
    /// Least.
    pub min: f64,
    /// Greatest.
    pub max: f64,
}

impl Summary {
    /// Of `values`; `None` if there are none.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            (sorted.get(middle.checked_sub(1)?)? + sorted[middle]) / 2.0
        };
        Some(Self { median, min: sorted[0], max: sorted[sorted.len() - 1] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[3.0]), Some(Summary { median: 3.0, min: 3.0, max: 3.0 }));
        assert_eq!(Summary::of(&[9.0, 1.0, 2.0]), Some(Summary { median: 2.0, min: 1.0, max: 9.0 }));
        assert_eq!(Summary::of(&[4.0, 1.0, 2.0, 100.0]), Some(Summary { median: 3.0, min: 1.0, max: 100.0 }));
    }

    #[test]
    fn figures_are_short() {
        assert_eq!(Unit::Milliseconds.show(4.126), "4.13 ms");
        assert_eq!(Unit::Milliseconds.show(41.26), "41.3 ms");
        assert_eq!(Unit::Milliseconds.show(4126.4), "4126 ms");
        assert_eq!(Unit::Mebibytes.show(0.0), "0.00 MiB");
    }
}
