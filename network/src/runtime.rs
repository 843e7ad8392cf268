//! What is known of networks only while the daemon runs: whether they work, and who watches their dnsmasq.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::BridgeSpec;
use crate::dnsmasq::{self, Process};

/// A dnsmasq that ends sooner than this after its start is not started again: it would only end again.
const TOO_SOON: Duration = Duration::from_secs(10);

/// What falls short, by the name of the network.
pub(crate) type Shortcomings = BTreeMap<String, String>;

/// The state of all networks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Runtime {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    networks: Mutex<BTreeMap<String, State>>,
    told: watch::Sender<Shortcomings>,
}

impl Shared {
    /// Changes the state and tells what falls short then.
    fn change<T>(&self, change: impl FnOnce(&mut BTreeMap<String, State>) -> T) -> T {
        let mut networks = self.networks.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut networks);
        let texts = |state: &State| state.failure.iter().chain(&state.warnings).cloned().collect::<Vec<_>>().join("; ");
        let now: Shortcomings = networks.iter().map(|(name, state)| (name.clone(), texts(state))).collect();
        let now = now.into_iter().filter(|(_, text)| !text.is_empty()).collect();
        self.told.send_if_modified(|told| {
            let changed = *told != now;
            *told = now;
            changed
        });
        result
    }
}

#[derive(Debug, Default)]
struct State {
    warnings: Vec<String>,
    failure: Option<String>,
    watcher: Option<Watcher>,
}

/// Ends its task when it goes; dnsmasq itself stays.
#[derive(Debug)]
struct Watcher(JoinHandle<()>);

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Runtime {
    /// The network works; its dnsmasq is started again should it end.
    pub(crate) fn up(&self, spec: &BridgeSpec, dir: PathBuf, process: Option<Process>, warnings: Vec<String>) {
        for warning in &warnings {
            tracing::warn!(network = spec.name, "{warning}");
        }
        let watcher = process.map(|process| {
            let (shared, spec) = (Arc::downgrade(&self.shared), spec.clone());
            Watcher(tokio::spawn(async move {
                let problem = keep(&spec, dir, process).await;
                tracing::error!(network = spec.name, "{problem}");
                let Some(shared) = shared.upgrade() else { return };
                shared.change(|networks| {
                    if let Some(state) = networks.get_mut(&spec.name) {
                        state.failure = Some(problem);
                    }
                });
            }))
        });
        self.shared.change(|networks| networks.insert(spec.name.clone(), State { warnings, failure: None, watcher }));
    }

    /// The network does not work.
    pub(crate) fn failed(&self, name: &str, reason: String) {
        tracing::error!(network = name, "{reason}");
        let state = State { failure: Some(reason), ..State::default() };
        self.shared.change(|networks| networks.insert(name.to_owned(), state));
    }

    /// Nobody looks after the network's dnsmasq any more.
    pub(crate) fn unwatch(&self, name: &str) {
        self.shared.change(|networks| {
            if let Some(state) = networks.get_mut(name) {
                state.watcher = None;
            }
        });
    }

    /// Nobody looks after any dnsmasq any more.
    pub(crate) fn unwatch_all(&self) {
        self.shared.change(|networks| networks.values_mut().for_each(|state| state.watcher = None));
    }

    /// The network is gone.
    pub(crate) fn forget(&self, name: &str) {
        self.shared.change(|networks| networks.remove(name));
    }

    /// Why the network does not work, if it does not.
    pub(crate) fn failure(&self, name: &str) -> Option<String> {
        self.shared.change(|networks| networks.get(name).and_then(|state| state.failure.clone()))
    }

    /// What falls short, now and from now on.
    pub(crate) fn watch(&self) -> watch::Receiver<Shortcomings> {
        self.shared.told.subscribe()
    }
}

/// Starts dnsmasq again whenever it ends, and returns why that is of no use any more.
async fn keep(spec: &BridgeSpec, dir: PathBuf, mut process: Process) -> String {
    // An adopted one has run for long enough.
    let mut started: Option<Instant> = None;
    loop {
        if let Err(error) = process.exited().await {
            return error.to_string();
        }
        if started.is_some_and(|started| started.elapsed() < TOO_SOON) {
            return "dnsmasq keeps ending: look for its reason in the system log".to_owned();
        }
        tracing::warn!(network = spec.name, "dnsmasq has ended; it is started again");
        started = Some(Instant::now());
        process = match dnsmasq::ensure(spec, &dir).await {
            Ok((process, _)) => process,
            Err(error) => return error.to_string(),
        };
    }
}
