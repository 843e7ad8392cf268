//! Letting others read the volume of an instance or a snapshot, which stays as it is meanwhile.

use std::path::{Path, PathBuf};

use tokio::sync::oneshot;

use super::actor::Actor;
use super::snapshots::Work;
use super::{Answer, Instances};
use crate::drivers::vm::ROOT_DISK;
use crate::error::{Error, Result};
use crate::model::Kind;

/// A volume that nobody changes until this is dropped. Its instance obeys nobody so long.
#[derive(Debug)]
pub struct Loan {
    volume: PathBuf,
    kind: Kind,
    /// Its end tells the owner.
    _returned: oneshot::Sender<()>,
}

impl Loan {
    /// Directory of the volume.
    pub fn volume(&self) -> &Path {
        &self.volume
    }

    /// The raw disk in it, of a virtual machine.
    pub fn disk(&self) -> Option<PathBuf> {
        (self.kind == Kind::VirtualMachine).then(|| self.volume.join(ROOT_DISK))
    }
}

impl Instances {
    /// Lends the volume of a stopped instance, or of a snapshot.
    pub async fn lend(&self, project: &str, name: &str, snapshot: Option<String>) -> Result<Loan> {
        self.work(project, name, |answer| Work::Lend { snapshot, answer }).await
    }
}

impl Actor {
    pub(super) async fn lend(&mut self, snapshot: Option<&str>, answer: Answer<Loan>) {
        let (returned, end) = oneshot::channel();
        let loan = self.lendable(snapshot).await;
        let loan = loan.map(|volume| Loan { volume, kind: self.document.kind, _returned: returned });
        // Whoever asked may have gone away; then it is given back at once.
        drop(answer.send(loan));
        let _ = end.await;
    }

    async fn lendable(&self, snapshot: Option<&str>) -> Result<PathBuf> {
        if snapshot.is_none() && self.live.is_some() {
            return Err(Error::State(format!(
                "instance \"{}\" is running and cannot be read as a whole; stop it first, or use a snapshot of it",
                self.name
            )));
        }
        self.path_of(&self.source(snapshot)?).await
    }
}
