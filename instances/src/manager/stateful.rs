//! Stopping an instance with its run state, and going on from there.
//!
//! The state lies in the volume. It counts only while the volatile document says so: that is written together with the end of
//! the saved run, and taken back before anything of the guest runs again. Whatever else lies there is left over.

use std::path::{Path, PathBuf};

use super::actor::Actor;
use super::use_running::volume_kind;
use crate::blocking::blocking;
use crate::documents::Kept;
use crate::drivers::saved::{self, Heir, Saved};
use crate::error::{Error, Result};
use crate::model::{Kind, StartFrom};
use crate::values::parse_bool;

/// The state in the volume.
pub(super) const STATE: &str = "state";
/// While it is written.
pub(super) const UNFINISHED: &str = "state.new";
/// The key that allows it.
const KEY: &str = "migration.stateful";

impl Actor {
    /// Saves the running instance and ends it. On an error it goes on as before.
    pub(super) async fn save_and_end(&self) -> Result<()> {
        self.may_be_saved()?;
        let volume = self.volume().await?;
        let (state, unfinished) = (volume.join(STATE), volume.join(UNFINISHED));
        let standing = match self.driver().save(&self.places().run_dir, &volume, &unfinished).await {
            Ok(standing) => standing,
            Err(error) => {
                self.forget(unfinished).await;
                return Err(error);
            }
        };
        blocking(move || saved::complete(&unfinished, &state)).await?;
        standing.end().await
    }

    fn may_be_saved(&self) -> Result<()> {
        let name = &self.name;
        if self.document.kind == Kind::Container {
            return Err(Error::Invalid(format!(
                "the run state of a container cannot be saved; stop \"{name}\" without --stateful, or use a virtual machine"
            )));
        }
        let view = self.view.borrow();
        if view.expanded_config.get(KEY).is_none_or(|value| parse_bool(value) != Ok(true)) {
            return Err(Error::Invalid(format!(
                "Stateful stop requires that the instance {KEY} be set to true; set it with \"config set {name} {KEY}=true\""
            )));
        }
        if self.document.ephemeral {
            return Err(Error::Invalid(format!(
                "instance \"{name}\" is ephemeral and deleted when it stops; stop it without --stateful"
            )));
        }
        Ok(())
    }

    /// The directory of the volume.
    pub(super) async fn volume(&self) -> Result<PathBuf> {
        let name = self.document.volume.simple().to_string();
        Ok(self.shared.pools.path(&self.document.pool, volume_kind(self.document.kind), &name).await?)
    }

    /// The state to begin with, if one is wanted. Anything else that lies in the volume is removed.
    pub(super) async fn saved(&mut self, from: StartFrom, volume: &Path) -> Result<Option<Saved>> {
        let (state, unfinished) = (volume.join(STATE), volume.join(UNFINISHED));
        if from == StartFrom::Saved {
            let heir = match self.volatile.kept {
                Kept::Own => Heir::Itself,
                Kept::Anothers => Heir::Another,
                Kept::Nothing => {
                    return Err(Error::State(format!(
                        "instance \"{}\" has no existing state to restore; start it without",
                        self.name
                    )));
                }
            };
            blocking(move || saved::discard(&unfinished)).await?;
            return Ok(Some(Saved { directory: state, heir }));
        }
        self.give_up_state().await?;
        blocking(move || saved::discard(&unfinished).and_then(|()| saved::discard(&state))).await?;
        Ok(None)
    }

    /// From here on no start goes on from the saved state, which belongs to the content it was saved with.
    pub(super) async fn give_up_state(&mut self) -> Result<()> {
        if self.volatile.kept != Kept::Nothing {
            self.volatile.kept = Kept::Nothing;
            self.save_volatile().await?;
        }
        Ok(())
    }

    /// Removes a state that is of no use any more; what stays in spite of all is removed at the next start.
    pub(super) async fn forget(&self, state: PathBuf) {
        if let Err(error) = blocking(move || saved::discard(&state)).await {
            tracing::warn!(instance = %self.name, "{error}");
        }
    }

    /// Adds what to do about a start that failed while there is a saved state.
    pub(super) fn explain(&self, error: Error) -> Error {
        if self.volatile.kept == Kept::Nothing {
            return error;
        }
        Error::Runtime(format!(
            "{error}. The saved state of \"{0}\" is kept; to discard it and boot instead: start {0} --stateless",
            self.name
        ))
    }
}
