//! What a control socket understands. One connection carries one request.

use berth_guest::protocol::{ExecSpec, GuestState, Hello, WindowSize};
use serde::{Deserialize, Serialize};

/// Name of the control socket in an instance's run directory.
pub const CONTROL_SOCKET: &str = "control";

/// First message of the daemon on a connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Answer: [`Reply::Status`].
    Status,
    /// Answer: [`Reply::Status`], then an [`Reply::Event`] for each change until the connection or the
    /// supervisor ends.
    Subscribe,
    /// Attach to the console. Answer: [`Reply::Console`] with one `SOCK_STREAM` descriptor that carries the
    /// console both ways, starting with the ring buffer's content. The connection is the session: closing it
    /// detaches, [`Input::Resize`] may be sent on it.
    Console {
        /// Take the console from a client that is attached.
        force: bool,
    },
    /// Stop the instance's CPUs (freeze the container). Answer: [`Reply::Done`].
    Pause,
    /// Undo [`Request::Pause`]. Answer: [`Reply::Done`].
    Resume,
    /// Virtual machine only. Save the machine into two empty files, which come as descriptors: its state and its RAM.
    /// Answer: [`Reply::Done`] when both are written (not yet synced). CPUs and devices stand still until the connection
    /// is closed, and then go on; or the machine ends, on [`SaveControl::End`].
    Save,
    /// Ask the guest's init for a clean shutdown. Answer: [`Reply::Done`] when it was asked, not when it is down.
    Shutdown,
    /// End the instance at once. Answer: [`Reply::Done`]; the end is told by [`Event::Exited`].
    Kill,
    /// Container only. Run a program. Comes with three descriptors (stdin, stdout, stderr) unless
    /// `terminal` is set. Answer: [`Reply::ExecStarted`], with the terminal's master as descriptor if `terminal` is set, then
    /// [`Reply::ExecExited`]. [`Input`] messages may be sent meanwhile; loss of the connection kills the program.
    Exec(ExecSpec),
    /// Container only. Answer: [`Reply::Files`] with a `SOCK_STREAM` descriptor on which one
    /// [`berth_guest::protocol::FileRequest`] is served.
    Files,
    /// Container only (a virtual machine's agent tells its own). Answer: [`Reply::Stats`].
    Stats,
    /// Container only. Answer: [`Reply::Network`] with its network namespace as descriptor.
    Network,
    /// What is to be changed while the instance runs, as a whole or not at all. Of a container a new specification, of the
    /// type that [`crate::handshake::Start`] carries, of which what cannot be changed is left as it is; of a virtual machine
    /// new settings of its devices. Answer: [`Reply::Done`].
    Change(serde_json::Value),
}

/// What may follow `Console` or `Exec`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Input {
    /// New size of the terminal.
    Resize(WindowSize),
    /// Signal for the program.
    Signal(i32),
}

/// What may follow `Save`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SaveControl {
    /// End the machine, which is to go on from what was saved: [`ExitReason::Saved`].
    End,
}

/// State of a running instance, as its supervisor sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// It runs.
    Running,
    /// It is paused (frozen).
    Paused,
}

/// Answer to `Status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// See [`RunState`].
    pub state: RunState,
    /// Host process id of the container's init or of the VMM.
    pub pid: u32,
    /// Virtual machine: what its agent said, if it is up.
    pub agent: Option<Hello>,
    /// Last kernel panic seen on the console, if any.
    pub panic: Option<String>,
    /// Virtual machine: when it came how far. Supervisors of older releases tell none.
    #[serde(default)]
    pub times: Option<BootTimes>,
}

/// When a virtual machine came how far, in nanoseconds of the host's `CLOCK_MONOTONIC`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootTimes {
    /// The supervisor's process began.
    pub began: u64,
    /// The guest's first program printed its mark.
    pub user_space: Option<u64>,
    /// The agent greeted for the first time.
    pub agent: Option<u64>,
}

/// Why an instance ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Class.
    pub reason: ExitReason,
    /// For the reader; names the cause.
    pub message: String,
}

/// Class of an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitReason {
    /// The guest shut itself down.
    Shutdown,
    /// The guest wants to start again; the daemon does that.
    Reboot,
    /// Its state was saved, and [`SaveControl::End`] followed.
    Saved,
    /// [`Request::Kill`] or a signal to the supervisor.
    Killed,
    /// The guest's kernel panicked and stopped.
    Panic,
    /// The supervisor or the guest failed.
    Error,
}

/// A change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// Paused or running again.
    State(RunState),
    /// The agent came up.
    AgentReady(Hello),
    /// The agent's connection ended.
    AgentLost,
    /// The guest's kernel panicked; the text is its line on the console.
    Panic(String),
    /// The instance ended; the last event. Also kept on disk, see [`crate::record`].
    Exited(Exit),
}

/// Class of a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalKind {
    /// No such program (exit status 127).
    NotFound,
    /// Not executable (exit status 126).
    PermissionDenied,
    /// Somebody else has it (the console).
    Busy,
    /// This kind of instance cannot do that.
    NotSupported,
    /// Anything else.
    Other,
}

/// What the supervisor answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Done.
    Done,
    /// See [`Request::Status`].
    Status(Status),
    /// See [`Request::Subscribe`].
    Event(Event),
    /// See [`Request::Console`].
    Console,
    /// The program runs.
    ExecStarted {
        /// Its process id in the container.
        pid: u32,
    },
    /// The program ended: exit code, or 128 + signal.
    ExecExited {
        /// 0..=255.
        status: i32,
    },
    /// See [`Request::Files`].
    Files,
    /// See [`Request::Stats`].
    Stats(GuestState),
    /// See [`Request::Network`].
    Network,
    /// The request failed.
    Refused {
        /// Class.
        kind: RefusalKind,
        /// Object, reason and next step.
        message: String,
    },
}
