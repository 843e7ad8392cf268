//! Running a program and judging what came of it.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// How long a program may run: `BERTH_TEST_PATIENCE` in seconds. Generous, for it may run under emulation: only what hangs
/// takes so long.
pub(crate) fn patience() -> Duration {
    let given = std::env::var("BERTH_TEST_PATIENCE").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(given.unwrap_or(600))
}

/// A program to run.
pub struct Run {
    command: Command,
    shown: String,
    input: Option<Vec<u8>>,
}

/// What came of it.
#[derive(Debug)]
pub struct Output {
    shown: String,
    /// Exit status, 128 + signal if it was killed.
    pub status: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Run {
    /// Runs `program` with `args`.
    pub fn new<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: impl IntoIterator<Item = S>) -> Self {
        let mut command = Command::new(program.as_ref());
        let mut shown = program.as_ref().to_string_lossy().into_owned();
        for arg in args {
            shown.push(' ');
            shown.push_str(&arg.as_ref().to_string_lossy());
            command.arg(arg);
        }
        Self { command, shown, input: None }
    }

    /// With a variable in the environment.
    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// With bytes on standard input.
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Some(bytes.into());
        self
    }

    /// The command itself, for those who want to start it otherwise.
    pub(crate) fn into_command(self) -> (Command, String) {
        (self.command, self.shown)
    }

    /// Runs it and returns whatever comes.
    #[track_caller]
    pub fn any(mut self) -> Output {
        let stdin = if self.input.is_some() { Stdio::piped() } else { Stdio::null() };
        let child = self.command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|e| panic!("cannot run {}: {e}", self.shown));
        let writer = self.input.take().zip(child.stdin.take()).map(|(bytes, mut stdin)| {
            std::thread::spawn(move || {
                // A program that does not read its input closes the pipe early.
                let _ = stdin.write_all(&bytes);
            })
        });
        let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
        let in_time = ends(&child);
        if !in_time {
            // It may have ended just now.
            let _ = child.kill();
        }
        let status = child.wait().unwrap_or_else(|e| panic!("cannot wait for {}: {e}", self.shown));
        if let Some(writer) = writer {
            writer.join().expect("the writer does not panic");
        }
        let text = |reader: JoinHandle<Vec<u8>>| {
            String::from_utf8_lossy(&reader.join().expect("the reader does not panic")).into_owned()
        };
        let (stdout, stderr) = (text(stdout), text(stderr));
        assert!(in_time, "{} hangs; it said: {stdout}{stderr}", self.shown);
        let signal = std::os::unix::process::ExitStatusExt::signal(&status).map_or(0, |signal| 128 + signal);
        Output { shown: self.shown, status: status.code().unwrap_or(signal), stdout, stderr }
    }

    /// Runs it; it must succeed. Returns its standard output.
    #[track_caller]
    pub fn ok(self) -> String {
        let output = self.any();
        assert_eq!(output.status, 0, "{}\n{}{}", output.shown, output.stdout, output.stderr);
        output.stdout
    }

    /// Runs it; it must succeed and print JSON.
    #[track_caller]
    pub fn json(self) -> serde_json::Value {
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("no JSON ({e}): {text}"))
    }

    /// Runs it; it must fail. Returns what it said.
    #[track_caller]
    pub fn fails(self) -> String {
        let output = self.any();
        assert_ne!(output.status, 0, "{} should fail, but said: {}", output.shown, output.stdout);
        output.stdout + &output.stderr
    }
}

/// Reads all of it in a thread.
fn collect(source: Option<impl Read + Send + 'static>) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut source) = source {
            source.read_to_end(&mut bytes).expect("the output of a child can be read");
        }
        bytes
    })
}

/// Waits for the end of a child; tells whether it came in time.
pub(crate) fn ends(child: &Child) -> bool {
    ends_within(child, patience())
}

/// Waits for the end of a process that may be nobody's child here; tells whether it came in time.
pub fn wait_for_end(pid: Pid) -> bool {
    // One that cannot be opened has ended.
    pidfd_open(pid, PidfdFlags::empty()).map_or(true, |pidfd| ready(&pidfd, patience()))
}

/// Waits for the end of one of two children; tells whether it is the first's.
pub(crate) fn ends_first(first: &Child, second: &Child) -> bool {
    let open = |child| pidfd_open(Pid::from_child(child), PidfdFlags::empty()).expect("it is not waited for");
    let (first, second) = (open(first), open(second));
    let mut fds = [&first, &second].map(|fd| PollFd::new(fd, PollFlags::IN));
    let timeout = Timespec::try_from(patience()).expect("it is short");
    while let Err(rustix::io::Errno::INTR) = poll(&mut fds, Some(&timeout)) {}
    fds[1].revents().is_empty()
}

/// Like [`ends`], with a time of the caller's.
pub(crate) fn ends_within(child: &Child, patience: Duration) -> bool {
    let pid = Pid::from_child(child);
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).expect("a child that is not waited for has a pidfd");
    ready(&pidfd, patience)
}

/// Waits until there is something to read; tells whether that came in time.
pub(crate) fn ready(fd: &impl AsFd, patience: Duration) -> bool {
    happens(fd, PollFlags::IN, patience)
}

/// Waits until the other end of a unix socket is closed, whatever is still to be read.
#[track_caller]
pub fn hung_up(fd: &impl AsFd) {
    // This is told of every descriptor, asked or not.
    assert!(happens(fd, PollFlags::empty(), patience()), "the other end stays open");
}

fn happens(fd: &impl AsFd, what: PollFlags, patience: Duration) -> bool {
    let timeout = Timespec::try_from(patience).expect("it is short");
    let mut fds = [PollFd::new(fd, what)];
    loop {
        match poll(&mut fds, Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => {}
            other => return other.expect("a descriptor can be polled") > 0,
        }
    }
}
