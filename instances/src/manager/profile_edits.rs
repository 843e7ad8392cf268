//! Changes of profiles, which the instances that use them follow.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{Command, Instances};
use crate::error::{Error, Result};
use crate::expand::expand;
use crate::model::{Config, Devices, Instance};
use crate::projects::Feature;

impl Instances {
    /// Makes a profile.
    pub async fn create_profile(
        &self,
        project: &str,
        name: &str,
        description: String,
        config: Config,
        devices: Devices,
    ) -> Result<()> {
        self.shared.profiles.create(project, name, description, config, devices).await
    }

    /// Changes a profile. It is refused if an instance that uses it could not have the outcome as its configuration. Those
    /// that run follow at once; an error tells which could not, and those are as before.
    pub async fn update_profile(
        &self,
        project: &str,
        name: &str,
        description: String,
        config: Config,
        devices: Devices,
        revision: u64,
    ) -> Result<()> {
        let users = self.users_of_profile(project, name).await?;
        for instance in &users {
            self.check_user(instance, name, &config, &devices).await.map_err(|e| {
                Error::Invalid(format!(
                    "profile \"{name}\" cannot be changed so, for instance \"{}\" of project \"{}\" uses it: {e}",
                    instance.name, instance.project
                ))
            })?;
        }
        self.shared.profiles.update(project, name, description, config, devices, revision).await?;
        let mut failures = Vec::new();
        for instance in users {
            if let Err(e) = self.refresh(&instance).await {
                failures.push(format!("instance \"{}\" of project \"{}\": {e}", instance.name, instance.project));
            }
        }
        if failures.is_empty() {
            return Ok(());
        }
        Err(Error::Runtime(format!(
            "profile \"{name}\" is changed, but some running instances could not follow and will at their next start: {}",
            failures.join("; ")
        )))
    }

    async fn users_of_profile(&self, project: &str, name: &str) -> Result<Vec<Arc<Instance>>> {
        let owner = self.shared.projects.owner(project, Feature::Profiles).await?;
        let mut users = Vec::new();
        for instance in self.list(None).into_iter().filter(|i| i.profiles.iter().any(|p| p == name)) {
            if self.shared.projects.owner(&instance.project, Feature::Profiles).await? == owner {
                users.push(instance);
            }
        }
        Ok(users)
    }

    /// Whether `instance` can be what it would be with `name` changed.
    async fn check_user(&self, instance: &Instance, name: &str, config: &Config, devices: &Devices) -> Result<()> {
        let known = self.shared.profiles.by_name(&instance.project).await?;
        let chosen = instance.profiles.iter().filter_map(|used| {
            if used == name { Some((config, devices)) } else { known.get(used).map(|p| (&p.config, &p.devices)) }
        });
        let (config, devices) = expand(chosen, &instance.config, &instance.devices);
        let pool = self.shared.check_expanded(&instance.project, instance.kind, &config, &devices).await?;
        if pool == instance.pool {
            return Ok(());
        }
        Err(Error::Invalid(format!(
            "it lives in pool \"{}\" and cannot be moved to \"{pool}\" by an edit",
            instance.pool
        )))
    }

    async fn refresh(&self, instance: &Instance) -> Result<()> {
        let Ok(handle) = self.handle(&instance.project, &instance.name) else { return Ok(()) };
        let (answer, result) = oneshot::channel();
        // An instance that is deleted meanwhile needs no refreshing; one that waits for its guest to stop answers
        // at once.
        if handle.commands.send(Command::Refresh(answer)).await.is_err() {
            return Ok(());
        }
        result.await.unwrap_or(Ok(()))
    }

    /// Renames a profile that no instance uses.
    pub async fn rename_profile(&self, project: &str, name: &str, new_name: &str) -> Result<()> {
        self.shared.profiles.rename(project, name, new_name).await
    }

    /// Deletes a profile that no instance uses.
    pub async fn delete_profile(&self, project: &str, name: &str) -> Result<()> {
        self.shared.profiles.delete(project, name).await
    }
}
