//! `berth monitor`.

use std::fmt::Write as _;

use anyhow::Result;
use berth_api::events::{Event, Lifecycle, Logging, TYPE_LIFECYCLE, TYPE_LOGGING, TYPE_OPERATION};
use berth_api::operations::Operation;
use clap::{Args, ValueEnum};
use jiff::tz::TimeZone;
use serde_json::Value;

use crate::{output, target::Context};

/// Format of events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A document for each event
    #[default]
    Yaml,
    /// A line for each event, as the daemon sent it
    Json,
    /// A line for each event, for people
    Pretty,
}

/// Watch what the daemon does
#[derive(Debug, Args)]
pub struct Monitor {
    /// Only these types: operation, lifecycle, logging
    #[arg(short = 't', long = "type", value_delimiter = ',', value_name = "TYPES",
        value_parser = [TYPE_OPERATION, TYPE_LIFECYCLE, TYPE_LOGGING])]
    types: Vec<String>,
    /// A line for each event, for people
    #[arg(long, conflicts_with = "format")]
    pretty: bool,
    /// Format
    #[arg(short, long, default_value = "yaml", value_name = "FORMAT")]
    format: Format,
    /// Least level of log messages
    #[arg(long, default_value = "debug", value_parser = LEVELS, value_name = "LEVEL")]
    loglevel: String,
    /// Events of all projects
    #[arg(long)]
    all_projects: bool,
}

/// Levels of log messages, least first.
const LEVELS: [&str; 4] = ["debug", "info", "warning", "error"];

impl Monitor {
    pub async fn run(self, context: &Context) -> Result<()> {
        let types: Vec<&str> = self.types.iter().map(String::as_str).collect();
        let mut events = context.client.events(&types, self.all_projects).await?;
        let format = if self.pretty { Format::Pretty } else { self.format };
        while let Some(text) = events.next_text().await? {
            let Ok(event) = serde_json::from_str::<Event>(&text) else { continue };
            if !loud(&event, &self.loglevel) {
                continue;
            }
            match format {
                Format::Json => output::print(&(text + "\n"))?,
                Format::Yaml => output::print(&format!("{}---\n", output::yaml(&event)?))?,
                Format::Pretty => output::print(&pretty(&event, &TimeZone::system()))?,
            }
        }
        anyhow::bail!("the daemon closed the connection")
    }
}

/// Whether an event is no log message below the level.
fn loud(event: &Event, least: &str) -> bool {
    if event.kind != TYPE_LOGGING {
        return true;
    }
    let rank = |level: &str| LEVELS.iter().position(|known| level.starts_with(known) || known.starts_with(level));
    let level = event.metadata.get("level").and_then(Value::as_str).unwrap_or_default();
    rank(level) >= rank(least)
}

/// One line for an event.
fn pretty(event: &Event, zone: &TimeZone) -> String {
    let time = event.timestamp.0.to_zoned_datetime(zone.clone()).strftime("%H:%M:%S%.3f").to_string();
    let project =
        if matches!(event.project.as_str(), "" | "default") { String::new() } else { format!(" [{}]", event.project) };
    let what = match event.kind.as_str() {
        TYPE_LIFECYCLE => serde_json::from_value(event.metadata.clone()).map(|change| lifecycle(&change)),
        TYPE_OPERATION => serde_json::from_value(event.metadata.clone()).map(|operation| self::operation(&operation)),
        TYPE_LOGGING => serde_json::from_value(event.metadata.clone()).map(|message| logging(&message)),
        _ => Ok(event.metadata.to_string()),
    };
    let what = what.unwrap_or_else(|_| event.metadata.to_string());
    format!("{time}{project} {what}\n")
}

fn lifecycle(change: &Lifecycle) -> String {
    let mut line = format!("{} {}", change.action, change.source);
    if let Some(requestor) = &change.requestor {
        let _ = write!(line, " by {} ({})", requestor.username, requestor.protocol);
    }
    line + &context(&change.context)
}

fn operation(operation: &Operation) -> String {
    let mut line = format!("operation {}: {} {}", operation.id, operation.description, operation.status);
    let progress = operation.metadata.iter().flatten().filter(|(key, _)| key.ends_with("_progress"));
    for (_, text) in progress {
        let _ = write!(line, " ({})", text.as_str().unwrap_or_default());
    }
    if !operation.err.is_empty() {
        let _ = write!(line, ": {}", operation.err);
    }
    line
}

fn logging(message: &Logging) -> String {
    format!("{} {}{}", message.level.to_uppercase(), message.message, context(&message.context))
}

fn context(map: &serde_json::Map<String, Value>) -> String {
    map.iter().fold(String::new(), |mut line, (key, value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let _ = write!(line, " {key}={text}");
        line
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(json: Value) -> Event {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn events_are_lines() {
        let cases = [
            (
                serde_json::json!({"type":"lifecycle","timestamp":"2024-05-01T08:00:00.1234Z","project":"p","metadata":
                    {"action":"instance-started","source":"/1.0/instances/c1","requestor":{"username":"root","protocol":"unix"}}}),
                "08:00:00.123 [p] instance-started /1.0/instances/c1 by root (unix)\n",
            ),
            (
                serde_json::json!({"type":"logging","timestamp":"2024-05-01T08:00:00Z","metadata":
                    {"level":"info","message":"Ready","context":{"n":1}}}),
                "08:00:00.000 INFO Ready n=1\n",
            ),
            (
                serde_json::json!({"type":"operation","timestamp":"2024-05-01T08:00:00Z","project":"default","metadata":
                    {"id":"x","description":"Creating instance","status":"Failure","err":"no space"}}),
                "08:00:00.000 operation x: Creating instance Failure: no space\n",
            ),
        ];
        for (json, line) in cases {
            assert_eq!(pretty(&event(json), &TimeZone::UTC), line);
        }
    }

    #[test]
    fn quiet_messages_are_left_out() {
        let log = |level: &str| event(serde_json::json!({"type":"logging","metadata":{"level":level}}));
        assert!(loud(&log("error"), "warning") && loud(&log("warn"), "warning") && loud(&log("debug"), "debug"));
        assert!(!loud(&log("info"), "warning"));
        assert!(loud(&event(serde_json::json!({"type":"lifecycle"})), "error"));
    }
}
