//! Changing an instance, whether it runs or not.

use std::collections::BTreeMap;
use std::path::PathBuf;

use berth_storage::VolumeKind;
use berth_store::Always;

use super::actor::Actor;
use crate::devices;
use crate::documents::InstanceDoc;
use crate::drivers::supervised;
use crate::error::{Error, Result};
use crate::keys;
use crate::model::{Config, Devices, Instance, Kind, Update};
use crate::nics::{self, Nics, host_name_key};
use crate::plan;
use crate::projects::Change;

impl Actor {
    /// Changes document and, if it runs, the instance: both or neither.
    pub(super) async fn update(&mut self, update: Update, revision: Option<u64>) -> Result<()> {
        if revision.is_some_and(|revision| revision != self.revision) {
            return Err(Error::Changed { what: "Instance", name: self.name.clone() });
        }
        let kind = self.document.kind;
        let mut config = update.config;
        config.retain(|key, _| !key.starts_with("volatile."));
        check(&config, &update.devices, Some(kind))?;
        let expanded = self.shared.expanded(&self.project, &update.profiles, &config, &update.devices);
        let (expanded_config, expanded_devices) = expanded.await?;
        self.check_expanded(&expanded_config, &expanded_devices).await?;
        let before = self.view.borrow().clone();
        self.check_growth(&before.expanded_devices, &expanded_devices)?;
        let after = Instance { expanded_config, expanded_devices, ..(*before).clone() };
        let document = InstanceDoc {
            config,
            devices: update.devices,
            profiles: update.profiles,
            description: update.description,
            ephemeral: update.ephemeral,
            ..self.document.clone()
        };
        let old = self.document.clone();
        let (shared, project, name) = (self.shared.clone(), self.project.clone(), self.name.clone());
        let (config, devices) = (&after.expanded_config, &after.expanded_devices);
        let admission = shared.projects.admission(&project, Change::Instance { name: &name, kind, config, devices });
        // First, for the project may forbid what would be done to the instance.
        self.replace(document, self.revision, &admission).await?;
        if let Err(e) = self.change_live(&before, &after).await {
            if let Err(again) = self.replace(old, self.revision, &Always).await {
                self.leftover(format!("a change that failed stays in its configuration: {again}"));
            }
            // The document has another revision now.
            self.show();
            return Err(e);
        }
        self.publish().await?;
        self.emit("instance-updated");
        Ok(())
    }

    /// Follows its profiles, of which one was changed. What the instance is to be is shown in any case; an error tells why
    /// it goes on as it was.
    pub(super) async fn refresh(&mut self) -> Result<()> {
        let before = self.view.borrow().clone();
        self.publish().await?;
        if self.live.is_none() {
            return Ok(());
        }
        let after = self.view.borrow().clone();
        // The profile's change was not checked against this instance.
        self.check_growth(&before.expanded_devices, &after.expanded_devices)?;
        let followed = self.change_live(&before, &after).await;
        // With the links that it has now.
        self.show();
        followed
    }

    async fn check_expanded(&self, config: &Config, devices: &Devices) -> Result<()> {
        let kind = self.document.kind;
        let pool = self.shared.check_expanded(&self.project, kind, config, devices).await?;
        if pool != self.document.pool {
            return Err(Error::Invalid(format!(
                "instance \"{}\" lives in pool \"{}\" and cannot be moved to \"{pool}\" by an edit",
                self.name, self.document.pool
            )));
        }
        Ok(())
    }

    /// A disk only grows: what its guest keeps at the end would be lost.
    fn check_growth(&self, before: &Devices, after: &Devices) -> Result<()> {
        let kind = self.document.kind;
        // A container's root has no end.
        if kind == Kind::Container {
            return Ok(());
        }
        let size = |devices| plan::root_disk(devices, kind).map(|(_, size)| size).map_err(Error::Invalid);
        // Should there have been no root disk, it is none that becomes smaller.
        let (before, after) = (size(before).unwrap_or(0), size(after)?);
        if after < before {
            return Err(Error::Invalid(format!(
                "the root disk of \"{}\" has {before} bytes and cannot shrink to {after}: its guest would lose what is \
                 at its end; give it at least its present size",
                self.name
            )));
        }
        Ok(())
    }

    /// Brings the instance from what it is `before` to what it is `after`: all or nothing.
    async fn change_live(&mut self, before: &Instance, after: &Instance) -> Result<()> {
        let limit = |instance: &Instance| plan::root_limit(&instance.expanded_devices, instance.kind);
        // What has no root disk has no limit.
        if limit(before).unwrap_or(None) == limit(after).map_err(Error::Invalid)? {
            return self.change_running(before, after).await;
        }
        self.shared.limit_volume(&self.document, &after.expanded_devices).await?;
        let changed = self.change_running(before, after).await;
        if changed.is_err()
            && let Err(again) = self.shared.limit_volume(&self.document, &before.expanded_devices).await
        {
            self.leftover(format!("the size of its root disk is not as it was: {again}"));
        }
        changed
    }

    /// The same of what runs, if it runs.
    async fn change_running(&mut self, before: &Instance, after: &Instance) -> Result<()> {
        if self.live.is_none() {
            return Ok(());
        }
        let live = || plan::changes_live(&before.expanded_devices, &after.expanded_devices).map_err(Error::Invalid);
        if before.kind == Kind::VirtualMachine && !live()? {
            return Err(Error::State(format!(
                "only the size of the root disk and limits of devices can be changed while the virtual machine \"{}\" \
                 runs; stop it first",
                self.name
            )));
        }
        self.volatile.values.extend(nics::invent_addresses(after)?);
        let after = self.as_it_is(after);
        let plan = self.plan(&after).await?;
        self.driver().change(&plan).await?;
        if after.kind == Kind::Container
            && let Err(e) = self.change_nics(before, &after).await
        {
            let undone = match self.plan(before).await {
                Ok(plan) => self.driver().change(&plan).await,
                Err(e) => Err(e),
            };
            if let Err(again) = undone {
                self.leftover(format!("a change that failed could not be undone: {again}"));
            }
            return Err(e);
        }
        Ok(())
    }

    async fn change_nics(&mut self, before: &Instance, after: &Instance) -> Result<()> {
        let shared = self.shared.clone();
        let mut added = Nics::added(&shared.networks, before, after)?;
        let gone = nics::detach_gone(&shared.networks, before, after).await?;
        for device in &gone {
            self.volatile.values.remove(&host_name_key(device));
        }
        let mut changed = self.attach(&mut added).await;
        if changed.is_ok() {
            changed = nics::limit(&shared.networks, &self.as_it_is(after)).await;
        }
        if changed.is_err() {
            let undone = async {
                for device in nics::detach_gone(&shared.networks, &self.as_it_is(after), before).await? {
                    self.volatile.values.remove(&host_name_key(&device));
                }
                self.attach(&mut Nics::added(&shared.networks, &self.as_it_is(after), before)?).await?;
                nics::limit(&shared.networks, &self.as_it_is(before)).await
            };
            if let Err(again) = undone.await {
                self.leftover(format!("its network interfaces are not as they were: {again}"));
            }
        }
        if !(gone.is_empty() && added.is_empty()) {
            self.save_volatile().await?;
        }
        changed
    }

    /// `instance` with what is known of it now.
    fn as_it_is(&self, instance: &Instance) -> Instance {
        Instance { volatile: self.volatile.values.clone(), ..instance.clone() }
    }

    async fn attach(&mut self, nics: &mut Nics<'_>) -> Result<()> {
        if nics.is_empty() {
            return Ok(());
        }
        let result = match supervised::network(&self.places().run_dir).await {
            Ok(network) => nics.attach_container(&network).await,
            Err(e) => Err(e),
        };
        for (device, host_name) in nics.host_names() {
            self.volatile.values.insert(host_name_key(device), host_name.clone());
        }
        result
    }
}

impl super::Shared {
    /// Whether an instance of `kind` can have this configuration, all its profiles applied; returns the pool of its root
    /// disk.
    pub(super) async fn check_expanded(
        &self,
        project: &str,
        kind: Kind,
        config: &Config,
        devices: &Devices,
    ) -> Result<String> {
        check(config, devices, Some(kind))?;
        let (pool, _) = plan::root_disk(devices, kind).map_err(Error::Invalid)?;
        self.check_references(project, &pool, devices, kind).await?;
        Ok(pool)
    }
}

impl super::Shared {
    /// Where the volumes lie that disks of an instance want, by device.
    pub(super) async fn volume_paths(&self, project: &str, instance: &Instance) -> Result<BTreeMap<String, PathBuf>> {
        let mut paths = BTreeMap::new();
        for (device, pool, name) in plan::volumes(&instance.expanded_devices, instance.kind).map_err(Error::Invalid)? {
            let path = self.pools.path(&pool, VolumeKind::Custom, &format!("{project}_{name}")).await?;
            paths.insert(device, path);
        }
        Ok(paths)
    }
}

fn check(config: &Config, devices: &Devices, kind: Option<Kind>) -> Result<()> {
    keys::validate(config, kind).map_err(Error::Invalid)?;
    devices::parse_all(devices, kind).map_err(Error::Invalid).map(drop)
}
