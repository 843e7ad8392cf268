//! Devices of a container.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Something of the host inside the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    /// A file or directory.
    Mount(Mount),
    /// A device node.
    Node(Node),
}

/// A file or directory of the host inside the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Path on the host.
    pub source: PathBuf,
    /// Path inside; made if it is missing.
    pub target: String,
    /// Not writable inside.
    pub readonly: bool,
    /// With what is mounted below the source.
    pub recursive: bool,
    /// What later mounts on either side mean to the other.
    pub propagation: Propagation,
    /// Show the source's ids as they are instead of as nobody's.
    pub shift: bool,
    /// The container does not start without it.
    pub required: bool,
}

/// How later mounts below a mount spread (mount_namespaces(7)). None ever spreads from a container to the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Propagation {
    /// Not at all.
    #[default]
    Private,
    /// Those of the host appear inside; they spread on among the container's own namespaces.
    Shared,
    /// Those of the host appear inside.
    Slave,
    /// Not at all, and the container cannot mount it elsewhere.
    Unbindable,
}

/// A device node of the host inside the container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Character or block.
    pub kind: NodeKind,
    /// Which.
    pub source: NodeSource,
    /// Path inside.
    pub target: String,
    /// Permissions, the lowest nine bits of a mode.
    pub mode: u32,
    /// Owner inside.
    pub uid: u32,
    /// Group inside.
    pub gid: u32,
    /// The container does not start without it.
    pub required: bool,
}

/// Type of a device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// Character device.
    Char,
    /// Block device.
    Block,
}

/// Where the numbers of a device node come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeSource {
    /// The host's node at this path.
    Path(PathBuf),
    /// These numbers.
    Numbers {
        /// Driver.
        major: u32,
        /// Device of the driver.
        minor: u32,
    },
}

impl Device {
    /// Path inside.
    pub fn target(&self) -> &str {
        match self {
            Self::Mount(mount) => &mount.target,
            Self::Node(node) => &node.target,
        }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if self.target().trim_matches('/').is_empty() {
            return Err("it cannot lie over the container's root".to_owned());
        }
        match self {
            Self::Mount(_) => Ok(()),
            Self::Node(node) if node.mode > 0o777 => Err(format!("its mode is {:o}, beyond 777", node.mode)),
            Self::Node(_) => Ok(()),
        }
    }
}
