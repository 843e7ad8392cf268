//! Start and end of the daemon.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use berth_images::{Images, Programs};
use berth_instances::{Deps, Helpers, Instances};
use berth_network::Networks;
use berth_storage::Pools;
use berth_store::Store;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{broadcast, mpsc},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    app::App,
    events::Events,
    guest_api,
    operations::Operations,
    routes,
    server::{Gate, Server},
    settings::{self, Settings},
    stop::{Extent, Stop},
    tls::{self, Identity, Listeners},
    trust::Trust,
    warnings::{self, Warnings},
};

/// How long operations may take to end when the daemon stops.
const OPERATIONS: Duration = Duration::from_secs(30);
/// How long connections may take after that.
const CONNECTIONS: Duration = Duration::from_secs(5);
/// Troubles of instances kept until they are written down.
const TROUBLES: usize = 256;
/// Where helper programs lie unless they lie beside the daemon.
const LIBEXEC: &str = "/usr/libexec/berth";
/// The kernel of virtual machines whose disk holds none; without it such images serve for containers only.
const KERNEL: &str = "vmlinux";

/// What the command line says.
#[derive(Debug, Clone)]
pub struct Options {
    /// Data directory.
    pub dir: PathBuf,
    /// Group that may use the socket.
    pub group: Option<String>,
}

/// Runs the daemon until a signal or `PUT /internal/shutdown`.
pub async fn run(options: Options, events: Events) -> anyhow::Result<()> {
    let began = Instant::now();
    let dir = prepare(&options.dir)?;
    // First of all, because it keeps a second daemon off the directory and the socket.
    let store = berth_store::open(&dir).await.context("cannot open the state")?;
    let stop = Stop::default();
    let (door, gate) = Gate::new();
    let server = Server::bind(&dir, options.group.as_deref())?;
    let closing = CancellationToken::new();
    let connections = TaskTracker::new();
    let serving = tokio::spawn(server.run(gate.clone(), connections.clone(), closing.clone()));

    let app = tokio::select! {
        app = open(dir, store, events, stop.clone()) => app,
        (name, _) = signalled() => Err(anyhow::anyhow!("stopped by {name} before it was ready")),
    };
    let (app, owner) = match app {
        Ok(app) => app,
        Err(error) => {
            drop(door);
            closing.cancel();
            let _ = tokio::time::timeout(CONNECTIONS, serving).await;
            return Err(error);
        }
    };
    tokio::spawn(app.clone().forward_lifecycle());
    let acceptor = tls::acceptor(&app.identity).context("cannot use the server's certificate")?;
    let listeners = Listeners::new(acceptor, gate, connections, closing.clone());
    tokio::spawn(owner.listen(listeners).await.run());
    door.open(routes::router(app.clone()));
    notify("READY=1");
    tracing::info!(dir = %app.dir.display(), millis = began.elapsed().as_millis() as u64, "berthd is ready");

    let (name, extent) = tokio::select! {
        (name, extent) = signalled() => (name, extent),
        extent = stop.told() => ("request", extent),
    };
    match extent {
        Extent::Daemon => tracing::info!(by = name, "stopping; instances go on running"),
        Extent::Host => tracing::info!(by = name, "stopping with all instances"),
    }
    notify("STOPPING=1");
    closing.cancel();
    tokio::select! {
        () = wind_down(&app, serving, extent) => {}
        (name, _) = signalled() => tracing::warn!(signal = name, "told twice, stopping at once"),
    }
    Ok(())
}

async fn wind_down(app: &App, serving: tokio::task::JoinHandle<()>, extent: Extent) {
    let left = app.operations.stop(app.settings.shutdown_timeout().unwrap_or(OPERATIONS)).await;
    if left > 0 {
        tracing::warn!(left, "operations did not end in time; the next start finishes or undoes them");
    }
    if extent == Extent::Host {
        app.instances.shut_down().await;
    }
    app.events.close();
    if tokio::time::timeout(CONNECTIONS, serving).await.is_err() {
        tracing::debug!("some clients did not close their connections");
    }
}

/// Opens everything below, in the order of the arrows.
async fn open(
    dir: PathBuf,
    store: Arc<dyn Store>,
    events: Events,
    stop: Stop,
) -> anyhow::Result<(Arc<App>, settings::Owner)> {
    let warnings = Warnings::new(store.clone());
    let identity = Identity::open(&dir)?;
    let (settings, owner) = Settings::open(store.clone()).await.context("cannot read the server configuration")?;
    let pools = Pools::open(store.clone(), dir.clone()).await.context("cannot open the storage pools")?;
    warnings.take_up_pools(&pools).await.context("cannot keep the warnings of storage pools")?;
    let networks = Networks::open(store.clone(), dir.clone()).await.context("cannot open the networks")?;
    tokio::spawn(warnings.clone().follow_networks(networks.clone()));
    let programs = Programs { helper: helper("berth-image"), kernel: place_of(KERNEL) };
    let images = Images::open(store.clone(), dir.clone(), programs).await.context("cannot open the images")?;
    let helpers =
        Helpers { container: helper("berth-container"), vmm: helper("berth-vmm"), agent: helper("berth-agent") };
    // What the start does again tells again if it still fails.
    for kind in [warnings::Kind::Autostart, warnings::Kind::Leftover] {
        warnings.resolve_all(kind).await.context("cannot keep the warnings of instances")?;
    }
    let (doors, opened) = mpsc::unbounded_channel();
    let (troubles, told) = broadcast::channel(TROUBLES);
    tokio::spawn(warnings.clone().follow_instances(told));
    let instances = Instances::open(Deps {
        store: store.clone(),
        pools: pools.clone(),
        networks: networks.clone(),
        images: images.clone(),
        dir: dir.clone(),
        helpers,
        troubles,
        doors,
    })
    .await
    .context("cannot open the instances")?;
    let trust = Trust::open(store.clone()).await.context("cannot read the trusted certificates")?;
    let projects = instances.projects().list().await.context("cannot read the projects")?;
    trust.keep_projects(&projects.into_iter().map(|project| project.name).collect()).await?;
    let operations = Operations::new(events.clone());
    let app = Arc::new(App {
        began: Instant::now(),
        dir,
        store,
        pools,
        networks,
        images,
        instances,
        settings,
        trust,
        identity,
        warnings,
        operations,
        events,
        stop,
    });
    tokio::spawn(guest_api::serve(app.clone(), opened));
    Ok((app, owner))
}

/// The data directory, made if it is not there. Others may pass through it to volumes, not read it.
fn prepare(dir: &Path) -> anyhow::Result<PathBuf> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o711).create(dir);
    made.with_context(|| format!("cannot make the data directory {}", dir.display()))?;
    let dir = dir.canonicalize().with_context(|| format!("cannot find the data directory {}", dir.display()))?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o711))
        .with_context(|| format!("cannot set the mode of {}; run berthd as root", dir.display()))?;
    Ok(dir)
}

/// Where a helper program lies. One that is missing is told now and again by what needs it.
fn helper(name: &str) -> PathBuf {
    let place = place_of(name);
    if !place.exists() {
        tracing::warn!(program = name, "the helper is neither beside berthd nor in {LIBEXEC}");
    }
    place
}

/// Beside the daemon or where it belongs when installed, whichever is there; if neither is, beside the daemon.
fn place_of(name: &str) -> PathBuf {
    let installed = Path::new(LIBEXEC).join(name);
    let beside = std::env::current_exe().ok().and_then(|exe| exe.parent().map(|dir| dir.join(name)));
    match beside {
        Some(beside) if beside.exists() || !installed.exists() => beside,
        _ => installed,
    }
}

/// Waits for a signal to stop and gives its name.
async fn signalled() -> (&'static str, Extent) {
    let power = SignalKind::from_raw(rustix::process::Signal::POWER.as_raw());
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(power));
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut power)) = signals else {
        tracing::error!("signals cannot be received; stop with \"berthd shutdown\"");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => ("SIGTERM", Extent::Daemon),
        _ = interrupt.recv() => ("SIGINT", Extent::Daemon),
        // As LXD takes it: the power fails.
        _ = power.recv() => ("SIGPWR", Extent::Host),
    }
}

/// Tells the service manager, if one asked to be told (sd_notify(3)).
fn notify(state: &str) {
    use std::os::{linux::net::SocketAddrExt, unix::ffi::OsStrExt, unix::net::SocketAddr, unix::net::UnixDatagram};
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(&path),
    };
    let sent = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address));
    if let Err(error) = sent {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}
