//! Giving an instance a new content, of an image or none: what it is, and its snapshots, stay.

use std::sync::Arc;

use berth_images::Progress;
use berth_store::Txn;

use super::Instances;
use super::actor::Actor;
use super::create::Content;
use super::snapshots::Work;
use super::volumes::Volume;
use crate::error::{Error, Result};
use crate::model::Source;
use crate::plan;
use crate::templates::Trigger;

/// Volatile key that names the image that an instance was made from.
pub(super) const BASE_IMAGE: &str = "volatile.base_image";
/// Beginning of the keys that tell of the image.
const IMAGE_KEYS: &str = "image.";

impl Instances {
    /// Makes a stopped instance anew of an image, or empty. Its configuration stays, but for what it says of the image.
    pub async fn rebuild(&self, project: &str, name: &str, source: Source, progress: &Arc<Progress>) -> Result<()> {
        let progress = progress.clone();
        self.work(project, name, |answer| Work::Rebuild { source, progress, answer }).await
    }
}

impl Actor {
    pub(super) async fn rebuild(
        &mut self,
        source: Source,
        progress: &Arc<Progress>,
        given_up: impl Future<Output = ()>,
    ) -> Result<()> {
        self.refuse_if_running("rebuilt")?;
        let kind = self.document.kind;
        let (content, properties, _) = self.shared.source(&self.project, kind, source).await?;
        let image = match content {
            Content::Image(owner, fingerprint) => Some((owner, fingerprint)),
            Content::Nothing => None,
            Content::Warm(..) | Content::Copy(_) | Content::Backup(_) => {
                return Err(Error::Invalid(format!(
                    "instance \"{}\" can be rebuilt from an image or as an empty one only",
                    self.name
                )));
            }
        };
        let devices = self.view.borrow().expanded_devices.clone();
        let (_, disk_size) = plan::root_disk(&devices, kind).map_err(Error::Invalid)?;
        let to = Volume::of(&self.document).fresh(&self.document.pool);
        self.shared.store.txn(Txn::new().write(to.waste(None))).await?;
        let from = image.as_ref().map(|(owner, fingerprint)| (owner.as_str(), fingerprint.as_str()));
        let filled = tokio::select! {
            filled = self.shared.provision(&to, disk_size, from, progress) => filled,
            () = given_up => Err(Error::State("the work was given up".to_owned())),
        };
        let done = match filled {
            Ok(()) => {
                let mut document = self.document.clone();
                document.config.retain(|key, _| !key.starts_with(IMAGE_KEYS));
                document
                    .config
                    .extend(properties.into_iter().map(|(key, value)| (format!("{IMAGE_KEYS}{key}"), value)));
                let mut volatile = self.with_other_content();
                match image {
                    Some((_, fingerprint)) => volatile.values.insert(BASE_IMAGE.to_owned(), fingerprint),
                    None => volatile.values.remove(BASE_IMAGE),
                };
                Trigger::Create.defer_only(kind, &mut volatile.values);
                self.switch(to.clone(), document, volatile).await
            }
            Err(e) => Err(e),
        };
        if done.is_err() {
            self.shared.dispose_or_later(&to).await;
            return done;
        }
        self.publish().await?;
        self.emit("instance-updated");
        Ok(())
    }
}
