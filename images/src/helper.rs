//! Running the helper `berth-image` from the daemon.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::wire::Line;

/// Longest line the helper may write: metadata (1 MiB) as JSON.
const LINE_MAX: u64 = 8 << 20;
/// Longest text on the helper's standard error that is kept.
const STDERR_MAX: u64 = 4 << 10;

/// How long a job may take. None of these is a rate: they only end what hangs.
pub const QUICK: Duration = Duration::from_secs(120);
/// For jobs that unpack.
pub const UNPACK: Duration = Duration::from_secs(3600);
/// For backups, which may be as large as disks are.
pub const BACKUP: Duration = Duration::from_secs(24 * 3600);
/// For building.
pub const BUILD: Duration = Duration::from_secs(3 * 3600);

/// The helper program.
#[derive(Debug, Clone)]
pub struct Helper {
    program: Arc<PathBuf>,
}

/// One run of the helper.
#[derive(Debug)]
pub struct Job {
    args: Vec<OsString>,
    stdin: Option<File>,
    limit: Duration,
}

impl Job {
    /// The job with this name and time limit.
    pub fn new(name: &str, limit: Duration) -> Self {
        Self { args: vec![name.into()], stdin: None, limit }
    }

    /// Adds an option with its value.
    pub fn option(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.args.push(name.into());
        self.args.push(value.into());
        self
    }

    /// Adds an option without a value.
    pub fn flag(mut self, name: &str) -> Self {
        self.args.push(name.into());
        self
    }

    /// Adds an option if there is a value.
    pub fn maybe(self, name: &str, value: Option<impl Into<OsString>>) -> Self {
        match value {
            Some(value) => self.option(name, value),
            None => self,
        }
    }

    /// Gives the helper an open file as standard input.
    pub fn stdin(mut self, file: File) -> Self {
        self.stdin = Some(file);
        self
    }
}

impl Helper {
    /// The helper at this path.
    pub fn new(program: PathBuf) -> Self {
        Self { program: Arc::new(program) }
    }

    fn broken(&self, reason: impl Into<String>) -> Error {
        Error::Helper { helper: self.program.as_ref().clone(), reason: reason.into() }
    }

    fn spawn(&self, job: Job) -> Result<Child> {
        let mut command = Command::new(self.program.as_ref());
        command
            .args(job.args)
            .stdin(job.stdin.map_or_else(Stdio::null, Stdio::from))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .current_dir("/")
            // A caller that gives up takes the helper with it, and the helper its namespaces.
            .kill_on_drop(true);
        command.spawn().map_err(|e| self.broken(format!("cannot be started ({e}); install it beside the daemon")))
    }

    /// Runs a job and gives its result.
    pub async fn run(&self, job: Job, progress: &Progress) -> Result<Value> {
        let limit = job.limit;
        match tokio::time::timeout(limit, self.follow(job, progress)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(self.broken(format!("took longer than {} s and was ended", limit.as_secs()))),
        }
    }

    async fn follow(&self, job: Job, progress: &Progress) -> Result<Value> {
        let mut child = self.spawn(job)?;
        let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(self.broken("has no output"));
        };
        let errors = async {
            let mut text = Vec::new();
            let mut stderr = stderr;
            let _ = (&mut stderr).take(STDERR_MAX).read_to_end(&mut text).await;
            // Whatever more comes must not block the helper.
            let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
            String::from_utf8_lossy(&text).trim().to_owned()
        };
        let (outcome, errors) = tokio::join!(self.lines(BufReader::new(stdout), progress), errors);
        let status = child.wait().await.map_err(|e| self.broken(format!("cannot be waited for: {e}")))?;
        match outcome? {
            Some(Line::Done(value)) if status.success() => Ok(value),
            Some(Line::Failed(failure)) => Err(failure.into()),
            _ => Err(self.broken(format!("ended without a result ({status}): {errors}"))),
        }
    }

    /// Reads lines to the end; gives the last that is not progress.
    async fn lines(&self, mut from: impl AsyncBufReadExt + Unpin, progress: &Progress) -> Result<Option<Line>> {
        let mut last = None;
        let mut text = Vec::new();
        loop {
            text.clear();
            let count = (&mut from).take(LINE_MAX).read_until(b'\n', &mut text).await;
            if count.map_err(|e| self.broken(format!("cannot be read from: {e}")))? == 0 {
                return Ok(last);
            }
            match serde_json::from_slice(&text) {
                Ok(Line::Progress(event)) => progress(event),
                // The first failure is the reason, what follows are its consequences.
                Ok(line) if !matches!(last, Some(Line::Failed(_))) => last = Some(line),
                Ok(_) => {}
                Err(_) => return Err(self.broken("wrote something that is no report")),
            }
        }
    }

    /// Path of the program.
    pub fn path(&self) -> &Path {
        &self.program
    }
}
