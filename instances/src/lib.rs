//! The instance model of Berth: containers and virtual machines as one thing.
//!
//! [`Instances`] holds all instances of a host. What a client asks for is validated ([`keys`], [`devices`]), expanded with
//! its profiles, and becomes a plan for one start; a driver of the instance's kind (`drivers/`) carries it out with a
//! supervisor process that outlives this one. The state store keeps what is desired, run directories what is.

mod backups;
mod blocking;
mod cloud_init;
pub mod devices;
mod devlxd;
mod documents;
mod drivers;
mod error;
mod expand;
mod idmap;
pub mod keys;
mod manager;
mod model;
mod names;
mod nics;
mod plan;
pub mod profiles;
pub mod projects;
mod snapshots;
mod sys;
mod templates;
mod timer;
mod values;

pub use backups::Upload;
pub use devlxd::Door;
pub use drivers::{ConsoleSession, ExecIo, ExecSession, Helpers, Reader, Writer};
pub use error::{Error, Result};
pub use manager::{Deps, Instances, Loan, ReservedBackup, Warm};
pub use model::{
    Backup, Config, CreateRequest, Devices, Instance, Kind, LifecycleEvent, MoveRequest, NewBackup, NewSnapshot,
    Original, Snapshot, Source, StartFrom, StateReport, Status, StopRequest, Trouble, TroubleKind, Update, WarmImage,
};
pub use names::check as check_name;
