//! `berth console`.

use std::io::Read as _;

use anyhow::{Result, bail};
use berth_api::exec::{InstanceConsoleControl, InstanceConsolePost};
use bytes::Bytes;
use clap::Args;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use super::launch::missing;
use crate::{complete, target, target::Context, terminal};

/// Attach to the console of an instance
#[derive(Debug, Args)]
pub struct Console {
    /// Instance
    #[arg(add = complete::instances())]
    instance: String,
    /// Print what the console showed so far, and end
    #[arg(long)]
    show_log: bool,
    /// Take the console over from another client
    #[arg(long)]
    force: bool,
    /// Kind of console
    #[arg(short = 't', long = "type", default_value = "console", value_parser = ["console", "vga"], value_name = "TYPE")]
    kind: String,
}

impl Console {
    pub async fn run(self, context: &Context) -> Result<()> {
        let instance = target::required(&self.instance, "instance")?;
        if self.kind == "vga" {
            bail!("Berth's machines have no graphics: use the text console, `berth console {instance}`");
        }
        if self.show_log { show_log(context, instance).await } else { attach(context, instance, self.force).await }
    }
}

/// Prints the console's log.
pub async fn show_log(context: &Context, instance: &str) -> Result<()> {
    let endpoint = target::instance(instance).join(&["console"]);
    let response = context.client.download(&endpoint).await.map_err(|error| missing(error, instance))?;
    response.copy_to(&mut tokio::io::stdout(), |_| {}).await?;
    Ok(())
}

/// Connects the user's terminal to the console until the user leaves or the instance stops.
pub async fn attach(context: &Context, instance: &str, force: bool) -> Result<()> {
    let (width, height) = terminal::size().unwrap_or((80, 24));
    let request = InstanceConsolePost { width: width.into(), height: height.into(), kind: "console".into(), force };
    let session = context.client.console(instance, &request).await.map_err(|error| missing(error, instance))?;
    let raw = terminal::stdin_is_terminal().then(terminal::RawMode::enter).transpose()?;
    if raw.is_some() {
        eprint!("To leave the console, press ctrl-a q\r\n");
    }
    let (resize, resizes) = mpsc::channel(4);
    let mut resized = signal(SignalKind::window_change())?;
    tokio::spawn(async move {
        while resized.recv().await.is_some() {
            let Some((width, height)) = terminal::size() else { continue };
            if resize.send(InstanceConsoleControl::resize(width, height)).await.is_err() {
                break;
            }
        }
    });
    let mut stdout = tokio::io::stdout();
    let attached = session.run(keys(), &mut stdout, resizes);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let ended = tokio::select! {
        ended = attached => ended,
        _ = terminate.recv() => Ok(false),
        _ = hangup.recv() => Ok(false),
    };
    if raw.is_some() {
        drop(raw);
        eprintln!();
    }
    ended?;
    Ok(())
}

/// What the user types, until ctrl-a q.
fn keys() -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(16);
    // A thread of its own: a read of a terminal cannot be taken back.
    std::thread::spawn(move || {
        let mut escape = Escape::default();
        let mut buffer = [0; 1024];
        while let Ok(count @ 1..) = std::io::stdin().read(&mut buffer) {
            let (data, leave) = escape.filter(&buffer[..count]);
            if !data.is_empty() && sender.blocking_send(data.into()).is_err() {
                break;
            }
            if leave {
                break;
            }
        }
    });
    receiver
}

/// Finds ctrl-a q; ctrl-a a is one ctrl-a.
#[derive(Debug, Default)]
struct Escape {
    pending: bool,
}

const CTRL_A: u8 = 1;

impl Escape {
    /// What goes to the console, and whether the user leaves.
    fn filter(&mut self, input: &[u8]) -> (Vec<u8>, bool) {
        let mut output = Vec::with_capacity(input.len());
        for &byte in input {
            match (std::mem::take(&mut self.pending), byte) {
                (false, CTRL_A) => self.pending = true,
                (true, b'q') => return (output, true),
                (true, b'a' | CTRL_A) => output.push(CTRL_A),
                (true, other) => output.extend([CTRL_A, other]),
                (false, other) => output.push(other),
            }
        }
        (output, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ctrl_a_q_leaves() {
        let mut escape = Escape::default();
        assert_eq!(escape.filter(b"ls\r"), (b"ls\r".to_vec(), false));
        assert_eq!(escape.filter(b"x\x01"), (b"x".to_vec(), false));
        assert_eq!(escape.filter(b"qrest"), (Vec::new(), true));
    }

    #[test]
    fn other_sequences_pass() {
        let mut escape = Escape::default();
        assert_eq!(escape.filter(b"\x01a"), (vec![1], false));
        assert_eq!(escape.filter(b"\x01\x01"), (vec![1], false));
        assert_eq!(escape.filter(b"\x01c"), (vec![1, b'c'], false));
        assert_eq!(escape.filter(b"q"), (vec![b'q'], false));
    }
}
