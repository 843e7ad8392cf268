//! `/1.0`: the server itself.

use std::{collections::BTreeMap, fs};

use axum::{Router, extract::State, routing::get};
use berth_api::server::{Environment, Server, ServerPut, ServerUntrusted, StorageDriverInfo};
use berth_storage::DRIVERS;
use http::HeaderMap;

use crate::{
    access::Access,
    app::{App, Shared},
    http::{ApiResult, Caller, Json, Query, envelope},
    settings::Mode,
    tls,
};

/// The release of LXD's API that is kept; clients parse it.
const API_VERSION: &str = "5.0.2";

/// How far the API is done.
const STATUS: &str = "stable";
/// Version of the API that all paths begin with.
const VERSION: &str = "1.0";

/// API extensions that work. A name is added here when what it stands for does.
const EXTENSIONS: &[&str] = &[
    "api_filtering",
    "api_os",
    "backup_compression",
    "backup_compression_algorithm",
    "backup_override_name",
    "certificate_project",
    "certificate_token",
    "certificate_update",
    "cloud_init",
    "console",
    "container_backup",
    "container_backup_override_pool",
    "container_copy_project",
    "container_disk_shift",
    "container_edit_metadata",
    "container_exec_recording",
    "container_exec_signal_handling",
    "container_exec_user_group_cwd",
    "container_full",
    "container_host_shutdown_timeout",
    "container_incremental_copy",
    "container_last_used_at",
    "container_mount_propagation",
    "container_only_migration",
    "container_protection_shift",
    "container_stop_priority",
    "devlxd_events",
    "directory_manipulation",
    "entity_description",
    "etag",
    "event_lifecycle",
    "event_lifecycle_requestor_address",
    "event_location",
    "event_project",
    "file_append",
    "file_delete",
    "file_get_symlink",
    "file_symlinks",
    "image_compression_algorithm",
    "image_create_aliases",
    "image_profiles",
    "image_types",
    "images_expiry",
    "instance_all_projects",
    "instance_bulk_state_change",
    "instance_file_head",
    "instance_get_full",
    "instance_pool_move",
    "instance_project_move",
    "instance_snapshot_never",
    "instances",
    "instances_rebuild",
    "kernel_limits",
    "limits_hugepages",
    "linux_sysctl",
    "metrics",
    "metrics_authentication",
    "metrics_cpu_seconds",
    "migration_stateful",
    "network",
    "network_counters_errors_dropped",
    "network_hwaddr",
    "network_leases",
    "network_leases_location",
    "network_state",
    "operation_description",
    "patch",
    "profile_usedby",
    "project_usage",
    "projects",
    "projects_limits",
    "projects_limits_disk",
    "projects_limits_instances",
    "projects_networks",
    "projects_networks_restricted_access",
    "projects_restricted_backups_and_snapshots",
    "projects_restricted_intercept",
    "projects_restrictions",
    "proxy",
    "proxy_haproxy_protocol",
    "proxy_tcp_udp_multi_port_handling",
    "proxy_udp",
    "proxy_unix",
    "proxy_unix_dac_properties",
    "remote_token_expiry",
    "resources",
    "resources_v2",
    "restrict_devlxd",
    "server_instance_driver_operational",
    "server_supported_storage_drivers",
    "snapshot_expiry",
    "snapshot_expiry_creation",
    "snapshot_schedule_aliases",
    "snapshot_scheduling",
    "storage",
    "storage_btrfs_mount_options",
    "storage_volume_state",
    "unix_device_rename",
    "unix_priv_drop",
    "usedby_consistency",
    "warnings",
    // Berth's own.
    "berth_image_build",
    "berth_image_vm_view",
    "berth_instance_export",
    "berth_state_wait",
    "berth_warm",
];

pub fn routes() -> Router<Shared> {
    Router::new().route("/1.0", get(show).put(replace).patch(patch))
}

async fn show(State(app): State<Shared>, access: Access, query: Query) -> ApiResult {
    let api_extensions = EXTENSIONS.iter().map(|name| (*name).to_owned()).collect();
    if !access.is_trusted() {
        return Ok(envelope::sync(ServerUntrusted {
            api_extensions,
            api_status: STATUS.to_owned(),
            api_version: VERSION.to_owned(),
            auth: "untrusted".to_owned(),
            public: false,
            auth_methods: vec!["tls".to_owned()],
        }));
    }
    let mut drivers: Vec<String> = app.pools.list().await?.into_iter().map(|pool| pool.driver).collect();
    drivers.sort();
    drivers.dedup();
    let server = Server {
        config: if access.is_full() { app.settings.shown() } else { Default::default() },
        api_extensions,
        api_status: STATUS.to_owned(),
        api_version: VERSION.to_owned(),
        auth: "trusted".to_owned(),
        public: false,
        auth_methods: vec!["tls".to_owned()],
        environment: environment(&app, query.project(), &drivers),
    };
    Ok(envelope::tagged(server, &app.settings.tag()))
}

fn environment(app: &App, project: &str, drivers: &[String]) -> Environment {
    let uname = rustix::system::uname();
    let text = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
    let os = os_release();
    let own = env!("CARGO_PKG_VERSION");
    Environment {
        addresses: app.settings.https_address().as_ref().map(tls::reachable).unwrap_or_default(),
        certificate: app.identity.pem.clone(),
        certificate_fingerprint: app.identity.fingerprint.clone(),
        architectures: vec![std::env::consts::ARCH.to_owned()],
        driver: "berth-container | berth-vmm".to_owned(),
        driver_version: format!("{own} | {own}"),
        firewall: "nftables".to_owned(),
        kernel: text(uname.sysname()),
        kernel_architecture: text(uname.machine()),
        kernel_version: text(uname.release()),
        os_name: os.get("NAME").cloned().unwrap_or_default(),
        os_version: os.get("VERSION_ID").cloned().unwrap_or_default(),
        project: project.to_owned(),
        server: "lxd".to_owned(),
        server_clustered: false,
        server_event_mode: "full-mesh".to_owned(),
        server_name: text(uname.nodename()),
        server_pid: i64::from(std::process::id()),
        server_version: API_VERSION.to_owned(),
        storage: drivers.join(" | "),
        storage_version: vec![own; drivers.len()].join(" | "),
        storage_supported_drivers: DRIVERS
            .iter()
            .map(|name| StorageDriverInfo { name: (*name).to_owned(), version: own.to_owned(), remote: false })
            .collect(),
        berth_version: own.to_owned(),
        ..Environment::default()
    }
}

/// The host's os-release(5).
fn os_release() -> BTreeMap<String, String> {
    let text = fs::read_to_string("/etc/os-release").or_else(|_| fs::read_to_string("/usr/lib/os-release"));
    parse_os_release(&text.unwrap_or_default())
}

fn parse_os_release(text: &str) -> BTreeMap<String, String> {
    let pairs = text.lines().filter_map(|line| line.trim().split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.trim_matches(['"', '\'']).to_owned())).collect()
}

async fn write(app: &App, put: ServerPut, mode: Mode, headers: HeaderMap, caller: &Caller) -> ApiResult {
    app.settings.change(put.config, mode, headers).await?;
    app.happened("config-updated", "/1.0", None, caller);
    Ok(envelope::empty())
}

async fn replace(
    State(app): State<Shared>,
    caller: Caller,
    headers: HeaderMap,
    Json(put): Json<ServerPut>,
) -> ApiResult {
    write(&app, put, Mode::Replace, headers, &caller).await
}

async fn patch(State(app): State<Shared>, caller: Caller, headers: HeaderMap, Json(put): Json<ServerPut>) -> ApiResult {
    write(&app, put, Mode::Merge, headers, &caller).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_release_is_read() {
        let os = parse_os_release("NAME=\"Debian GNU/Linux\"\nVERSION_ID='12'\n# comment\nID=debian\n");
        assert_eq!(
            (os["NAME"].as_str(), os["VERSION_ID"].as_str(), os["ID"].as_str()),
            ("Debian GNU/Linux", "12", "debian")
        );
    }

    #[test]
    fn extensions_are_named_once() {
        let mut names = EXTENSIONS.to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), EXTENSIONS.len());
    }
}
