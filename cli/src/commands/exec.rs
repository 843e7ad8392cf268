//! `berth exec`.

use std::collections::BTreeMap;

use anyhow::Result;
use berth_api::exec::{InstanceExecControl, InstanceExecPost};
use clap::{Args, ValueEnum};
use rustix::process::Signal;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use super::launch::missing;
use crate::{complete, pairs, target, target::Context, terminal};

/// How the command is connected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// A terminal if standard input and output are one
    #[default]
    Auto,
    /// A terminal
    Interactive,
    /// Pipes
    NonInteractive,
}

/// Run a command in an instance
#[derive(Debug, Args)]
#[command(
    after_help = "The exit status is that of the command: 127 if it was not found, 128 + N if signal N ended it."
)]
pub struct Exec {
    /// Instance
    #[arg(add = complete::instances())]
    instance: String,
    /// Command and its arguments; `--` before it keeps its options apart
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
    /// Environment variable
    #[arg(long, value_name = "KEY=VALUE")]
    env: Vec<String>,
    /// Working directory
    #[arg(long, value_name = "DIR")]
    cwd: Option<String>,
    /// User id
    #[arg(long, default_value_t = 0, value_name = "UID")]
    user: u32,
    /// Group id
    #[arg(long, default_value_t = 0, value_name = "GID")]
    group: u32,
    /// Terminal or pipes
    #[arg(long, default_value = "auto", value_name = "MODE")]
    mode: Mode,
    /// Same as --mode interactive
    #[arg(short = 't', long, conflicts_with_all = ["mode", "force_noninteractive"])]
    force_interactive: bool,
    /// Same as --mode non-interactive
    #[arg(short = 'T', long, conflicts_with = "mode")]
    force_noninteractive: bool,
    /// Give the command no input
    #[arg(short = 'n', long)]
    disable_stdin: bool,
}

impl Exec {
    pub async fn run(self, context: &Context) -> Result<i32> {
        let instance = target::required(&self.instance, "instance")?;
        let interactive = self.is_interactive(terminal::is_interactive());
        let (width, height) = if interactive { terminal::size().unwrap_or((80, 24)) } else { (0, 0) };
        let request = InstanceExecPost {
            command: self.command.clone(),
            wait_for_websocket: true,
            interactive,
            environment: environment(&self.env, std::env::var("TERM").ok())?,
            width: width.into(),
            height: height.into(),
            user: self.user,
            group: self.group,
            cwd: self.cwd.clone().unwrap_or_default(),
            ..InstanceExecPost::default()
        };
        let session = context.client.exec(instance, &request).await.map_err(|error| missing(error, instance))?;
        // Not before: until the command runs, Ctrl-C ends the client.
        let (sender, controls) = mpsc::channel(16);
        forward_signals(sender, interactive)?;
        let raw = (interactive && terminal::stdin_is_terminal()).then(terminal::RawMode::enter).transpose()?;
        let stdin = (!self.disable_stdin).then(tokio::io::stdin);
        let ended = session.run(stdin, &mut tokio::io::stdout(), &mut tokio::io::stderr(), controls).await;
        drop(raw);
        let operation = ended?;
        if !operation.err.is_empty() {
            eprintln!("Error: {}: {}", operation.err, self.command[0]);
        }
        Ok(operation.exit_code().unwrap_or(-1))
    }

    fn is_interactive(&self, terminals: bool) -> bool {
        match self.mode {
            _ if self.force_interactive => true,
            _ if self.force_noninteractive => false,
            Mode::Interactive => true,
            Mode::NonInteractive => false,
            Mode::Auto => terminals && !self.disable_stdin,
        }
    }
}

/// The environment: TERM of the user, then what --env says.
fn environment(given: &[String], term: Option<String>) -> Result<BTreeMap<String, String>> {
    let mut environment: BTreeMap<String, String> = term.into_iter().map(|term| ("TERM".to_owned(), term)).collect();
    environment.extend(pairs::map(given)?);
    Ok(environment)
}

/// Sends the signals of this process to the command, and the new size of the terminal.
fn forward_signals(sender: mpsc::Sender<InstanceExecControl>, interactive: bool) -> Result<()> {
    let signals = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM, Signal::USR1, Signal::USR2, Signal::ALARM];
    for number in signals.map(Signal::as_raw) {
        let mut stream = signal(SignalKind::from_raw(number))?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                if sender.send(InstanceExecControl::signal(number)).await.is_err() {
                    break;
                }
            }
        });
    }
    if interactive {
        let mut resized = signal(SignalKind::window_change())?;
        tokio::spawn(async move {
            while resized.recv().await.is_some() {
                let Some((width, height)) = terminal::size() else { continue };
                if sender.send(InstanceExecControl::resize(width, height)).await.is_err() {
                    break;
                }
            }
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn parse(line: &str) -> Exec {
        match Cli::try_parse_from(line.split_whitespace()).unwrap().command {
            Command::Exec(exec) => exec,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_keeps_its_options() {
        for line in ["berth exec c1 -- ls -l -t", "berth exec c1 ls -l -t"] {
            assert_eq!(parse(line).command, ["ls", "-l", "-t"], "{line}");
        }
        let exec = parse("berth exec -T local:c1 --env A=b --user 1000 -- sh -c true");
        assert_eq!((exec.command.len(), exec.user, exec.force_noninteractive), (3, 1000, true));
        assert_eq!(exec.instance, "local:c1");
        assert!(Cli::try_parse_from(["berth", "exec", "c1"]).is_err());
        assert!(Cli::try_parse_from(["berth", "exec", "-t", "-T", "c1", "ls"]).is_err());
    }

    #[test]
    fn interactive_is_found_out() {
        let cases = [
            ("", true, true),
            ("", false, false),
            ("-n", true, false),
            ("-t", false, true),
            ("-T", true, false),
            ("--mode interactive", false, true),
            ("--mode non-interactive", true, false),
        ];
        for (flags, terminals, expected) in cases {
            let exec = parse(&format!("berth exec {flags} c1 -- ls"));
            assert_eq!(exec.is_interactive(terminals), expected, "{flags} {terminals}");
        }
    }

    #[test]
    fn given_variables_win() {
        let environment = environment(&["TERM=dumb".into(), "A=b=c".into()], Some("xterm".into())).unwrap();
        assert_eq!((environment["TERM"].as_str(), environment["A"].as_str()), ("dumb", "b=c"));
    }
}
