//! What is known of networks only while the daemon runs: whether they work, and who watches their dnsmasq.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::config::BridgeSpec;
use crate::dnsmasq::{self, Process};

/// A dnsmasq that ends sooner than this after its start is not started again: it would only end again.
const TOO_SOON: Duration = Duration::from_secs(10);

/// The state of all networks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Runtime {
    networks: Arc<Mutex<BTreeMap<String, State>>>,
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
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, State>> {
        self.networks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The network works; its dnsmasq is started again should it end.
    pub(crate) fn up(&self, spec: &BridgeSpec, dir: PathBuf, process: Option<Process>, warnings: Vec<String>) {
        for warning in &warnings {
            tracing::warn!(network = spec.name, "{warning}");
        }
        let watcher = process.map(|process| {
            let (networks, spec) = (Arc::downgrade(&self.networks), spec.clone());
            Watcher(tokio::spawn(async move {
                let problem = keep(&spec, dir, process).await;
                tracing::error!(network = spec.name, "{problem}");
                let Some(networks) = networks.upgrade() else { return };
                let mut networks = networks.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(state) = networks.get_mut(&spec.name) {
                    state.failure = Some(problem);
                }
            }))
        });
        self.lock().insert(spec.name.clone(), State { warnings, failure: None, watcher });
    }

    /// The network does not work.
    pub(crate) fn failed(&self, name: &str, reason: String) {
        tracing::error!(network = name, "{reason}");
        self.lock().insert(name.to_owned(), State { failure: Some(reason), ..State::default() });
    }

    /// Nobody looks after the network's dnsmasq any more.
    pub(crate) fn unwatch(&self, name: &str) {
        if let Some(state) = self.lock().get_mut(name) {
            state.watcher = None;
        }
    }

    /// Nobody looks after any dnsmasq any more.
    pub(crate) fn unwatch_all(&self) {
        self.lock().values_mut().for_each(|state| state.watcher = None);
    }

    /// The network is gone.
    pub(crate) fn forget(&self, name: &str) {
        self.lock().remove(name);
    }

    /// Why the network does not work, if it does not.
    pub(crate) fn failure(&self, name: &str) -> Option<String> {
        self.lock().get(name).and_then(|state| state.failure.clone())
    }

    /// What falls short, as (network, text).
    pub(crate) fn warnings(&self) -> Vec<(String, String)> {
        let networks = self.lock();
        let texts = |state: &State| state.failure.iter().chain(&state.warnings).cloned().collect::<Vec<_>>();
        networks.iter().flat_map(|(name, state)| texts(state).into_iter().map(|text| (name.clone(), text))).collect()
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
