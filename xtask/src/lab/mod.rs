//! The lab: a software-emulated machine whose kernel offers real KVM, for machines that have none.
//!
//! Its root is this machine's root file system, seen over 9p below an overlay whose upper layer is in memory. So
//! whatever was built here runs there under the same path, and nothing is left behind.

mod files;
mod kernel;
mod machine;
mod output;

use std::{env, fmt::Write as _, path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::packages::{self, Purpose};

pub use machine::SLOTS;

/// How to run the lab.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Give a prompt in the lab instead of running a command.
    #[arg(long, conflicts_with = "command")]
    pub shell: bool,
    /// End the lab after this many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    pub timeout: u64,
    /// Memory of the lab in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 6144)]
    pub memory: u32,
    /// CPUs of the lab; all run in one thread of the host.
    #[arg(long, default_value_t = 1)]
    pub cpus: u32,
    /// Tell how long the lab took to boot.
    #[arg(long, short)]
    pub verbose: bool,
    /// Begins each line of output, so that those of several labs can be told apart.
    #[arg(skip)]
    pub label: Option<usize>,
    /// The command with its arguments; for a pipeline: -- sh -c '...'.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required_unless_present = "shell")]
    pub command: Vec<String>,
}

impl Options {
    /// Options for running `command`.
    pub fn command(command: Vec<String>, timeout: Duration) -> Self {
        let timeout = timeout.as_secs();
        Self { shell: false, timeout, memory: 6144, cpus: 1, verbose: true, label: None, command }
    }
}

/// Boots the lab, runs the command in it and gives the command's exit status.
pub fn run(options: &Options) -> Result<i32> {
    if !rustix::process::geteuid().is_root() {
        bail!("the lab shows all files of this machine to its root user, so only root may start it: use sudo");
    }
    packages::ensure(&[Purpose::Lab])?;
    let directory = directory();
    let files = files::prepare(&directory)?;
    machine::run(&directory, &files, options, &script(options)?)
}

/// Where the lab's kernel, initrd and logs are kept.
fn directory() -> PathBuf {
    crate::workspace().join("target/lab")
}

/// The shell script that the lab runs.
fn script(options: &Options) -> Result<String> {
    let mut script = String::new();
    for (name, value) in env::vars() {
        let valid = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if name.chars().all(valid) && !name.starts_with(|c: char| c.is_ascii_digit()) && name != "PWD" && name != "_" {
            writeln!(script, "export {name}={}", quote(&value))?;
        }
    }
    // A root with overlay or tmpfs lacks idmapped mounts; the scratch disk is ext4.
    script.push_str("export TMPDIR=/scratch BERTH_LAB=1\n");
    let cwd = env::current_dir().context("the working directory is gone")?;
    writeln!(script, "cd {} || exit 1", quote(&cwd.to_string_lossy()))?;
    if options.shell {
        let size = rustix::termios::tcgetwinsize(std::io::stdin());
        if let Ok(size) = size {
            writeln!(script, "stty rows {} cols {}", size.ws_row, size.ws_col)?;
        }
        script.push_str("exec \"${SHELL:-/bin/bash}\" -i\n");
    } else {
        script.push_str("exec");
        for word in &options.command {
            write!(script, " {}", quote(word))?;
        }
        script.push('\n');
    }
    Ok(script)
}

/// `word` as the shell takes it literally.
pub fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_shell() {
        for word in ["", "a b", "it's", "$HOME `x` \"y\" \\ \n", "''"] {
            let output = std::process::Command::new("sh").args(["-c", &format!("printf %s {}", quote(word))]).output();
            assert_eq!(output.unwrap().stdout, word.as_bytes());
        }
    }
}
