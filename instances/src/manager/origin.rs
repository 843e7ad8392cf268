//! What an instance keeps of the image it was made from.

use berth_images::Origin;
use tokio::sync::oneshot;

use super::actor::Actor;
use super::volumes::Volume;
use super::{Command, Instances};
use crate::error::{Error, Result};

/// What is done with it, on a thread that may wait.
pub(super) type OriginWork = Box<dyn FnOnce(Result<Origin>) + Send>;

impl Instances {
    /// Does `work` with what the instance keeps of its image. Nobody else changes that meanwhile.
    pub async fn with_origin<T: Send + 'static>(
        &self,
        project: &str,
        name: &str,
        work: impl FnOnce(&Origin) -> T + Send + 'static,
    ) -> Result<T> {
        let (answer, result) = oneshot::channel();
        // Whoever asked may have gone away.
        let work: OriginWork = Box::new(move |origin| drop(answer.send(origin.map(|origin| work(&origin)))));
        let gone = || super::not_found(project, name);
        self.handle(project, name)?.commands.send(Command::Origin(work)).await.map_err(|_| gone())?;
        result.await.map_err(|_| gone())?
    }
}

impl Actor {
    pub(super) async fn work_on_origin(&self, work: OriginWork) {
        let path = self.path_of(&Volume::of(&self.document)).await;
        let done = tokio::task::spawn_blocking(move || {
            work(path.and_then(|path| Origin::open(&path).map_err(Error::from)));
        });
        if let Err(e) = done.await {
            tracing::warn!(instance = %self.name, "work on its image's metadata failed: {e}");
        }
    }
}
