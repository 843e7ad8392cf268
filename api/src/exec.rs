//! Commands, consoles, files and image metadata of instances.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{is_false, or_default};

/// A command to run in an instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct InstanceExecPost {
    /// Program and arguments.
    #[serde(deserialize_with = "or_default")]
    pub command: Vec<String>,
    /// Wait for the websockets before the start, and use them.
    pub wait_for_websocket: bool,
    /// Use a pseudo terminal.
    pub interactive: bool,
    /// Environment on top of the instance's.
    #[serde(deserialize_with = "or_default")]
    pub environment: BTreeMap<String, String>,
    /// Columns of the terminal.
    pub width: i64,
    /// Rows of the terminal.
    pub height: i64,
    /// Without websockets: keep the output in log files.
    pub record_output: bool,
    /// User id.
    pub user: u32,
    /// Group id.
    pub group: u32,
    /// Working directory; the user's home if empty.
    pub cwd: String,
}

/// A message on the control websocket of a command: `window-resize` or `signal`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceExecControl {
    /// `window-resize` or `signal`.
    pub command: String,
    /// For `window-resize`: `width` and `height`, decimal.
    #[serde(deserialize_with = "or_default")]
    pub args: BTreeMap<String, String>,
    /// For `signal`: its number.
    pub signal: i32,
}

impl InstanceExecControl {
    /// The terminal has a new size.
    #[must_use]
    pub fn resize(width: u16, height: u16) -> Self {
        Self { command: "window-resize".into(), args: size_args(width, height), signal: 0 }
    }

    /// Send a signal to the command.
    #[must_use]
    pub fn signal(signal: i32) -> Self {
        Self { command: "signal".into(), args: BTreeMap::new(), signal }
    }

    /// Columns and rows of a `window-resize`.
    #[must_use]
    pub fn window_size(&self) -> Option<(u16, u16)> {
        (self.command == "window-resize").then(|| parse_size(&self.args)).flatten()
    }
}

/// A connection to the console of an instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceConsolePost {
    /// Columns of the terminal.
    pub width: i64,
    /// Rows of the terminal.
    pub height: i64,
    /// `console` (also if empty) or `vga`.
    #[serde(rename = "type")]
    pub kind: String,
    /// *Berth:* take the console over from another client.
    #[serde(skip_serializing_if = "is_false")]
    pub force: bool,
}

/// A message on the control websocket of a console: `window-resize`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceConsoleControl {
    /// `window-resize`.
    pub command: String,
    /// `width` and `height`, decimal.
    #[serde(deserialize_with = "or_default")]
    pub args: BTreeMap<String, String>,
}

impl InstanceConsoleControl {
    /// The terminal has a new size.
    #[must_use]
    pub fn resize(width: u16, height: u16) -> Self {
        Self { command: "window-resize".into(), args: size_args(width, height) }
    }

    /// Columns and rows of a `window-resize`.
    #[must_use]
    pub fn window_size(&self) -> Option<(u16, u16)> {
        (self.command == "window-resize").then(|| parse_size(&self.args)).flatten()
    }
}

fn size_args(width: u16, height: u16) -> BTreeMap<String, String> {
    BTreeMap::from([("width".into(), width.to_string()), ("height".into(), height.to_string())])
}

fn parse_size(args: &BTreeMap<String, String>) -> Option<(u16, u16)> {
    Some((args.get("width")?.parse().ok()?, args.get("height")?.parse().ok()?))
}

/// Metadata of the image of an instance: its `metadata.yaml`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceMetadata {
    /// Architecture.
    pub architecture: String,
    /// Unix time of the build.
    pub creation_date: i64,
    /// Unix time of expiry, 0 for none.
    pub expiry_date: i64,
    /// Free properties.
    #[serde(deserialize_with = "or_default")]
    pub properties: BTreeMap<String, String>,
    /// Templates by path inside the instance.
    #[serde(deserialize_with = "or_default")]
    pub templates: BTreeMap<String, InstanceMetadataTemplate>,
}

/// When and how a file is made from a template.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceMetadataTemplate {
    /// `create`, `copy`, `start`.
    #[serde(deserialize_with = "or_default")]
    pub when: Vec<String>,
    /// Leave a file alone that exists.
    pub create_only: bool,
    /// Name of the template.
    pub template: String,
    /// Values for the template.
    #[serde(deserialize_with = "or_default")]
    pub properties: BTreeMap<String, String>,
}

/// Header with the user id of a file.
pub const HEADER_UID: &str = "X-LXD-uid";
/// Header with the group id of a file.
pub const HEADER_GID: &str = "X-LXD-gid";
/// Header with the octal mode of a file.
pub const HEADER_MODE: &str = "X-LXD-mode";
/// Header with the type of a file: `file`, `directory` or `symlink`.
pub const HEADER_TYPE: &str = "X-LXD-type";
/// Header that says how a file is written: `overwrite` or `append`.
pub const HEADER_WRITE: &str = "X-LXD-write";
