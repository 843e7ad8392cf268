//! Instances.

use std::collections::BTreeMap;

use berth_api::{
    StatusCode, Time,
    instances::{
        Instance as WireInstance, InstanceBackup, InstanceFull, InstancePut, InstanceSnapshot, InstanceState,
        InstanceStateCpu, InstanceStateDisk, InstanceStateMemory, InstanceStateNetwork, InstanceStateNetworkAddress,
        InstanceStateNetworkCounters, InstanceType,
    },
};
use berth_guest::protocol::{Counters, Interface};
use berth_instances::{Backup, Instance, Kind, Snapshot, StateReport, Status, Update};

/// Kind on the wire.
pub fn kind(kind: Kind) -> InstanceType {
    match kind {
        Kind::Container => InstanceType::Container,
        Kind::VirtualMachine => InstanceType::VirtualMachine,
    }
}

/// Kind from the wire.
pub fn kind_from(kind: InstanceType) -> Kind {
    match kind {
        InstanceType::Container => Kind::Container,
        InstanceType::VirtualMachine => Kind::VirtualMachine,
    }
}

/// Status on the wire.
pub fn status(status: Status) -> StatusCode {
    StatusCode(match status {
        Status::Stopped => 102,
        Status::Running => 103,
        Status::Starting => 106,
        Status::Stopping => 107,
        Status::Frozen => 110,
    })
}

/// An instance.
pub fn instance(instance: &Instance) -> WireInstance {
    let code = status(instance.status);
    WireInstance {
        architecture: instance.architecture.clone(),
        config: instance.full_config(),
        devices: instance.devices.clone(),
        ephemeral: instance.ephemeral,
        profiles: instance.profiles.clone(),
        restore: String::new(),
        stateful: instance.stateful,
        description: instance.description.clone(),
        created_at: Time(instance.created_at),
        expanded_config: instance.full_expanded_config(),
        expanded_devices: instance.expanded_devices.clone(),
        name: instance.name.clone(),
        status: code.text().to_owned(),
        status_code: code,
        last_used_at: instance.last_used_at.map_or(Time::ZERO, Time),
        location: "none".to_owned(),
        kind: kind(instance.kind),
        project: instance.project.clone(),
    }
}

/// An instance with all that belongs to it.
pub fn full(instance_: &Instance, state: Option<InstanceState>, backups: &[Backup]) -> InstanceFull {
    let snapshots = instance_.snapshots.iter().map(snapshot).collect();
    let backups = backups.iter().map(backup).collect();
    InstanceFull { instance: instance(instance_), backups: Some(backups), state, snapshots: Some(snapshots) }
}

/// A backup.
pub fn backup(backup: &Backup) -> InstanceBackup {
    InstanceBackup {
        name: backup.name.clone(),
        created_at: Time(backup.created_at),
        expires_at: backup.expires_at.map_or(Time::ZERO, Time),
        instance_only: backup.instance_only,
        container_only: backup.instance_only,
        optimized_storage: false,
    }
}

/// A snapshot.
pub fn snapshot(snapshot: &Snapshot) -> InstanceSnapshot {
    InstanceSnapshot {
        architecture: snapshot.architecture.clone(),
        config: snapshot.config.clone(),
        created_at: Time(snapshot.created_at),
        expires_at: snapshot.expires_at.map_or(Time::ZERO, Time),
        devices: snapshot.devices.clone(),
        ephemeral: snapshot.ephemeral,
        expanded_config: snapshot.expanded_config.clone(),
        expanded_devices: snapshot.expanded_devices.clone(),
        last_used_at: snapshot.last_used_at.map_or(Time::ZERO, Time),
        name: snapshot.name.clone(),
        profiles: snapshot.profiles.clone(),
        stateful: false,
        // As LXD says where the pool cannot tell it at once.
        size: -1,
    }
}

/// A date from the wire, where zero means never.
pub fn date(time: Time) -> Option<jiff::Timestamp> {
    (!time.is_never()).then_some(time.0)
}

/// The part that a `PUT` may change, as a client would send it.
pub fn put(instance: &Instance) -> InstancePut {
    InstancePut {
        architecture: instance.architecture.clone(),
        config: instance.full_config(),
        devices: instance.devices.clone(),
        ephemeral: instance.ephemeral,
        profiles: instance.profiles.clone(),
        restore: String::new(),
        stateful: instance.stateful,
        description: instance.description.clone(),
    }
}

/// What a client wants it to become.
pub fn update(put: InstancePut) -> Update {
    Update {
        config: put.config,
        devices: put.devices,
        profiles: put.profiles,
        description: put.description,
        ephemeral: put.ephemeral,
    }
}

/// Tag of an instance: over what a client may change.
pub fn etag(instance: &Instance) -> String {
    crate::http::etag::of(&(
        &instance.architecture,
        &instance.config,
        &instance.devices,
        instance.ephemeral,
        &instance.profiles,
        &instance.description,
    ))
}

/// State of an instance.
pub fn state(report: &StateReport) -> InstanceState {
    let instance = &report.instance;
    let code = status(instance.status);
    let mut state = InstanceState {
        status: code.text().to_owned(),
        status_code: code,
        pid: instance.pid.map_or(0, i64::from),
        ..InstanceState::default()
    };
    if let Some(usage) = report.root_usage {
        state.disk.insert("root".to_owned(), InstanceStateDisk { usage: signed(usage) });
    }
    match &report.guest {
        Some(guest) => {
            state.cpu = InstanceStateCpu { usage: signed(guest.cpu_ns) };
            state.memory = InstanceStateMemory {
                usage: signed(guest.memory_usage),
                usage_peak: signed(guest.memory_peak),
                swap_usage: signed(guest.swap_usage),
                ..InstanceStateMemory::default()
            };
            state.processes = signed(guest.processes);
            state.network = Some(network(&guest.network, &report.host_names));
        }
        // LXD's sign for "runs, but nobody in there can tell".
        None if instance.is_running() && instance.kind == Kind::VirtualMachine => state.processes = -1,
        None => {}
    }
    state
}

fn network(
    interfaces: &BTreeMap<String, Interface>,
    host_names: &BTreeMap<String, String>,
) -> BTreeMap<String, InstanceStateNetwork> {
    let convert = |(name, interface): (&String, &Interface)| {
        let addresses = interface.addresses.iter().map(|a| InstanceStateNetworkAddress {
            family: a.family.clone(),
            address: a.address.clone(),
            netmask: a.netmask.clone(),
            scope: a.scope.clone(),
        });
        let network = InstanceStateNetwork {
            addresses: addresses.collect(),
            counters: counters(&interface.counters),
            hwaddr: interface.hwaddr.clone(),
            host_name: host_names.get(name).cloned().unwrap_or_default(),
            mtu: i64::from(interface.mtu),
            state: interface.state.clone(),
            kind: interface.kind.clone(),
        };
        (name.clone(), network)
    };
    interfaces.iter().map(convert).collect()
}

fn counters(counters: &Counters) -> InstanceStateNetworkCounters {
    InstanceStateNetworkCounters {
        bytes_received: signed(counters.bytes_received),
        bytes_sent: signed(counters.bytes_sent),
        packets_received: signed(counters.packets_received),
        packets_sent: signed(counters.packets_sent),
        errors_received: signed(counters.errors_received),
        errors_sent: signed(counters.errors_sent),
        packets_dropped_inbound: signed(counters.packets_dropped_inbound),
        packets_dropped_outbound: signed(counters.packets_dropped_outbound),
    }
}

/// The wire's numbers are signed.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
