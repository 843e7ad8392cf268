//! Running a program and judging what came of it.

use std::ffi::OsStr;
use std::io::Write;
use std::process::{Command, Stdio};

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

    /// Runs it and returns whatever comes.
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
        let output = child.wait_with_output().unwrap_or_else(|e| panic!("cannot wait for {}: {e}", self.shown));
        if let Some(writer) = writer {
            writer.join().expect("the writer does not panic");
        }
        let status = std::os::unix::process::ExitStatusExt::signal(&output.status).map_or(0, |signal| 128 + signal);
        Output {
            shown: self.shown,
            status: output.status.code().unwrap_or(status),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs it; it must succeed. Returns its standard output.
    #[track_caller]
    pub fn ok(self) -> String {
        let output = self.any();
        assert_eq!(output.status, 0, "{}\n{}{}", output.shown, output.stdout, output.stderr);
        output.stdout
    }

    /// Runs it; it must fail. Returns what it said.
    #[track_caller]
    pub fn fails(self) -> String {
        let output = self.any();
        assert_ne!(output.status, 0, "{} should fail, but said: {}", output.shown, output.stdout);
        output.stdout + &output.stderr
    }
}
