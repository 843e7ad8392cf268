//! Changes of a running container.

use std::fs;

use berth_containers::spec::{ContainerSpec, CpuAllowance, CpuLimit, Limits, MemoryLimit, Rlimit};

use crate::common::*;

/// A limit's file in the terms of the version that the host has.
fn limit(spec: &ContainerSpec, controller: &str, one: &str, two: &str) -> String {
    let dir = cgroup_of(spec, controller);
    let text = fs::read_to_string(dir.join(one)).or_else(|_| fs::read_to_string(dir.join(two))).unwrap();
    text.trim().to_owned()
}

#[test]
fn limits_come_and_go() {
    let place = Place::new();
    let container = Running::start(&place);
    let mut spec = container.spec.clone();
    let figures = |spec: &ContainerSpec| {
        [
            limit(spec, "memory", "memory.limit_in_bytes", "memory.max"),
            limit(spec, "memory", "memory.soft_limit_in_bytes", "memory.low"),
            limit(spec, "pids", "pids.max", "pids.max"),
            limit(spec, "cpu", "cpu.cfs_quota_us", "cpu.max"),
            limit(spec, "cpu", "cpu.shares", "cpu.weight"),
        ]
    };
    let free = figures(&spec);
    let all = container.text("nproc");
    spec.limits = Limits {
        memory: Some(MemoryLimit::Hard(512 << 20)),
        swap: Some(false),
        cpus: Some(CpuLimit::Set("0".into())),
        cpu_allowance: Some(CpuAllowance::Percent(50)),
        cpu_priority: Some(5),
        processes: Some(300),
        ..Limits::default()
    };
    container.change(&spec).unwrap();
    assert_eq!(container.text("nproc"), "1");
    let now = figures(&spec);
    assert_eq!(now[0], (512 << 20).to_string());
    assert_eq!(now[2], "300");
    assert!(["507", "45"].contains(&now[4].as_str()), "{now:?}");
    spec.limits.memory = Some(MemoryLimit::Soft(256 << 20));
    spec.limits.cpu_allowance = Some(CpuAllowance::Quota { quota_us: 20_000, period_us: 50_000 });
    container.change(&spec).unwrap();
    let now = figures(&spec);
    assert_eq!((&now[0], &now[1]), (&free[0], &(256 << 20).to_string()));
    assert!(["20000", "20000 50000"].contains(&now[3].as_str()), "{now:?}");
    spec.limits = Limits::default();
    container.change(&spec).unwrap();
    assert_eq!(figures(&spec), free);
    assert_eq!(container.text("nproc"), all);
}

#[test]
fn what_cannot_be_changed_leaves_all_as_it_was() {
    let place = Place::new();
    let mut spec = place.spec();
    spec.limits.processes = Some(200);
    let container = Running::start_spec(&place, spec.clone());
    spec.limits.processes = Some(100);
    spec.limits.hugepages.insert("3MB".into(), 0);
    let message = container.change(&spec).unwrap_err();
    assert!(message.contains("limits.hugepages.3MB"), "{message}");
    assert_eq!(limit(&spec, "pids", "pids.max", "pids.max"), "200");
    spec.uuid = "x".into();
    container.change(&spec).unwrap_err();
}

#[test]
fn programs_begin_with_their_own_limits() {
    let place = Place::new();
    let mut spec = place.spec();
    spec.rlimits.insert("nofile".into(), Rlimit { soft: Some(64), hard: Some(128) });
    spec.rlimits.insert("core".into(), Rlimit { soft: Some(0), hard: Some(4096) });
    let container = Running::start_spec(&place, spec);
    assert_eq!(container.text("ulimit -Sn; ulimit -Hn; ulimit -Sc"), "64\n128\n0");
    let of_init = container.text("grep 'Max open files' /proc/1/limits");
    assert_eq!(of_init.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["64", "128"]);

    let mut spec = place.spec();
    spec.rlimits.insert("nonsense".into(), Rlimit { soft: None, hard: None });
    container.kill();
    let mut starting = Starting::new(&place, spec);
    assert!(starting.created().unwrap_err().contains("limits.kernel.nonsense"));
    starting.monitor.wait().unwrap();
    assert_nothing_left(&starting.spec, &starting.run_dir);
}
