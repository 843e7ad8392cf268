//! Who uses what: computed from the lists of instances and profiles when it is asked for.

use std::{collections::BTreeMap, sync::Arc};

use berth_instances::{
    Devices, Instance,
    profiles::Profile,
    projects::{DEFAULT, Feature, Project},
};

use crate::{
    app::App,
    http::{
        ApiResult,
        query::{encode_path, url},
    },
};

/// What may use other objects, read once for a whole list.
pub struct Users {
    instances: Vec<Arc<Instance>>,
    /// Profiles with the project that holds them.
    profiles: Vec<(String, Profile)>,
    projects: BTreeMap<String, Project>,
}

impl Users {
    /// Reads what there is.
    pub async fn read(app: &App) -> ApiResult<Self> {
        let projects: BTreeMap<_, _> =
            app.instances.projects().list().await?.into_iter().map(|p| (p.name.clone(), p)).collect();
        let mut users = Self { instances: app.instances.list(None), profiles: Vec::new(), projects };
        for project in users.projects.keys() {
            // A project without profiles of its own shows those of the default project.
            if users.owner(project, Feature::Profiles) == project {
                let profiles = app.instances.profiles().list(project).await?;
                users.profiles.extend(profiles.into_iter().map(|profile| (project.clone(), profile)));
            }
        }
        Ok(users)
    }

    fn owner<'a>(&self, project: &'a str, feature: Feature) -> &'a str {
        let own = self.projects.get(project).is_some_and(|p| p.has(feature));
        if own { project } else { DEFAULT }
    }

    /// Users of a profile of the project that holds it.
    pub fn of_profile(&self, owner: &str, name: &str) -> Vec<String> {
        let reached = self.instances.iter().filter(|i| self.owner(&i.project, Feature::Profiles) == owner);
        let has = |profiles: &[String]| profiles.iter().any(|p| p == name);
        reached
            .flat_map(|i| {
                let own = has(&i.profiles).then(|| instance_url(i));
                let snapshots = i.snapshots.iter().filter(|snapshot| has(&snapshot.profiles));
                own.into_iter().chain(snapshots.map(|snapshot| snapshot_url(i, &snapshot.name)))
            })
            .collect()
    }

    /// Users of a network of the project that holds it (`None`: of a link of the host).
    pub fn of_network(&self, owner: Option<&str>, name: &str) -> Vec<String> {
        let uses = |devices: &Devices| {
            devices.values().any(|d| is(d, "type", "nic") && (is(d, "network", name) || is(d, "parent", name)))
        };
        let reaches = |project: &str| owner.is_none_or(|owner| self.owner(project, Feature::Networks) == owner);
        self.users(
            |instance| reaches(&instance.project) && uses(&instance.expanded_devices),
            |project, profile| reaches(project) && uses(&profile.devices),
        )
    }

    /// Users of a storage pool.
    pub fn of_pool(&self, name: &str) -> Vec<String> {
        let uses = |devices: &Devices| devices.values().any(|d| is(d, "type", "disk") && is(d, "pool", name));
        self.users(
            |instance| {
                instance.pool == name
                    || instance.snapshots.iter().any(|snapshot| snapshot.pool == name)
                    || uses(&instance.expanded_devices)
            },
            |_, profile| uses(&profile.devices),
        )
    }

    fn users(&self, instance: impl Fn(&Instance) -> bool, profile: impl Fn(&str, &Profile) -> bool) -> Vec<String> {
        let instances = self.instances.iter().filter(|i| instance(i)).map(|i| instance_url(i));
        let profiles = self.profiles.iter().filter(|(project, p)| profile(project, p));
        instances.chain(profiles.map(|(project, p)| url("/1.0/profiles", &p.name, project))).collect()
    }
}

fn is(device: &BTreeMap<String, String>, key: &str, value: &str) -> bool {
    device.get(key).is_some_and(|v| v == value)
}

fn instance_url(instance: &Instance) -> String {
    url("/1.0/instances", &instance.name, &instance.project)
}

fn snapshot_url(instance: &Instance, snapshot: &str) -> String {
    let base = format!("/1.0/instances/{}/snapshots", encode_path(&instance.name));
    url(&base, snapshot, &instance.project)
}
