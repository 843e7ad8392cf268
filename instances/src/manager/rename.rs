//! Another name, and another project.

use berth_store::{Admission, Always, Outcome, Txn, admitted, doc};

use super::actor::Actor;
use super::snapshots::Work;
use super::{Command, Instances};
use crate::documents::{instance_key, volatile_key};
use crate::error::{Error, Result};
use crate::model::{Config, Devices, MoveRequest};
use crate::names;
use crate::plan;
use crate::projects::Change;
use crate::templates::Trigger;

impl Instances {
    /// Gives a stopped instance another name, project or pool. Cut off in the middle, it may have one of the new things
    /// and not yet the other.
    pub async fn relocate(
        &self,
        project: &str,
        name: &str,
        request: MoveRequest,
        progress: &std::sync::Arc<berth_images::Progress>,
    ) -> Result<()> {
        if let Some(pool) = request.pool {
            if request.instance_only {
                for snapshot in self.get(project, name)?.snapshots.iter() {
                    self.delete_snapshot(project, name, &snapshot.name).await?;
                }
            }
            let progress = progress.clone();
            self.work(project, name, |answer| Work::Move { pool, progress, answer }).await?;
        }
        let (new_project, new_name) =
            (request.project.unwrap_or_else(|| project.to_owned()), request.name.unwrap_or_else(|| name.to_owned()));
        if (new_project.as_str(), new_name.as_str()) == (project, name) {
            return Ok(());
        }
        let (to, called) = (new_project, new_name);
        self.command(project, name, |answer| Command::Rename { project: to, name: called, answer }).await
    }
}

impl Actor {
    pub(super) async fn rename(&mut self, project: String, name: String) -> Result<()> {
        names::check(&name).map_err(Error::Invalid)?;
        self.refuse_if_running(if project == self.project { "renamed" } else { "moved" })?;
        let (config, devices) = self.in_project(&project).await?;
        let change = Change::Instance { name: &name, kind: self.document.kind, config: &config, devices: &devices };
        let admission = self.shared.projects.admission(&project, change);
        let (old, new) = (instance_key(&self.project, &self.name), instance_key(&project, &name));
        let mut volatile = self.volatile.clone();
        if name != self.name {
            Trigger::Rename.defer(self.document.kind, &mut volatile.values);
        }
        let txn = Txn::new()
            .write(doc::put(volatile_key(self.document.uuid), &volatile))
            .mod_rev(old.clone(), self.revision)
            .absent(new.clone())
            .delete(old)
            .write(doc::put(new, &self.document));
        // Under another name it takes nothing more of its own project.
        let admission: &dyn Admission = if project == self.project { &Always } else { &admission };
        let Outcome::Committed { rev } = admitted(&*self.shared.store, &txn, admission, 0).await? else {
            return Err(Error::Exists { what: "Instance", name, project });
        };
        self.revision = rev;
        self.volatile = volatile;
        let old_name = std::mem::replace(&mut self.name, name);
        let old_project = std::mem::replace(&mut self.project, project);
        {
            let mut registry = self.shared.registry();
            if let Some(handle) = registry.remove(&(old_project.clone(), old_name.clone())) {
                registry.insert((self.project.clone(), self.name.clone()), handle);
            }
        }
        self.publish().await?;
        let context = [("old_name", old_name.as_str()), ("old_project", old_project.as_str())];
        let known = if old_project == self.project { &context[..1] } else { &context[..] };
        self.emit_about("instance-renamed", known);
        Ok(())
    }

    /// What the instance is in a project, with the profiles and networks that there are.
    async fn in_project(&self, project: &str) -> Result<(Config, Devices)> {
        self.shared.projects.get(project).await?;
        let document = &self.document;
        let expanded = self.shared.expanded(project, &document.profiles, &document.config, &document.devices);
        let (config, devices) = expanded.await?;
        let (pool, _) = plan::root_disk(&devices, document.kind).map_err(Error::Invalid)?;
        self.shared.check_references(project, &pool, &devices, document.kind).await?;
        Ok((config, devices))
    }
}
