//! Messages between host and guest end.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// vsock port on which the agent listens in the guest; the host connects to it.
pub const AGENT_PORT: u32 = 1025;
/// vsock port on the host (CID 2) to which the agent dials when it is up; the VMM listens there.
pub const READY_PORT: u32 = 1024;
/// What the guest's first program prints on the console before anything else; whoever boots the guest can take its time
/// by it.
pub const USER_SPACE_MARK: &str = "berth-agent: user space";
/// What the agent prints on the console when it listens, in the guest's real root, just before it dials out.
pub const AGENT_MARK: &str = "berth-agent: up";
/// Version of this protocol; told in [`Hello`].
pub const PROTOCOL_VERSION: u32 = 3;
/// Agents of this version and above understand [`Welcome`].
pub const WELCOME_VERSION: u32 = 2;

/// Agents of this version and above understand [`Welcome::identity`].
pub const IDENTITY_VERSION: u32 = 3;

/// First message of the agent on the ready connection, which then stays open for the life of the agent. The host answers
/// with [`Welcome`] or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`] of the agent.
    pub protocol: u32,
    /// The agent's own version.
    pub agent_version: String,
    /// Kernel release of the guest.
    pub kernel: String,
    /// Host name at the time of the message.
    pub hostname: String,
}

/// What the host tells a guest that goes on from a saved state. Answer: [`Reply::Done`] when all is set, or
/// [`Reply::Error`] with what is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The time now, nanoseconds since 1970.
    pub time_ns: u64,
    /// Random bytes for the guest's kernel, which must not go on with those it was saved with.
    pub entropy: Vec<u8>,
    /// Who the guest is, if it is not the one that was saved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
}

/// What tells a guest from the one whose saved state it goes on from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Host name.
    pub hostname: String,
    /// MAC addresses of its network devices, in the order in which it finds them.
    pub hwaddrs: Vec<[u8; 6]>,
}

/// What the host asks. One request a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Run a program. Answer: [`Reply::Started`] or [`Reply::Error`]; then `Stdout`/`Stderr` frames (an empty one
    /// is end of file) from the guest and `Stdin` frames and [`ExecControl`] messages from the host, at last
    /// [`Reply::Exited`]. With a terminal all output is `Stdout`. Loss of the connection kills the program.
    Exec(ExecSpec),
    /// Work on a file; see [`FileRequest`].
    Files(FileRequest),
    /// Answer: [`Reply::State`].
    State,
    /// Clean shutdown of the guest through its init. Answer: [`Reply::Done`] when init was told.
    Shutdown,
    /// Clean reboot of the guest through its init. Answer: [`Reply::Done`] when init was told.
    Reboot,
}

/// Size of a terminal in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// A program to run in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecSpec {
    /// Program and arguments; the program is looked up in the `PATH` of `env`. Never empty.
    pub command: Vec<String>,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// Working directory; the user's home, else `/`, if absent.
    pub cwd: Option<String>,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Some: run on a new pseudo terminal of that size (0×0: leave the kernel's default).
    pub terminal: Option<WindowSize>,
}

/// Sent by the host while a program runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExecControl {
    /// The terminal's new size.
    Resize(WindowSize),
    /// Send this signal number to the program.
    Signal(i32),
}

/// Owner and mode of a file to make; absent means: 0:0 and 0644 (0755 for directories).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ownership {
    /// User id.
    pub uid: Option<u32>,
    /// Group id.
    pub gid: Option<u32>,
    /// Permission bits, at most 0o7777.
    pub mode: Option<u32>,
}

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WriteMode {
    /// Truncate an existing file; it keeps owner and mode unless they are given.
    Overwrite,
    /// Append to an existing file or make it.
    Append,
}

/// Work on one path of the guest. Relative paths are below `/`. The last component is never followed if it is a
/// symbolic link, except by `Write`, which follows it as a program in the guest would.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileRequest {
    /// Answer: [`Reply::File`], then for a regular file `Data` frames and an empty one at the end; for a
    /// directory [`Reply::Entries`]; for a symbolic link one `Data` frame with its target and an empty one.
    /// Anything else (FIFO, socket, device) is an error of kind [`ErrorKind::NotSupported`].
    Read {
        /// Absolute path.
        path: String,
    },
    /// Answer: [`Reply::File`] only.
    Stat {
        /// Absolute path.
        path: String,
    },
    /// After [`Reply::Ready`] the host sends `Data` frames and an empty one; answer then: [`Reply::Done`].
    Write {
        /// Absolute path.
        path: String,
        /// Overwrite or append.
        mode: WriteMode,
        /// Owner and mode.
        ownership: Ownership,
    },
    /// Makes one directory; one that exists is no error. Answer: [`Reply::Done`].
    MakeDirectory {
        /// Absolute path.
        path: String,
        /// Owner and mode.
        ownership: Ownership,
    },
    /// Makes a symbolic link, replacing a link that exists. Answer: [`Reply::Done`].
    Symlink {
        /// Absolute path.
        path: String,
        /// What the link says.
        target: String,
        /// Owner (the mode is ignored).
        ownership: Ownership,
    },
    /// Deletes a file, link or empty directory; with `recursive` a whole tree without following links.
    /// Answer: [`Reply::Done`].
    Delete {
        /// Absolute path.
        path: String,
        /// Whole tree.
        recursive: bool,
    },
}

/// Type of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// FIFO, socket or device.
    Other,
}

/// What `lstat` says of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStat {
    /// Type.
    pub kind: FileKind,
    /// Permission bits, at most 0o7777.
    pub mode: u32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
}

/// What the guest end answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The program runs.
    Started {
        /// Process id in the guest.
        pid: u32,
    },
    /// The program ended: its exit code, or 128 + the number of the signal that ended it.
    Exited {
        /// 0..=255.
        status: i32,
    },
    /// See [`FileRequest::Read`].
    File(FileStat),
    /// Names in a directory, sorted, without `.` and `..`.
    Entries(Vec<String>),
    /// The guest end waits for `Data` frames.
    Ready,
    /// Done.
    Done,
    /// See [`Request::State`].
    State(GuestState),
    /// The request failed.
    Error(GuestError),
}

/// Class of a failure in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// No such file or program (exec: exit status 127).
    NotFound,
    /// Not allowed, or not executable (exec: exit status 126).
    PermissionDenied,
    /// Exists already, or a directory is not empty.
    Conflict,
    /// The request makes no sense.
    Invalid,
    /// The guest end cannot do that.
    NotSupported,
    /// Disk full or quota reached.
    NoSpace,
    /// Anything else.
    Other,
}

/// A failure with its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct GuestError {
    /// Class.
    pub kind: ErrorKind,
    /// Names the object and the reason.
    pub message: String,
}

/// What a guest tells of itself; also what a container's monitor tells of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct GuestState {
    /// CPU time used since the start, nanoseconds.
    pub cpu_ns: u64,
    /// Bytes of memory in use (without page cache).
    pub memory_usage: u64,
    /// Highest use seen, bytes; 0 if unknown.
    pub memory_peak: u64,
    /// Memory the guest has, bytes; 0 if unlimited or unknown.
    pub memory_total: u64,
    /// Bytes of swap in use.
    pub swap_usage: u64,
    /// Number of processes.
    pub processes: u64,
    /// Bytes used on the root file system; 0 if unknown.
    pub disk_usage: u64,
    /// Network interfaces by name.
    pub network: BTreeMap<String, Interface>,
    /// Kernel and distribution, as far as known: `os`, `os_version`, `kernel_version`, `hostname`.
    pub os: BTreeMap<String, String>,
    /// Figures for monitoring. Absent from what is older than they are.
    #[serde(default)]
    pub detail: Detail,
}

/// Figures for monitoring; what is unknown is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Detail {
    /// CPU time by CPU and mode.
    pub cpu: Vec<CpuTime>,
    /// Bytes of memory by what they are: `Active`, `MemTotal` and so on, the names of LXD's metrics.
    pub memory: BTreeMap<String, u64>,
    /// Processes killed for want of memory.
    pub oom_kills: u64,
    /// Traffic of block devices by name.
    pub disks: BTreeMap<String, DiskCounters>,
    /// Space of file systems.
    pub filesystems: Vec<Filesystem>,
}

/// Time that a CPU spent in one mode since the start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuTime {
    /// Number of the CPU; 0 for all together.
    pub cpu: u32,
    /// `user`, `system`, `iowait` and so on.
    pub mode: String,
    /// Nanoseconds.
    pub ns: u64,
}

/// Traffic of a block device since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskCounters {
    /// Bytes read.
    pub read_bytes: u64,
    /// Reads.
    pub reads: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Writes.
    pub writes: u64,
}

/// Space of a file system, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filesystem {
    /// Device.
    pub device: String,
    /// Type.
    pub kind: String,
    /// Where it is mounted.
    pub mountpoint: String,
    /// In all.
    pub size: u64,
    /// Free.
    pub free: u64,
    /// Free for others than root.
    pub available: u64,
}

/// A network interface inside a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// MAC address, `aa:bb:cc:dd:ee:ff`; empty for loopback.
    pub hwaddr: String,
    /// MTU in bytes.
    pub mtu: u32,
    /// `up` or `down`.
    pub state: String,
    /// `broadcast`, `loopback`, `point-to-point` or `unknown`.
    pub kind: String,
    /// Addresses.
    pub addresses: Vec<Address>,
    /// Traffic counters as the guest counts them.
    pub counters: Counters,
}

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// `inet` or `inet6`.
    pub family: String,
    /// Text form.
    pub address: String,
    /// Prefix length.
    pub netmask: String,
    /// `global`, `link` or `local`.
    pub scope: String,
}

/// Traffic counters of an interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Bytes received.
    pub bytes_received: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
    /// Packets received.
    pub packets_received: u64,
    /// Packets sent.
    pub packets_sent: u64,
    /// Receive errors.
    pub errors_received: u64,
    /// Send errors.
    pub errors_sent: u64,
    /// Received packets dropped.
    pub packets_dropped_inbound: u64,
    /// Packets to send dropped.
    pub packets_dropped_outbound: u64,
}
