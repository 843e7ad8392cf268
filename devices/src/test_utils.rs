//! Fake driver and fake seams.
