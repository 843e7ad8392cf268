//! Networks on a real kernel, each test on a host of its own.
//!
//! A test starts its own binary again in new network, mount and process namespaces and does its work there: links of
//! the real host are never touched, tests run side by side, and whatever a failed test leaves goes with the namespaces.

use std::future::Future;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use berth_network::{Config, LeaseKind, MacAddr, Network, NetworkError, Networks, NicRequest};
use berth_store::mem::MemStore;
use berth_store::{Always, ErrorKind, Store};

/// Set inside the namespaces.
const INSIDE: &str = "BERTH_NETWORK_TEST";

/// Runs the test in namespaces of its own.
fn on_own_host<F: Future<Output = ()>>(name: &str, test: impl FnOnce() -> F) {
    if std::env::var_os(INSIDE).is_none() {
        let output = Command::new("unshare")
            .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture", "--test-threads=1"])
            .env(INSIDE, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        return;
    }
    sh("ip link set lo up");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), test()).await.expect("too slow") });
}

fn run(program: &str, args: &[&str]) -> Output {
    Command::new(program).args(args).output().unwrap()
}

/// Runs a command line, which must succeed, and returns what it says.
fn sh(line: &str) -> String {
    let output = run("sh", &["-c", line]);
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn config(pairs: &[(&str, &str)]) -> Config {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// A network namespace that a container could have.
struct Guest {
    netns: OwnedFd,
    dir: tempfile::TempDir,
}

impl Guest {
    fn new() -> Guest {
        let thread = std::thread::spawn(|| {
            // SAFETY: only this thread changes its network namespace; nothing else is affected.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
            std::fs::File::open("/proc/thread-self/ns/net").unwrap().into()
        });
        Guest { netns: thread.join().unwrap(), dir: tempfile::tempdir().unwrap() }
    }

    /// A command line that runs `line` in the namespace.
    fn line(&self, line: &str) -> String {
        let (pid, fd) = (std::process::id(), self.netns.as_raw_fd());
        format!("nsenter --net=/proc/{pid}/fd/{fd} -- sh -c '{line}'")
    }

    fn sh(&self, line: &str) -> String {
        sh(&self.line(line))
    }

    /// Gets an address by DHCP as a guest would.
    fn dhcp(&self, link: &str) -> IpAddr {
        let script = self.dir.path().join("bound");
        let text = "#!/bin/sh\n[ \"$1\" = bound ] || exit 0\nip addr add \"$ip/$mask\" dev \"$interface\"\necho \"$ip\" >\"$0.ip\"\n";
        std::fs::write(&script, text).unwrap();
        sh(&format!("chmod +x {}", script.display()));
        self.sh(&format!(
            "ip link set {link} up; busybox udhcpc -i {link} -n -q -f -t 20 -T 1 -s {}",
            script.display()
        ));
        std::fs::read_to_string(script.with_extension("ip")).unwrap().trim().parse().unwrap()
    }
}

async fn open(store: &Arc<MemStore>, dir: &Path) -> Networks {
    let store: Arc<dyn Store> = store.clone();
    Networks::open(store, dir.to_owned()).await.unwrap()
}

/// A fresh daemon directory that dnsmasq can get to, with its networks.
async fn fresh() -> (tempfile::TempDir, Arc<MemStore>, Networks) {
    let dir = tempfile::tempdir().unwrap();
    sh(&format!("chmod 711 {}", dir.path().display()));
    let store = Arc::new(MemStore::new());
    let networks = open(&store, dir.path()).await;
    (dir, store, networks)
}

fn request(network: &str, instance: &str) -> NicRequest {
    NicRequest {
        instance: uuid::Uuid::new_v4(),
        instance_name: instance.to_owned(),
        project: "default".to_owned(),
        device: "eth0".to_owned(),
        network: network.to_owned(),
        hwaddr: MacAddr::random(),
        name: "eth0".to_owned(),
        mtu: None,
        ipv4: None,
        ipv6: None,
    }
}

fn address(network: &Network, key: &str) -> (IpAddr, String) {
    let value = &network.config[key];
    (value.split_once('/').unwrap().0.parse().unwrap(), value.clone())
}

fn pid(dir: &Path, network: &str) -> u32 {
    let path = dir.join("networks").join(network).join("dnsmasq.pid");
    std::fs::read_to_string(path).unwrap().trim().parse().unwrap()
}

/// Whether a process runs; one that has ended but was not waited for does not.
fn runs(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

/// Waits for something that tells nobody when it happens.
async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..500 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{what} does not happen");
}

#[test]
fn a_container_gets_address_and_name() {
    on_own_host("a_container_gets_address_and_name", || async {
        let (dir, _store, networks) = fresh().await;
        assert!(networks.watch_warnings().borrow().is_empty());
        let name = networks.default_network().unwrap();
        assert_eq!(name, "berthbr0");
        let network = networks.get("default", &name).await.unwrap();
        assert_eq!((network.status.as_str(), network.managed), ("Created", true));
        assert_eq!((network.config["ipv4.nat"].as_str(), network.config["ipv6.nat"].as_str()), ("true", "true"));
        let (gateway, _) = address(&network, "ipv4.address");

        let guest = Guest::new();
        let request = request(&name, "web");
        let nic = networks.attach_container(&request, guest.netns.try_clone().unwrap()).await.unwrap();
        assert!(guest.sh("cat /proc/net/dev").contains("eth0"));
        assert!(guest.sh("ip link show eth0").contains(&request.hwaddr.to_string()));
        assert!(sh("ip -o link show master berthbr0").contains(&nic.host_name));

        let ip = guest.dhcp("eth0");
        let leases = networks.leases(&name).await.unwrap();
        let lease = leases.iter().find(|lease| lease.address == ip).unwrap();
        assert_eq!(
            (lease.hostname.as_str(), lease.hwaddr, lease.kind),
            ("web", Some(request.hwaddr), LeaseKind::Dynamic)
        );
        assert_eq!(leases.iter().filter(|lease| lease.kind == LeaseKind::Gateway).count(), 2);
        for question in ["web", "web.lxd"] {
            let answer = guest.sh(&format!("busybox nslookup -type=a {question} {gateway}"));
            assert!(answer.contains(&ip.to_string()), "{answer}");
        }
        guest.sh(&format!("busybox ping -c 1 -W 5 {gateway}"));

        let state = networks.state(&name).await.unwrap();
        assert_eq!((state.state.as_str(), state.mtu), ("up", 1500));
        assert!(state.addresses.iter().any(|a| a.address == gateway && a.scope == "global" && a.family == "inet"));
        assert!(state.counters.bytes_received > 0);

        // The router is advertised: an address of the network's prefix arrives by itself.
        let (gateway6, _) = address(&network, "ipv6.address");
        let IpAddr::V6(gateway6) = gateway6 else { panic!() };
        let own = request.hwaddr.slaac(gateway6);
        until("an IPv6 address", || guest.sh("ip -6 addr show eth0 scope global").contains(&own.to_string())).await;

        networks.detach(&request, &nic.host_name).await.unwrap();
        networks.detach(&request, &nic.host_name).await.unwrap();
        assert!(!sh("ip -o link").contains(&nic.host_name));
        let left = |what: &str| std::fs::read_dir(dir.path().join("networks/berthbr0").join(what)).unwrap().count();
        assert_eq!((left("hosts"), left("ports")), (0, 0));
    });
}

#[test]
fn names_come_from_berth_only() {
    on_own_host("names_come_from_berth_only", || async {
        let (_dir, _store, networks) = fresh().await;
        let network = networks.get("default", "berthbr0").await.unwrap();
        let (gateway, net) = address(&network, "ipv4.address");
        let fixed: std::net::Ipv4Addr = net.replace(".1/24", ".77").parse().unwrap();
        let (thief, victim) = (Guest::new(), Guest::new());
        let mut asked = request("berthbr0", "victim");
        asked.ipv4 = Some(fixed);
        networks.attach_container(&request("berthbr0", "thief"), thief.netns.try_clone().unwrap()).await.unwrap();
        networks.attach_container(&asked, victim.netns.try_clone().unwrap()).await.unwrap();
        let script = thief.dir.path().join("none");
        std::fs::write(&script, "#!/bin/sh\n").unwrap();
        thief.sh(&format!(
            "chmod +x {0}; ip link set eth0 up; busybox udhcpc -i eth0 -n -q -f -x hostname:victim -s {0}",
            script.display()
        ));
        assert_eq!(victim.dhcp("eth0"), IpAddr::from(fixed));
        let answer = victim.sh(&format!("busybox nslookup -type=a victim.lxd {gateway}"));
        assert!(answer.contains(&fixed.to_string()), "{answer}");
        let leases = networks.leases("berthbr0").await.unwrap();
        let lease = leases.iter().find(|lease| lease.address == IpAddr::from(fixed)).unwrap();
        assert_eq!(lease.kind, LeaseKind::Static);
    });
}

#[test]
fn a_virtual_machine_gets_a_tap() {
    on_own_host("a_virtual_machine_gets_a_tap", || async {
        let (_dir, _store, networks) = fresh().await;
        let request = request("berthbr0", "vm");
        let (name, tap) = networks.make_tap(&request).await.unwrap();
        let ports = || sh("ip -o link show master berthbr0");
        let details = sh(&format!("ip -d link show {name}"));
        assert!(details.contains("tun type tap") && details.contains("vnet_hdr on"), "{details}");
        assert!(details.contains("persist off") && details.contains("state DOWN"), "{details}");
        let frame = [0; 12 + 60];
        let refused = rustix::io::write(&tap, &frame).unwrap_err();
        assert_eq!((ports(), refused), (String::new(), rustix::io::Errno::IO), "it leads nowhere yet");
        for _ in 0..2 {
            networks.connect_tap(&request, &name).await.unwrap();
            assert!(ports().contains(&name));
        }
        assert_eq!(rustix::io::write(&tap, &frame), Ok(frame.len()));
        let copy = tap.try_clone().unwrap();
        drop(tap);
        assert!(sh("ip -o link").contains(&name));
        drop(copy);
        assert!(!sh("ip -o link").contains(&name));
        networks.detach(&request, &name).await.unwrap();
        let nowhere = NicRequest { network: "nowhere0".to_owned(), ..request };
        assert!(matches!(networks.make_tap(&nowhere).await, Err(NetworkError::NotFound(_))));
    });
}

#[test]
fn a_restart_disturbs_nothing() {
    on_own_host("a_restart_disturbs_nothing", || async {
        let (dir, store, networks) = fresh().await;
        let guest = Guest::new();
        let nic =
            networks.attach_container(&request("berthbr0", "c1"), guest.netns.try_clone().unwrap()).await.unwrap();
        guest.sh("ip link set eth0 up");
        let look = || {
            let links = sh("ip -o addr; ip -o link; nft -a list ruleset");
            // Link-local addresses come and go by the kernel's own doing.
            let ours = |line: &&str| line.contains("berth") && !line.contains("fe80");
            let steady: Vec<&str> = links.lines().filter(ours).collect();
            (pid(dir.path(), "berthbr0"), steady.join("\n"))
        };
        until("the bridge runs", || sh("ip -o link show berthbr0").contains("state UP")).await;
        let before = look();
        networks.shutdown();
        drop(networks);
        assert!(runs(before.0));
        let networks = open(&store, dir.path()).await;
        assert_eq!(look(), before);
        assert_eq!(networks.default_network().as_deref(), Some("berthbr0"));

        // What is missing comes back: rules, a dnsmasq that was killed, the bridge with its ports.
        drop(networks);
        sh(&format!("nft delete table inet berth_berthbr0; kill -9 {}; ip link del berthbr0", before.0));
        until("the end of dnsmasq", || !runs(before.0)).await;
        let networks = open(&store, dir.path()).await;
        assert!(networks.watch_warnings().borrow().is_empty());
        assert!(sh("nft list tables").contains("berth_berthbr0"));
        assert!(sh("ip -o link show master berthbr0").contains(&nic.host_name));
        guest.dhcp("eth0");
    });
}

#[test]
fn a_dead_dnsmasq_is_started_again() {
    on_own_host("a_dead_dnsmasq_is_started_again", || async {
        let (dir, _store, networks) = fresh().await;
        let first = pid(dir.path(), "berthbr0");
        sh(&format!("kill -9 {first}"));
        until("a new dnsmasq", || pid(dir.path(), "berthbr0") != first).await;
        let second = pid(dir.path(), "berthbr0");
        assert!(runs(second));
        // Again at once: something is wrong, which is told instead of trying for ever.
        sh(&format!("kill -9 {second}"));
        until("a warning", || {
            networks
                .watch_warnings()
                .borrow()
                .values()
                .any(|text| text.contains("dnsmasq") && !text.contains("as root"))
        })
        .await;
        assert_eq!(networks.get("default", "berthbr0").await.unwrap().status, "Unavailable");
        // And the next instance gives it another chance.
        let guest = Guest::new();
        networks.attach_container(&request("berthbr0", "c1"), guest.netns.try_clone().unwrap()).await.unwrap();
        assert_eq!(networks.get("default", "berthbr0").await.unwrap().status, "Created");
        guest.dhcp("eth0");
    });
}

#[test]
fn deleting_leaves_nothing() {
    on_own_host("deleting_leaves_nothing", || async {
        let (dir, store, networks) = fresh().await;
        let made = networks.create(
            "default",
            "lab",
            "mine",
            config(&[("ipv6.address", "none"), ("dns.domain", "lab")]),
            &Always,
        );
        assert!(!made.await.unwrap().config.contains_key("ipv6.nat"));
        let pids = [pid(dir.path(), "lab"), pid(dir.path(), "berthbr0")];
        for name in ["lab", "berthbr0"] {
            networks.delete("default", name).await.unwrap();
        }
        assert!(!sh("ip -o link").contains("lab") && !sh("ip -o link").contains("berthbr0"));
        assert_eq!(sh("nft list ruleset"), "");
        assert!(pids.iter().all(|pid| !runs(*pid)));
        assert_eq!(std::fs::read_dir(dir.path().join("networks")).unwrap().count(), 0);
        assert_eq!(networks.default_network(), None);
        assert!(matches!(networks.delete("default", "lab").await, Err(NetworkError::NotFound(_))));
        // Deleted is deleted: the default network does not come back by itself.
        drop(networks);
        let networks = open(&store, dir.path()).await;
        assert_eq!(networks.list("default").await.unwrap(), vec![]);
    });
}

#[test]
fn two_daemons_share_a_host() {
    on_own_host("two_daemons_share_a_host", || async {
        // A link of somebody else, and a subnet that is in use.
        sh(
            "ip link add berthbr0 type veth peer name theirs1; ip addr add 10.0.0.1/9 dev berthbr0; ip link set berthbr0 up",
        );
        let (a, b) = tokio::join!(fresh(), fresh());
        let names = [a.2.default_network().unwrap(), b.2.default_network().unwrap()];
        assert!(names[0] != names[1] && !names.contains(&"berthbr0".to_owned()), "{names:?}");
        let mut subnets = Vec::new();
        for (networks, name) in [(&a.2, &names[0]), (&b.2, &names[1])] {
            let network = networks.get("default", name).await.unwrap();
            let (_, net) = address(&network, "ipv4.address");
            let second: u8 = net.split('.').nth(1).unwrap().parse().unwrap();
            assert!(second >= 128, "{net} is in use");
            subnets.push(net);
            // Each sees the other's bridge as one that it does not manage.
            let others = networks.list("default").await.unwrap();
            assert_eq!(others.iter().filter(|n| n.managed).count(), 1);
            assert_eq!(others.iter().filter(|n| !n.managed && n.kind == "bridge").count(), 1);
        }
        assert_ne!(subnets[0], subnets[1]);
    });
}

#[test]
fn what_others_have_is_left_alone() {
    on_own_host("what_others_have_is_left_alone", || async {
        let (dir, store, networks) = fresh().await;
        networks.create("default", "lab", "", config(&[]), &Always).await.unwrap();
        drop(networks);
        // As after a reboot on which another daemon was first to take the name.
        sh(&format!("kill {}; ip link del lab; nft delete table inet berth_lab", pid(dir.path(), "lab")));
        sh("rm -r $0/networks/lab; ip link add lab type bridge; nft add table inet berth_lab"
            .replace("$0", &dir.path().display().to_string())
            .as_str());
        let networks = open(&store, dir.path()).await;
        assert_eq!(networks.get("default", "lab").await.unwrap().status, "Unavailable");
        assert!(networks.watch_warnings().borrow()["lab"].contains("is not Berth"));
        let guest = Guest::new();
        let error =
            networks.attach_container(&request("lab", "c1"), guest.netns.try_clone().unwrap()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        networks.delete("default", "lab").await.unwrap();
        assert!(sh("ip -o link").contains("lab:") && sh("nft list tables").contains("berth_lab"));
    });
}

#[test]
fn updates_apply_or_undo() {
    on_own_host("updates_apply_or_undo", || async {
        let (dir, _store, networks) = fresh().await;
        let before = networks.get("default", "berthbr0").await.unwrap();
        let change = |pairs: &[(&str, &str)]| {
            let mut all = before.config.clone();
            all.extend(config(pairs));
            all
        };
        let good = change(&[("ipv4.address", "10.200.1.1/24"), ("bridge.mtu", "1400"), ("ipv6.address", "none")]);
        let after = networks.update("default", "berthbr0", "new", good, Some(before.mod_rev)).await.unwrap();
        let shown = sh("ip addr show berthbr0");
        assert!(shown.contains("10.200.1.1/24") && shown.contains("mtu 1400"), "{shown}");
        assert!(!shown.contains(&before.config["ipv4.address"]) && !shown.contains(&before.config["ipv6.address"]));
        assert!(sh("nft list ruleset").contains("10.200.1.0/24"));
        let stale = networks.update("default", "berthbr0", "", change(&[]), Some(before.mod_rev)).await.unwrap_err();
        assert_eq!(stale.kind(), ErrorKind::Conflict);

        let bad = change(&[("raw.dnsmasq", "no-such-option"), ("ipv4.address", "10.201.1.1/24")]);
        let error = networks.update("default", "berthbr0", "", bad, None).await.unwrap_err().to_string();
        assert!(error.contains("dnsmasq") && error.contains("berthbr0"), "{error}");
        let now = networks.get("default", "berthbr0").await.unwrap();
        assert_eq!((now.config, now.status), (after.config, "Created".to_owned()));
        assert!(sh("ip addr show berthbr0").contains("10.200.1.1/24") && runs(pid(dir.path(), "berthbr0")));
    });
}

#[test]
fn refusals_leave_nothing() {
    on_own_host("refusals_leave_nothing", || async {
        let (dir, _store, networks) = fresh().await;
        sh("ip link add theirs type veth peer name theirs1");
        let create =
            |name: &'static str, pairs: &[(&str, &str)]| networks.create("default", name, "", config(pairs), &Always);
        assert!(matches!(create("berthbr0", &[]).await, Err(NetworkError::Exists(_))));
        assert!(matches!(create("theirs", &[]).await, Err(NetworkError::LinkTaken(_))));
        assert!(matches!(create("a/b", &[]).await, Err(NetworkError::BadName(_))));
        let text = create("lab", &[("ipv4.natt", "true")]).await.unwrap_err().to_string();
        assert!(text.contains("did you mean \"ipv4.nat\"?"), "{text}");
        create("lab", &[("raw.dnsmasq", "no-such-option")]).await.unwrap_err();
        assert!(!sh("ip -o link").contains("lab") && !sh("nft list tables").contains("lab"));
        assert!(!dir.path().join("networks/lab").exists());
        create("lab", &[]).await.unwrap();
        let guest = Guest::new();
        let error = networks.attach_container(&request("theirs", "c1"), guest.netns.try_clone().unwrap()).await;
        assert!(matches!(error, Err(NetworkError::Unavailable { .. })));
        let error = networks.attach_container(&request("nowhere", "c1"), guest.netns.try_clone().unwrap()).await;
        assert!(matches!(error, Err(NetworkError::NotFound(_))));
        // A name inside that is taken.
        guest.sh("ip link add eth0 type veth peer name eth1");
        let links = sh("ip -o link | wc -l");
        networks.attach_container(&request("lab", "c1"), guest.netns.try_clone().unwrap()).await.unwrap_err();
        assert_eq!(sh("ip -o link | wc -l"), links);
        assert_eq!(std::fs::read_dir(dir.path().join("networks/lab/hosts")).unwrap().count(), 0);
    });
}

#[test]
fn works_without_ipv6_and_in_private_directories() {
    on_own_host("works_without_ipv6_and_in_private_directories", || async {
        sh("echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6");
        let dir = tempfile::tempdir().unwrap();
        let inner: PathBuf = dir.path().join("private dir");
        sh(&format!("chmod 700 {}", dir.path().display()));
        let store = Arc::new(MemStore::new());
        let networks = open(&store, &inner).await;
        let warnings = networks.watch_warnings().borrow()["berthbr0"].clone();
        assert!(warnings.contains("IPv6 is not available") && warnings.contains("runs as root"), "{warnings}");
        let guest = Guest::new();
        networks.attach_container(&request("berthbr0", "c1"), guest.netns.try_clone().unwrap()).await.unwrap();
        guest.dhcp("eth0");
        networks.delete("default", "berthbr0").await.unwrap();
    });
}

#[test]
fn a_host_without_the_programs_still_starts() {
    on_own_host("a_host_without_the_programs_still_starts", || async {
        let path = std::env::var_os("PATH");
        // SAFETY: nothing else reads or writes the environment at this time.
        unsafe { std::env::set_var("PATH", "/nonexistent") };
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(MemStore::new());
        let networks = open(&store, dir.path()).await;
        // SAFETY: as above.
        unsafe { std::env::set_var("PATH", path.unwrap()) };
        assert_eq!(networks.default_network(), None);
        assert!(networks.watch_warnings().borrow().values().any(|text| text.contains("install the package nftables")));
        assert!(!sh("ip -o link").contains("berthbr0"));
        // With them in place the next start makes up for it.
        drop(networks);
        let networks = open(&store, dir.path()).await;
        assert_eq!(networks.default_network().as_deref(), Some("berthbr0"));
    });
}
