//! Keeping a guest from filling the log.

use std::sync::atomic::{AtomicU32, Ordering};

/// Warnings of one origin that a guest can provoke; more of the same tell nothing new.
const MAX_WARNINGS: u32 = 16;

/// Counts warnings.
#[derive(Debug, Default)]
pub struct Warnings(AtomicU32);

impl Warnings {
    /// Whether another one may be written.
    pub fn allowed(&self) -> bool {
        self.0.fetch_add(u32::from(self.0.load(Ordering::Relaxed) < MAX_WARNINGS), Ordering::Relaxed) < MAX_WARNINGS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_end() {
        let warnings = Warnings::default();
        assert_eq!((0..1000).filter(|_| warnings.allowed()).count(), 16);
    }
}
