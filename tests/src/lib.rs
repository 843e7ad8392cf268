//! End-to-end tests: what they share.
//!
//! The tests themselves are in `tests/`: `host_*.rs` run on the host, `vm_*.rs` wherever a KVM guest can run. Each starts a
//! daemon of its own on a private directory and checks that nothing is left when it ends.

mod daemon;
mod disk;
pub mod guests;
mod http;
mod images;
mod leftovers;
mod run;
mod steps;
mod terminal;
mod watch;
mod whole;

pub use daemon::{Daemon, Setup, programs};
pub use disk::SmallDisk;
pub use http::{Reply, own_address};
pub use images::{busybox_image, debian_image};
pub use leftovers::{Leftovers, processes};
pub use run::{Output, Run, hung_up, wait_for_end};
pub use terminal::Terminal;
pub use watch::Watch;
pub use whole::MARKER;
