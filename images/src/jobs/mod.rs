//! The jobs of the helper `berth-image`, one per subcommand.
//!
//! Each opens what it needs while it still may, confines itself, and reports on standard output ([`crate::wire`]).

pub mod backup;
pub mod boot;
pub mod build;
pub mod disk;
pub mod inspect;
pub mod layer;
pub mod pack;
pub mod unpack;

use std::fs::File;
use std::path::Path;

use crate::confine::{self, Confinement, Filter};
use crate::wire::{self, Failure, JobResult};

/// How much an image may unpack to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::Args)]
pub struct Limits {
    /// Most bytes of content.
    #[arg(long, default_value_t = 64 << 30)]
    pub max_bytes: u64,
    /// Most files, directories and links.
    #[arg(long, default_value_t = 2_000_000)]
    pub max_entries: u64,
}

/// Address space for the host's tools; `unsquashfs` maps much and touches little.
const TOOLS_MEMORY: u64 = 16 << 30;
/// Address space for parsers.
const PARSER_MEMORY: u64 = 4 << 30;

/// Processor time for work on an image.
const SECONDS: u64 = 3600;

fn open(path: &Path) -> JobResult<File> {
    File::open(path).map_err(Failure::from_io(format!("open {}", path.display())))
}

/// Confinement for jobs that write files with somebody else's owners.
fn restoring(binds: Vec<confine::Bind>, file_size: u64) -> Confinement {
    Confinement {
        binds,
        tools: true,
        capabilities: confine::RESTORE_FILES,
        filter: Filter::Tools,
        file_size,
        memory: TOOLS_MEMORY,
        seconds: SECONDS,
    }
}

/// Confinement for jobs that only read what is open and write to what is open.
fn parsing() -> Confinement {
    Confinement {
        binds: Vec::new(),
        tools: false,
        capabilities: &[],
        filter: Filter::Reader,
        file_size: 0,
        memory: PARSER_MEMORY,
        seconds: SECONDS,
    }
}

/// Runs a job confined; its outcome goes to standard output.
fn confined<T: serde::Serialize>(confinement: &Confinement, job: impl FnOnce() -> JobResult<T>) -> JobResult<i32> {
    let code = confine::run(confinement, || wire::finish(job())).map_err(Failure::from_io("start the confined job"))?;
    match code {
        0 | 1 => Ok(code),
        signal => Err(Failure::internal(format!(
            "the confined process that reads the image was ended by signal {}; try again, and look for lack of memory if \
             it happens again",
            signal - 128
        ))),
    }
}
