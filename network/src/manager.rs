//! The networks: listed, made, changed and removed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use berth_store::{Admission, Always, Store, step};
use rtnetlink::packet_route::link::InfoKind;
use tokio::sync::{Semaphore, SemaphorePermit, watch};

use crate::config::{self, BridgeSpec, Config, HWADDR};
use crate::document::{self, NetworkDoc, Settings, Stored};
use crate::error::NetworkError;
use crate::link::{Link, Links};
use crate::mac::MacAddr;
use crate::runtime::Runtime;
use crate::subnet::{Net, free_ipv4, free_ipv6};
use crate::{bridge, dnsmasq, files, firewall, nic};

/// The project that the first network belongs to.
const DEFAULT_PROJECT: &str = "default";

/// How many names are tried for the first network, and how many subnets for any.
const ATTEMPTS: usize = 16;

/// A network, managed or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its name, which is that of its link too.
    pub name: String,
    /// Kind of its link: `bridge`, `physical`, `vlan`, `bond` or `unknown`.
    pub kind: String,
    /// Whether it is one of ours.
    pub managed: bool,
    /// What the user says about it.
    pub description: String,
    /// Its configuration.
    pub config: Config,
    /// `Created`, or `Unavailable` when something keeps it from working; empty if it is not managed.
    pub status: String,
    /// Revision of its document; 0 if it is not managed.
    pub mod_rev: u64,
}

/// All networks of this host. Clones share everything.
#[derive(Clone)]
pub struct Networks {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) dir: PathBuf,
    pub(crate) links: Links,
    pub(crate) runtime: Runtime,
    default: Mutex<Option<String>>,
    /// One change of a network at a time: each is a sequence of steps on the host.
    turn: Semaphore,
}

impl Networks {
    /// Takes up the networks; `dir` is the daemon's directory.
    ///
    /// At the first start a default network is made. A network that cannot be brought up does not keep the others from
    /// working: its status and [`Networks::watch_warnings`] tell why.
    pub async fn open(store: Arc<dyn Store>, dir: PathBuf) -> Result<Networks, NetworkError> {
        let dir = dir.join("networks");
        let plain = dir.is_absolute() && dir.to_str().is_some_and(|text| !text.contains(['"', '\\', '\n', '#', ',']));
        if !plain {
            let unusable = std::io::Error::other("its path must be absolute, without quotes, backslashes, '#' and ','");
            return Err(NetworkError::path(dir)(unusable));
        }
        files::make_dir(&dir, 0o711).await?;
        let links = Links::connect().map_err(NetworkError::link("talk to the kernel's network configuration"))?;
        let inner = Inner {
            store,
            dir,
            links,
            runtime: Runtime::default(),
            default: Mutex::default(),
            turn: Semaphore::new(1),
        };
        let networks = Networks { inner: Arc::new(inner) };
        networks.take_up().await?;
        Ok(networks)
    }

    async fn take_up(&self) -> Result<(), NetworkError> {
        let inner = &self.inner;
        let all = document::all(&*inner.store).await?;
        for stored in &all {
            let up = match config::parse(&stored.name, &stored.doc.config) {
                Ok(spec) => inner.bring_up(&spec).await,
                Err(error) => Err(error),
            };
            if let Err(error) = up {
                inner.runtime.failed(&stored.name, error.to_string());
            }
        }
        match document::settings(&*inner.store).await? {
            Some(settings) => inner.set_default(settings.default),
            // An earlier first start came no further.
            None if !all.is_empty() => self.take_as_default(all[0].name.clone()).await?,
            None => self.first_start().await?,
        }
        Ok(())
    }

    /// Makes the default network, under the first name that no link has.
    async fn first_start(&self) -> Result<(), NetworkError> {
        for number in 0..ATTEMPTS {
            let name = format!("berthbr{number}");
            match self.create(DEFAULT_PROJECT, &name, "Default network", Config::new(), &Always).await {
                Ok(_) => return self.take_as_default(name).await,
                Err(NetworkError::LinkTaken(_) | NetworkError::Exists(_)) => {}
                Err(error) => {
                    // Instances work without a network, so the daemon does too; the next start tries again.
                    self.inner.runtime.failed(&name, error.to_string());
                    return Ok(());
                }
            }
        }
        self.inner.runtime.failed("berthbr0", "all names for the default network are taken".to_owned());
        Ok(())
    }

    async fn take_as_default(&self, name: String) -> Result<(), NetworkError> {
        let settings = Settings { default: Some(name) };
        document::set_settings(&*self.inner.store, &settings).await?;
        self.inner.set_default(settings.default);
        Ok(())
    }

    /// The network that new instances are put on.
    pub fn default_network(&self) -> Option<String> {
        self.inner.default.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What falls short with networks, by name: now and, for whoever waits, from now on.
    pub fn watch_warnings(&self) -> watch::Receiver<BTreeMap<String, String>> {
        self.inner.runtime.watch()
    }

    /// The managed networks of a project, and the host's other links.
    pub async fn list(&self, project: &str) -> Result<Vec<Network>, NetworkError> {
        let inner = &self.inner;
        let stored = document::all(&*inner.store).await?;
        let links = inner.links.list().await.map_err(NetworkError::link("list the network interfaces"))?;
        let managed = |link: &Link| stored.iter().any(|stored| stored.name == link.name);
        let others = links.iter().filter(|link| !managed(link)).filter_map(unmanaged).collect::<Vec<_>>();
        let own = stored.into_iter().filter(|stored| stored.project == project).map(|stored| inner.view(stored));
        let mut all: Vec<Network> = own.chain(others).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// The project of a managed network.
    pub async fn project_of(&self, name: &str) -> Result<Option<String>, NetworkError> {
        Ok(document::by_name(&*self.inner.store, name).await?.map(|stored| stored.project))
    }

    /// Names of the managed networks of a project.
    pub async fn names(&self, project: &str) -> Result<Vec<String>, NetworkError> {
        let stored = document::all(&*self.inner.store).await?.into_iter();
        Ok(stored.filter(|stored| stored.project == project).map(|stored| stored.name).collect())
    }

    /// One network, managed or not.
    pub async fn get(&self, project: &str, name: &str) -> Result<Network, NetworkError> {
        if let Some(stored) = document::get(&*self.inner.store, project, name).await? {
            return Ok(self.inner.view(stored));
        }
        let link = self.inner.links.find(name).await.map_err(NetworkError::link(format!("look up {name:?}")))?;
        link.as_ref().and_then(unmanaged).ok_or_else(|| NetworkError::NotFound(name.to_owned()))
    }

    /// Makes a network, if its project admits it. Addresses that are missing or `auto` are chosen, and then translated
    /// to the outside.
    pub async fn create(
        &self,
        project: &str,
        name: &str,
        description: &str,
        config: Config,
        admission: &dyn Admission,
    ) -> Result<Network, NetworkError> {
        let _turn = self.inner.turn().await;
        let inner = &self.inner;
        config::check_name(name)?;
        if document::by_name(&*inner.store, name).await?.is_some() {
            return Err(NetworkError::Exists(name.to_owned()));
        }
        let taken = inner.links.find(name).await.map_err(NetworkError::link(format!("look up {name:?}")))?;
        if taken.is_some() {
            return Err(NetworkError::LinkTaken(name.to_owned()));
        }
        let mut wish = config;
        for key in ["ipv4.address", "ipv6.address"] {
            wish.entry(key.to_owned()).or_insert_with(|| "auto".to_owned());
        }
        let hwaddr = MacAddr::random_local().to_string();
        wish.entry(HWADDR.to_owned()).or_insert(hwaddr);
        for _ in 0..ATTEMPTS {
            let (config, chosen) = inner.choose(name, &wish).await?;
            let spec = config::parse(name, &config)?;
            let network = NetworkDoc { description: description.to_owned(), config };
            let mod_rev = document::create(&*inner.store, project, name, &network, admission).await?;
            match inner.bring_up_new(&spec, chosen).await {
                Ok(true) => {
                    let (project, name) = (project.to_owned(), name.to_owned());
                    return Ok(inner.view(Stored { project, name, doc: network, mod_rev }));
                }
                Ok(false) => inner.remove(project, &spec).await?,
                Err(error) => {
                    if let Err(undo) = inner.remove(project, &spec).await {
                        tracing::warn!(network = name, %undo, "Cannot remove what there is of a network that failed");
                    }
                    return Err(error);
                }
            }
        }
        Err(NetworkError::NoSubnet { network: name.to_owned(), family: "IPv4 or IPv6", key: "ipv4.address" })
    }

    /// Changes a network. If the host refuses, it stays as it was.
    ///
    /// `if_match` is the revision that the caller has seen, if the change is meant for that one only.
    pub async fn update(
        &self,
        project: &str,
        name: &str,
        description: &str,
        config: Config,
        if_match: Option<u64>,
    ) -> Result<Network, NetworkError> {
        let _turn = self.inner.turn().await;
        let inner = &self.inner;
        let mut stored = inner.stored(project, name).await?;
        if if_match.is_some_and(|rev| rev != stored.mod_rev) {
            return Err(NetworkError::Contended(name.to_owned()));
        }
        let before = config::parse(name, &stored.doc.config);
        let mut wish = config;
        if let Some(hwaddr) = stored.doc.config.get(HWADDR) {
            wish.insert(HWADDR.to_owned(), hwaddr.clone());
        }
        let (config, _) = inner.choose(name, &wish).await?;
        let spec = config::parse(name, &config)?;
        if let Ok(before) = &before
            && before.hwaddr != spec.hwaddr
        {
            let reason = "it cannot be changed: make a new network".to_owned();
            let value = spec.hwaddr.map(|mac| mac.to_string()).unwrap_or_default();
            return Err(NetworkError::BadValue {
                network: name.to_owned(),
                key: "bridge.hwaddr".to_owned(),
                value,
                reason,
            });
        }
        let network = NetworkDoc { description: description.to_owned(), config };
        let former = std::mem::replace(&mut stored.doc, network.clone());
        stored.mod_rev = document::replace(&*inner.store, &stored, &network).await?;
        if let Err(error) = inner.bring_up(&spec).await {
            document::replace(&*inner.store, &stored, &former).await?;
            let back = match &before {
                Ok(before) => inner.bring_up(before).await.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            if let Err(reason) = back {
                inner.runtime.failed(name, reason);
            }
            return Err(error);
        }
        Ok(inner.view(stored))
    }

    /// Removes a network and everything on the host that belongs to it. The caller has seen to it that nobody uses it.
    pub async fn delete(&self, project: &str, name: &str) -> Result<(), NetworkError> {
        let _turn = self.inner.turn().await;
        let stored = self.inner.stored(project, name).await?;
        let hwaddr = stored.doc.config.get("bridge.hwaddr").or_else(|| stored.doc.config.get(HWADDR));
        let mac = hwaddr.and_then(|mac| mac.parse().ok());
        self.inner.tear_down(name, mac).await?;
        let without_default = (self.default_network().as_deref() == Some(name)).then_some(Settings { default: None });
        document::delete(&*self.inner.store, project, name, without_default.as_ref()).await?;
        if let Some(Settings { default }) = without_default {
            self.inner.set_default(default);
        }
        Ok(())
    }

    /// Ends the service of this process; all networks go on.
    pub fn shutdown(&self) {
        self.inner.runtime.unwatch_all();
    }
}

impl Inner {
    async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // An error would mean that the semaphore is closed, which never happens.
        self.turn.acquire().await.ok()
    }

    /// The directory of a network.
    pub(crate) fn dir_of(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn set_default(&self, name: Option<String>) {
        *self.default.lock().unwrap_or_else(PoisonError::into_inner) = name;
    }

    async fn stored(&self, project: &str, name: &str) -> Result<Stored, NetworkError> {
        document::get(&*self.store, project, name).await?.ok_or_else(|| NetworkError::NotFound(name.to_owned()))
    }

    fn view(&self, stored: Stored) -> Network {
        let status = if self.runtime.failure(&stored.name).is_some() { "Unavailable" } else { "Created" };
        Network {
            name: stored.name,
            kind: "bridge".to_owned(),
            managed: true,
            description: stored.doc.description,
            config: stored.doc.config,
            status: status.to_owned(),
            mod_rev: stored.mod_rev,
        }
    }

    /// Puts addresses in the place of `auto`; tells whether there were any to choose.
    async fn choose(&self, name: &str, wish: &Config) -> Result<(Config, bool), NetworkError> {
        let mut config = wish.clone();
        let mut chosen = false;
        for (family, key, nat) in [("IPv4", "ipv4.address", "ipv4.nat"), ("IPv6", "ipv6.address", "ipv6.nat")] {
            if config.get(key).is_some_and(|value| value == "auto") {
                let taken = self.taken(name).await?;
                let net = if family == "IPv4" { free_ipv4(&taken) } else { free_ipv6(&taken) };
                let net = net.ok_or_else(|| NetworkError::NoSubnet { network: name.to_owned(), family, key })?;
                config.insert(key.to_owned(), net.to_string());
                config.entry(nat.to_owned()).or_insert_with(|| "true".to_owned());
                chosen = true;
            }
        }
        Ok((config, chosen))
    }

    /// Subnets that a new one must keep off: where the host has a way to, and those of the other networks.
    async fn taken(&self, name: &str) -> Result<Vec<Net>, NetworkError> {
        let routes = self.links.routes().await.map_err(NetworkError::link("read the routes"))?;
        let mut taken: Vec<Net> = routes.into_iter().map(|(net, _)| net).collect();
        for stored in document::all(&*self.store).await?.into_iter().filter(|stored| stored.name != name) {
            let values = ["ipv4.address", "ipv6.address"].map(|key| stored.doc.config.get(key).cloned());
            taken.extend(values.into_iter().flatten().filter_map(|value| value.parse::<Net>().ok()));
        }
        Ok(taken)
    }

    /// Brings a new network up; `false` if somebody else got its chosen subnet first.
    async fn bring_up_new(&self, spec: &BridgeSpec, chosen: bool) -> Result<bool, NetworkError> {
        let laid = bridge::lay(&self.links, spec).await?;
        if chosen && bridge::clashes(&self.links, spec, laid.index).await? {
            return Ok(false);
        }
        self.serve(spec, laid).await?;
        Ok(true)
    }

    /// Sees to it that everything of a network is there; what is right is not touched.
    pub(crate) async fn bring_up(&self, spec: &BridgeSpec) -> Result<(), NetworkError> {
        let laid = bridge::lay(&self.links, spec).await?;
        self.serve(spec, laid).await
    }

    /// Like [`Inner::bring_up`], in turn with other changes.
    pub(crate) async fn bring_up_again(&self, spec: &BridgeSpec) -> Result<(), NetworkError> {
        let _turn = self.turn().await;
        self.bring_up(spec).await
    }

    async fn serve(&self, spec: &BridgeSpec, laid: bridge::Laid) -> Result<(), NetworkError> {
        let dir = self.dir_of(&spec.name);
        files::make_dir(&dir, 0o711).await?;
        let mut warnings = laid.warnings;
        if laid.made {
            nic::rejoin(&self.links, &dir, laid.index).await?;
        }
        step::done("bridge laid");
        firewall::apply(spec, &dir).await?;
        step::done("firewall set");
        self.runtime.unwatch(&spec.name);
        let process = if dnsmasq::wanted(spec) {
            let (process, more) = dnsmasq::ensure(spec, &dir).await?;
            step::done("dnsmasq serves");
            warnings.extend(more);
            Some(process)
        } else {
            dnsmasq::stop(&dir).await?;
            None
        };
        self.runtime.up(spec, dir, process, warnings);
        Ok(())
    }

    /// Undoes a creation.
    async fn remove(&self, project: &str, spec: &BridgeSpec) -> Result<(), NetworkError> {
        self.tear_down(&spec.name, spec.hwaddr).await?;
        document::delete(&*self.store, project, &spec.name, None).await
    }

    /// Removes everything of a network from the host. Each step may find that there is nothing to do.
    async fn tear_down(&self, name: &str, mac: Option<MacAddr>) -> Result<(), NetworkError> {
        let dir = self.dir_of(name);
        self.runtime.unwatch(name);
        dnsmasq::stop(&dir).await?;
        step::done("dnsmasq stopped");
        firewall::remove(name, &dir).await?;
        step::done("firewall removed");
        bridge::remove(&self.links, name, mac).await?;
        step::done("bridge removed");
        match tokio::fs::remove_dir_all(&dir).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(NetworkError::path(dir)(error)),
            _ => step::done("directory of a network removed"),
        }
        self.runtime.forget(name);
        Ok(())
    }
}

fn unmanaged(link: &Link) -> Option<Network> {
    // The ends of instances' cards are no networks.
    if link.loopback || nic::is_port_name(&link.name) || link.kind == Some(InfoKind::Veth) {
        return None;
    }
    let kind = match &link.kind {
        Some(InfoKind::Bridge) => "bridge",
        Some(InfoKind::Vlan) => "vlan",
        Some(InfoKind::Bond) => "bond",
        None if link.ethernet => "physical",
        _ => "unknown",
    };
    Some(Network {
        name: link.name.clone(),
        kind: kind.to_owned(),
        managed: false,
        description: String::new(),
        config: Config::new(),
        status: String::new(),
        mod_rev: 0,
    })
}
