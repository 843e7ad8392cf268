//! The server itself: the host's resources and the server's configuration.

use berth_tests::Daemon;

#[test]
fn resources() {
    let daemon = Daemon::start();
    let resources = daemon.get("/1.0/resources");
    let memory = std::fs::read_to_string("/proc/meminfo").expect("proc is mounted");
    let kib: u64 = memory.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("MemTotal comes first");
    assert_eq!(resources["memory"]["total"], kib * 1024);
    let online = std::thread::available_parallelism().expect("there is a processor").get() as u64;
    assert!(resources["cpu"]["total"].as_u64().expect("a number") >= online, "{}", resources["cpu"]);
    let count = |kind: &str, list: &str| {
        let total = resources[kind]["total"].as_u64().expect("a number");
        let devices = resources[kind][list].as_array().unwrap_or_else(|| panic!("{kind}: {}", resources[kind])).len();
        assert!(total >= devices as u64, "{kind}: {}", resources[kind]);
        devices
    };
    assert_eq!(
        count("pci", "devices"),
        std::fs::read_dir("/sys/bus/pci/devices").map_or(0, |devices| devices.flatten().count())
    );
    for (kind, list) in [("usb", "devices"), ("storage", "disks"), ("network", "cards")] {
        count(kind, list);
    }
    assert!(resources["system"]["type"].is_string() && resources["gpu"]["cards"].is_array(), "{resources}");
    let shown = daemon.lxc("info --resources").ok();
    let model = resources["cpu"]["sockets"][0]["name"].as_str().expect("a name");
    assert!(shown.contains("Memory:") && shown.contains(model), "{shown}");
    daemon.finish();
}

#[test]
fn configuration() {
    let daemon = Daemon::start();
    daemon.lxc("config set images.compression_algorithm zstd").ok();
    daemon.lxc("config set user.a=1 core.shutdown_timeout=1").ok();
    assert_eq!(daemon.lxc("config get images.compression_algorithm").ok(), "zstd\n");
    for (setting, said) in [
        ("core.shutdown_timeout=soon", "minutes"),
        ("core.https_address=nowhere", "ADDRESS:PORT"),
        ("images.compression_algorithm=rar", "zstd"),
        ("core.proxy_http=http://proxy", "environment"),
        ("cluster.max_voters=3", "no clusters"),
        ("core.htps_address=:8443", "did you mean \"core.https_address\""),
        ("core.trust_password=short", "too short"),
    ] {
        let refused = daemon.lxc(&format!("config set {setting}")).fails();
        assert!(refused.contains(said), "{setting}: {refused}");
    }
    let shown = "config:\n  core.shutdown_timeout: \"1\"\n  images.compression_algorithm: zstd\n  user.a: \"1\"\n";
    assert_eq!(daemon.lxc("config show").ok(), shown);
    daemon.lxc("config edit").input(shown.replace("user.a", "user.b")).ok();
    daemon.lxc("config unset images.compression_algorithm").ok();
    assert_eq!(daemon.berth("config show").ok(), "config:\n  core.shutdown_timeout: \"1\"\n  user.b: \"1\"\n");
    let stale = daemon.http("PUT", "/1.0", &[("If-Match", "old")], br#"{"config":{}}"#);
    assert_eq!(stale.status, 412);
    daemon.finish();
}
