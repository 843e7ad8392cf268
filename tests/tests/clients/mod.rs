//! What the real `lxc` and `berth` both do, in the same words.

mod images;
mod instances;
mod objects;
mod snapshots;

pub use images::images;
pub use instances::{console, files, life, programs};
pub use objects::{configuration, events_and_queries, profiles};
pub use snapshots::{copies, moves, publishing, snapshots};

use berth_tests::{Daemon, Run, debian_image};

/// A command line client.
#[derive(Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "each test program uses one")]
pub enum Client {
    /// LXD's own.
    Lxc,
    /// Ours.
    Berth,
}

impl Client {
    /// A command whose words are separated by blanks.
    fn run(self, daemon: &Daemon, words: &str) -> Run {
        self.args(daemon, words.split_whitespace())
    }

    /// A command with arguments that may hold blanks.
    fn args<'a>(self, daemon: &Daemon, args: impl IntoIterator<Item = &'a str>) -> Run {
        match self {
            Self::Lxc => daemon.lxc_args(args),
            Self::Berth => daemon.berth_args(args),
        }
    }

    /// A daemon with the image `debian`.
    fn with_debian(self) -> Daemon {
        let daemon = Daemon::start();
        let (metadata, rootfs) = debian_image();
        let files = [&metadata, &rootfs].map(|path| path.to_str().expect("it is UTF-8"));
        let said = self.args(&daemon, ["image", "import", files[0], files[1], "--alias", "debian"]).ok();
        assert!(said.contains("Image imported with fingerprint: "), "{said}");
        daemon
    }
}
