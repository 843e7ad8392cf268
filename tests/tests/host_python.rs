//! Other people's clients in Python: pylxd, and Prometheus' reader of metrics.

use std::path::Path;

use berth_tests::{Daemon, Run, own_address};
use serde_json::Value;

/// Names the interpreter that has them; `cargo xtask test` makes it.
const PYTHON: &str = "BERTH_TEST_PYTHON";

fn python(daemon: &Daemon, script: &str) -> Run {
    let interpreter = std::env::var_os(PYTHON).unwrap_or_else(|| panic!("{PYTHON} is not set; use cargo xtask test"));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(script);
    Run::new(interpreter, [script]).env("LXD_DIR", daemon.dir())
}

#[test]
fn pylxd() {
    let daemon = Daemon::with_busybox();
    assert_eq!(python(&daemon, "pylxd_life.py").ok(), "done\n");
    daemon.finish();
}

#[test]
fn pylxd_over_https() {
    let daemon = Daemon::with_busybox();
    let address = own_address();
    daemon.berth(&format!("config set core.https_address={address}")).ok();
    let work = tempfile::tempdir().expect("a directory can be made");
    let path = |name: &str| work.path().join(name).to_str().expect("it is ASCII").to_owned();
    let (certificate, key) = (path("client.crt"), path("client.key"));
    let made = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:secp384r1 -nodes -subj /CN=python -days 9 -keyout";
    let args = made.split(' ').chain([&*key, "-out", &*certificate]);
    Run::new("openssl", args).ok();
    daemon.berth_args(["config", "trust", "add", &certificate, "--name", "python"]).ok();
    assert!(daemon.berth("config trust list --format csv").ok().starts_with("client,python,"));
    let run = python(&daemon, "pylxd_life.py")
        .env("LXD_ENDPOINT", format!("https://{address}:8443"))
        .env("LXD_CERTIFICATE", &certificate)
        .env("LXD_KEY", &key);
    assert_eq!(run.ok(), "done\n");
    daemon.finish();
}

#[test]
fn metrics() {
    let daemon = Daemon::with_busybox();
    daemon.berth("init busybox stopped").ok();
    daemon.berth("launch busybox c1").ok();
    daemon.berth("exec c1 -- dd if=/dev/zero of=/root/file bs=1M count=8").ok();
    // The kernel tells modes by what it finds running at its ticks: long enough that some find it.
    daemon.berth_args(["exec", "c1", "--", "sh", "-c", "i=0; while test $i -lt 200000; do i=$((i+1)); done"]).ok();
    let reply = daemon.http("GET", "/1.0/metrics", &[], b"");
    assert_eq!((reply.status, reply.header("content-type").unwrap().split(';').next().unwrap()), (200, "text/plain"));
    let read = python(&daemon, "metrics.py").input(reply.body.clone()).ok();
    let samples: Vec<(String, Value, f64)> = read.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let value = |name: &str, label: &str, wanted: &str| {
        let mut found = samples.iter().filter(|(other, labels, _)| other == name && labels[label] == wanted);
        let (_, labels, value) =
            found.next().unwrap_or_else(|| panic!("{name} with {label}={wanted} is missing in {read}"));
        assert!(found.next().is_none(), "{name} is there twice");
        assert_eq!(
            (&labels["name"], &labels["project"], &labels["type"]),
            (&"c1".into(), &"default".into(), &"container".into())
        );
        *value
    };
    assert!(value("lxd_cpu_seconds_total", "mode", "user") + value("lxd_cpu_seconds_total", "mode", "system") > 0.0);
    assert!(value("lxd_memory_RSS_bytes", "name", "c1") > 0.0);
    assert!(value("lxd_memory_MemTotal_bytes", "name", "c1") > value("lxd_memory_MemAvailable_bytes", "name", "c1"));
    assert!(value("lxd_network_transmit_bytes_total", "device", "lo") >= 0.0);
    assert!(value("lxd_procs_total", "name", "c1") >= 2.0);
    let own = |name: &str| samples.iter().find(|(other, ..)| other == name).unwrap_or_else(|| panic!("{name}")).2;
    assert_eq!((own("lxd_warnings_total"), own("lxd_operations_total")), (0.0, 0.0));
    assert!(!read.contains("stopped"), "{read}");
    daemon.finish();
}
