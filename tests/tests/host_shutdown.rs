//! The host goes down, and comes up again.

use berth_tests::{Daemon, Watch};

/// An init that tells when it can be told to end, and does `last` then.
fn inittab(daemon: &Daemon, name: &str, last: &str) {
    let text = format!("::sysinit:/bin/touch /shared/up-{name}\n::respawn:/bin/sleep 86400\n::shutdown:{last}\n");
    daemon.berth_args(["file", "push", "-", &format!("{name}/etc/inittab")]).input(text).ok();
}

fn power(daemon: &Daemon, name: &str) -> String {
    daemon.instance(name)["config"]["volatile.last_state.power"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn instances_are_stopped_in_order_and_come_back() {
    let mut daemon = Daemon::with_busybox();
    let shared = tempfile::tempdir().unwrap();
    let order = shared.path().join("order");
    std::fs::write(&order, "").unwrap();
    for (path, mode) in [(shared.path(), 0o777), (&order, 0o666)] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }
    let up = Watch::on(&shared);
    let source = format!("source={}", shared.path().display());
    for (name, keys) in [
        ("last", ""),
        ("first", "boot.stop.priority=10"),
        ("hangs", "boot.host_shutdown_timeout=1"),
        ("stays", "boot.autostart=false"),
        ("rests", ""),
        ("frozen", "boot.stop.priority=-1"),
    ] {
        daemon.berth_args(["init", "busybox", name]).ok();
        if !keys.is_empty() {
            daemon.berth_args(["config", "set", name, keys]).ok();
        }
        daemon.berth_args(["config", "device", "add", name, "shared", "disk", &source, "path=/shared"]).ok();
        let last = if name == "hangs" {
            "/bin/sleep 86400".to_owned()
        } else {
            format!("/bin/sh -c \"echo {name} >> /shared/order\"")
        };
        inittab(&daemon, name, &last);
        daemon.berth_args(["start", name]).ok();
        up.entry();
    }
    daemon.berth("launch busybox gone --ephemeral --config boot.host_shutdown_timeout=1").ok();
    daemon.berth("stop rests --force").ok();
    daemon.berth("pause frozen").ok();
    let running = ["first", "last", "hangs", "stays", "frozen"];
    let run_dirs = running.map(|name| daemon.run_dir(name));

    daemon.stop_with_instances();
    let stopped = std::fs::read_to_string(&order).unwrap();
    let names: Vec<&str> = stopped.lines().collect();
    assert_eq!((names.len(), names[0], names[3]), (4, "first", "frozen"), "{names:?}");
    assert!(names.contains(&"last") && names.contains(&"stays"), "{names:?}");
    assert!(run_dirs.iter().all(|run_dir| !run_dir.exists()));

    let runs = Watch::on(daemon.dir().join("run"));
    daemon.spawn();
    let mut back: Vec<_> = (0..4).map(|_| runs.entry()).collect();
    back.sort();
    let mut expected: Vec<_> = run_dirs.iter().filter(|run_dir| **run_dir != run_dirs[3]).cloned().collect();
    expected.sort();
    assert_eq!(back, expected);
    // Their owners do this after what they are at.
    for name in running {
        daemon.berth_args(["config", "set", name, "user.sync=1"]).ok();
    }
    let list = daemon.berth("list --format csv --columns ns").ok();
    let expected = "first,RUNNING\nfrozen,RUNNING\nhangs,RUNNING\nlast,RUNNING\nrests,STOPPED\nstays,STOPPED\n";
    assert_eq!(list, expected);
    assert_eq!((power(&daemon, "first"), power(&daemon, "stays")), ("RUNNING".to_owned(), "STOPPED".to_owned()));
    assert!(daemon.instance("first")["config"]["volatile.last_state.error"].is_null(), "nothing went wrong");
    assert_eq!(daemon.berth("warning list --format csv").ok(), "");

    // The daemon alone may come and go.
    let pid = daemon.instance_pid("first");
    daemon.stop();
    daemon.spawn();
    assert_eq!(daemon.instance_pid("first"), pid);
    daemon.finish();
}
