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
