//! Changes that reach running containers, through `berth` and the real `lxc`.

use std::io::Read;
use std::time::{Duration, Instant};

use berth_tests::Daemon;

fn allowed_cpus(daemon: &Daemon, name: &str) -> String {
    let status = daemon.berth_args(["exec", name, "--", "cat", "/proc/self/status"]).ok();
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).map(str::trim);
    line.expect("the kernel tells").to_owned()
}

/// Whether so many processes can be started.
fn processes_possible(daemon: &Daemon, name: &str, wanted: u32) -> bool {
    let script = format!("i=0; while [ $i -lt {wanted} ]; do sleep 100 >/dev/null 2>&1 & i=$((i+1)); done");
    let output = daemon.berth_args(["exec", name, "--", "sh", "-c", &script]).any();
    !output.stderr.contains("fork")
}

#[test]
fn limits_change_while_it_runs() {
    let daemon = Daemon::with_busybox();
    daemon.berth("launch busybox c1").ok();
    let all = allowed_cpus(&daemon, "c1");
    daemon.lxc("config set c1 limits.cpu=1 limits.processes=30").ok();
    let one = allowed_cpus(&daemon, "c1");
    assert!(!one.contains(['-', ',']), "{one}");
    daemon.berth("config set c1 limits.cpu=0 limits.processes=1").fails();
    assert_eq!(allowed_cpus(&daemon, "c1"), one, "nothing was changed");
    assert_eq!(daemon.lxc("config get c1 limits.processes").ok(), "30\n");
    assert!(!processes_possible(&daemon, "c1", 60));
    daemon.berth("config unset c1 limits.cpu").ok();
    daemon.lxc("config unset c1 limits.processes").ok();
    assert_eq!(allowed_cpus(&daemon, "c1"), all);
    assert!(processes_possible(&daemon, "c1", 60));

    let said = daemon.lxc("config set c1 limits.hugepages.64KB=1MiB").fails();
    assert!(said.contains("limits.hugepages.64KB"), "{said}");
    assert_eq!(daemon.lxc("config get c1 limits.hugepages.64KB").ok(), "\n", "what cannot be is not kept");
    daemon.finish();
}

#[test]
fn a_profile_reaches_those_that_run() {
    let daemon = Daemon::with_busybox();
    daemon.berth("profile create small").ok();
    for name in ["c1", "c2"] {
        daemon.berth_args(["launch", "busybox", name, "--profile", "default", "--profile", "small"]).ok();
    }
    daemon.berth("init busybox c3 --profile default --profile small").ok();
    daemon.lxc("profile set small limits.cpu 1").ok();
    for name in ["c1", "c2"] {
        assert!(!allowed_cpus(&daemon, name).contains(['-', ',']));
    }
    // One of them cannot have it, so nobody gets it.
    let said = daemon.berth("profile device add small root disk path=/ pool=elsewhere").fails();
    assert!(said.contains("elsewhere"), "{said}");
    assert!(daemon.get("/1.0/profiles/small")["devices"]["root"].is_null());
    // The host has no such pages: the profile is kept, and whoever could not follow is named.
    let said = daemon.berth("profile set small limits.hugepages.64KB=1MiB").fails();
    assert!(said.contains("\"c1\"") && said.contains("\"c2\"") && !said.contains("\"c3\""), "{said}");
    assert!(!allowed_cpus(&daemon, "c1").contains(['-', ',']), "the rest is as it was");
    daemon.berth("profile unset small limits.hugepages.64KB").ok();
    daemon.finish();
}

#[test]
fn devices_come_and_go_while_it_runs() {
    let mut daemon = Daemon::with_busybox();
    daemon.berth("launch busybox c1").ok();
    let shared = tempfile::tempdir().unwrap();
    std::fs::write(shared.path().join("file"), "text").unwrap();
    let source = format!("source={}", shared.path().display());
    daemon.lxc_args(["config", "device", "add", "c1", "data", "disk", &source, "path=/mnt/data", "shift=true"]).ok();
    assert_eq!(daemon.berth("exec c1 -- cat /mnt/data/file").ok(), "text");
    daemon.berth("exec c1 -- touch /mnt/data/new").ok();
    daemon.lxc("config device set c1 data readonly=true").ok();
    daemon.berth("exec c1 -- touch /mnt/data/more").fails();
    daemon.berth("config device add c1 zero unix-char source=/dev/zero path=/dev/nothing mode=0600").ok();
    assert_eq!(daemon.berth("exec c1 -- busybox stat -c %a:%t:%T /dev/nothing").ok(), "600:1:5\n");

    let said = daemon.lxc("config device add c1 gone disk source=/no/such/place path=/mnt/gone").fails();
    assert!(said.contains("\"gone\"") && said.contains("/no/such/place"), "{said}");
    assert!(daemon.instance("c1")["devices"]["gone"].is_null());

    // What a daemon gave, the next one takes away.
    daemon.kill();
    daemon.spawn();
    daemon.berth("config device remove c1 data").ok();
    daemon.lxc("config device remove c1 zero").ok();
    let left = daemon.berth("exec c1 -- cat /proc/self/mountinfo").ok();
    assert!(!left.contains("/mnt/data") && !left.contains("/dev/nothing"), "{left}");

    // Devices of profiles come and go with these.
    daemon.berth("profile create tools").ok();
    daemon.berth_args(["profile", "device", "add", "tools", "data", "disk", &source, "path=/mnt"]).ok();
    daemon.lxc("profile add c1 tools").ok();
    assert_eq!(daemon.berth("exec c1 -- cat /mnt/file").ok(), "text");
    daemon.lxc("profile device remove tools data").ok();
    daemon.berth("exec c1 -- cat /mnt/file").fails();
    daemon.finish();
}

#[test]
fn network_interfaces_come_and_go_while_it_runs() {
    let daemon = Daemon::with_busybox();
    daemon.berth("launch busybox c1").ok();
    let network = daemon.networks().remove(0);
    let interfaces =
        || daemon.berth("exec c1 -- ls /sys/class/net").ok().split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(interfaces(), "eth0 lo");
    let ports = daemon.ports().len();
    daemon.lxc(&format!("config device add c1 eth1 nic network={network}")).ok();
    daemon.berth(&format!("config device add c1 second nic nictype=bridged parent={network} name=eth2")).ok();
    assert_eq!(interfaces(), "eth0 eth1 eth2 lo");
    assert_eq!(daemon.ports().len(), ports + 2);
    daemon.lxc("config device set c1 second name=eth7 hwaddr=00:16:3e:00:00:77").ok();
    assert_eq!(interfaces(), "eth0 eth1 eth7 lo");
    assert_eq!(daemon.berth("exec c1 -- cat /sys/class/net/eth7/address").ok(), "00:16:3e:00:00:77\n");
    // Two of one name cannot be: the first stays, and so does the disk that would have come with the second.
    let said = daemon.berth("config device set c1 second name=eth1").fails();
    assert!(said.contains("second"), "{said}");
    assert_eq!(interfaces(), "eth0 eth1 eth7 lo");
    daemon.lxc("config device remove c1 eth1").ok();
    daemon.berth("config device remove c1 second").ok();
    assert_eq!(interfaces(), "eth0 lo");
    assert_eq!(daemon.ports().len(), ports);
    let said = daemon.berth("config device add c1 bad nic nictype=bridged parent=lo").fails();
    assert!(said.contains("lo"), "{said}");
    daemon.finish();
}

/// Mebibytes that are moved under a limit, and per second at most.
const MOVED: u64 = 6;
const RATE: u64 = 2;

#[test]
fn network_interfaces_are_limited() {
    let daemon = Daemon::with_busybox();
    daemon.lxc("profile device set default eth0 limits.ingress 100Mbit").ok();
    daemon.berth("launch busybox c1").ok();
    let network = daemon.networks().remove(0);
    let port = || daemon.instance("c1")["config"]["volatile.eth0.host_name"].as_str().unwrap_or_default().to_owned();
    let first = port();
    let shaped = |port: &str| run("tc", &["qdisc", "show", "dev", port]);
    let policed = |port: &str| run("nft", &["list", "tables"]).contains(&format!("netdev berth_{port}\n"));
    assert!(shaped(&first).contains("tbf") && shaped(&first).contains("rate 100Mbit"), "{}", shaped(&first));
    assert!(!policed(&first));

    // By the real `lxc`, while it runs.
    daemon.lxc(&format!("config device override c1 eth0 limits.ingress= limits.max={}Mibit", RATE * 8)).ok();
    assert_eq!(port(), first, "the interface stays");
    assert!(shaped(&first).contains("tbf") && policed(&first), "{}", shaped(&first));
    let (gateway, guest) = addresses(&daemon, &network);
    let script = format!("ip addr add {guest}/24 dev eth0; ip link set eth0 up");
    daemon.berth_args(["exec", "c1", "--", "sh", "-c", &script]).ok();
    let host = std::net::TcpListener::bind((gateway.as_str(), 0)).unwrap();
    let nc = format!("nc {gateway} {}", host.local_addr().unwrap().port());
    let there = std::thread::spawn(move || {
        let (mut from_guest, _) = host.accept().unwrap();
        std::io::copy(&mut from_guest, &mut std::io::sink()).unwrap();
        // busybox waits for this before it ends.
        drop(from_guest);
        let (mut to_guest, _) = host.accept().unwrap();
        std::io::copy(&mut std::io::repeat(0).take(MOVED << 20), &mut to_guest).unwrap()
    });
    // What comes from it may begin with a second's worth, what goes to it with nearly nothing.
    takes_its_time(&daemon, &format!("dd if=/dev/zero bs=1M count={MOVED} | {nc}"), MOVED / RATE - 1);
    takes_its_time(&daemon, &format!("{nc} </dev/null | wc -c"), MOVED / RATE);
    assert_eq!(there.join().unwrap(), MOVED << 20);

    let said = daemon.lxc("config device set c1 eth0 limits.egress=1Mbit").fails();
    assert!(said.contains("say either it or them"), "{said}");
    let said = daemon.lxc("config device set c1 eth0 limits.max=1MB").fails();
    assert!(said.contains("limits.max"), "{said}");
    daemon.lxc("config device unset c1 eth0 limits.max").ok();
    assert!(!shaped(&first).contains("tbf") && !policed(&first), "{}", shaped(&first));
    // A new interface comes with its limits, and takes them with it.
    daemon.berth(&format!("config device add c1 eth1 nic network={network} limits.egress=1Mbit")).ok();
    let second = daemon.instance("c1")["config"]["volatile.eth1.host_name"].as_str().unwrap().to_owned();
    assert!(policed(&second) && !shaped(&second).contains("tbf"));
    daemon.berth("config device remove c1 eth1").ok();
    assert!(!policed(&second));
    daemon.berth("config device set c1 eth0 limits.egress=1Mbit").ok();
    assert!(policed(&first));
    daemon.berth("stop c1 --force").ok();
    assert!(!policed(&first), "nothing is left of it");
    daemon.finish();
}

/// The network's own IPv4 address, and one that a guest can take.
fn addresses(daemon: &Daemon, network: &str) -> (String, String) {
    let network = daemon.get(&format!("/1.0/networks/{network}"));
    let (address, prefix) = network["config"]["ipv4.address"].as_str().unwrap().split_once('/').unwrap();
    assert_eq!(prefix, "24");
    (address.to_owned(), format!("{}.250", address.rsplit_once('.').unwrap().0))
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs `script`, which may not take less than `seconds`, but for what may go at once after a pause.
fn takes_its_time(daemon: &Daemon, script: &str, seconds: u64) {
    let start = Instant::now();
    let said = daemon.berth_args(["exec", "c1", "--", "sh", "-c", script]).ok();
    let took = start.elapsed();
    eprintln!("{script}: {took:?}");
    assert!(took + Duration::from_millis(500) > Duration::from_secs(seconds), "only {took:?}: {said}");
}
