//! What a container learns of itself on `/dev/lxd/sock`.

use berth_tests::guests::daemon_with_debian;
use berth_tests::{Daemon, Terminal};
use serde_json::{Value, json};

/// One request; prints the status and the body.
const ASK: &str = r#"
use IO::Socket::UNIX;
my ($path) = @ARGV;
my $socket = IO::Socket::UNIX->new(Peer => "/dev/lxd/sock") or die "connect: $!\n";
print $socket "GET $path HTTP/1.1\r\nHost: lxd\r\nConnection: close\r\n\r\n";
local $/; my ($head, $body) = split /\r\n\r\n/, <$socket>, 2;
$head =~ m{^HTTP/1.1 (\d+)} or die $head;
print "$1 $body";
"#;
/// Listens to events; prints "listening" and then each event in a line (RFC 6455: unmasked frames of less than 64 KiB).
const LISTEN: &str = r#"
use IO::Socket::UNIX;
$| = 1;
my $socket = IO::Socket::UNIX->new(Peer => "/dev/lxd/sock") or die "connect: $!\n";
my $key = "dGhlIHNhbXBsZSBub25jZQ==";
print $socket "GET /1.0/events HTTP/1.1\r\nHost: lxd\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    . "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: $key\r\n\r\n";
while (<$socket>) { last if $_ eq "\r\n" }
print "listening\n";
while (read $socket, my $head, 2) {
    my ($first, $length) = unpack "CC", $head;
    if ($length == 126) { read $socket, my $more, 2; $length = unpack "n", $more }
    read $socket, my $text, $length;
    print "$text\n" if ($first & 15) == 1;
}
"#;

fn ask(daemon: &Daemon, path: &str) -> (u16, String) {
    let said = daemon.berth_args(["exec", "c1", "--", "perl", "-e", ASK, path]).ok();
    let (status, body) = said.split_once(' ').unwrap();
    (status.parse().unwrap(), body.to_owned())
}

fn ask_json(daemon: &Daemon, path: &str) -> Value {
    let (status, body) = ask(daemon, path);
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap_or_else(|e| panic!("{path}: {e}: {body}"))
}

#[test]
fn a_container_learns_about_itself_and_about_nobody_else() {
    let mut daemon = daemon_with_debian();
    daemon.berth_args(["init", "debian/12", "c1", "--config", "user.colour=green", "--config", "limits.cpu=1"]).ok();
    daemon.lxc_args(["config", "set", "c1", "cloud-init.user-data", "#cloud-config\npackages: []\n"]).ok();
    daemon.berth("start c1").ok();
    assert_eq!(ask_json(&daemon, "/"), json!(["/1.0"]));
    let about = json!({"api_version": "1.0", "location": "none", "instance_type": "container"});
    assert_eq!(ask_json(&daemon, "/1.0"), about);
    let keys = json!(["/1.0/config/cloud-init.user-data", "/1.0/config/user.colour"]);
    assert_eq!(ask_json(&daemon, "/1.0/config"), keys);
    assert_eq!(ask(&daemon, "/1.0/config/user.colour"), (200, "green".into()));
    assert_eq!(ask(&daemon, "/1.0/config/cloud-init.user-data"), (200, "#cloud-config\npackages: []\n".into()));
    let id = daemon.berth("config get c1 volatile.cloud-init.instance-id").ok();
    let meta = format!("#cloud-config\ninstance-id: {id}local-hostname: c1\n");
    assert_eq!(ask(&daemon, "/1.0/meta-data"), (200, meta));
    let hwaddr = daemon.berth("config get c1 volatile.eth0.hwaddr").ok();
    assert_eq!(ask_json(&daemon, "/1.0/devices")["eth0"]["hwaddr"], hwaddr.trim());
    for (path, status) in [
        ("/1.0/config/limits.cpu", 403),
        ("/1.0/config/volatile.uuid", 403),
        ("/1.0/config/user.nothing", 404),
        ("/1.0/instances", 404),
        ("/1.0/config/../../instances", 404),
        ("/1.0/events", 400),
        ("/1.0/events?type=lifecycle", 400),
    ] {
        assert_eq!(ask(&daemon, path).0, status, "{path}");
    }
    // Root only: passwords may be in it. And nothing can be put where everybody would look.
    let other = daemon.berth_args(["exec", "c1", "--user", "1000", "--", "perl", "-e", ASK, "/1.0"]).fails();
    assert!(other.contains("Permission denied"), "{other}");
    let write = daemon.berth("exec c1 -- touch /dev/lxd/x").fails();
    assert!(write.contains("Read-only file system"), "{write}");

    // It is there again after each restart of the daemon.
    daemon.kill();
    daemon.spawn();
    assert_eq!(ask(&daemon, "/1.0/config/user.colour"), (200, "green".into()));
    daemon.berth("stop --force c1").ok();
    daemon.berth("rename c1 c3").ok();
    daemon.berth("rename c3 c1").ok();
    daemon.berth("config set c1 security.devlxd=false").ok();
    daemon.berth("start c1").ok();
    assert!(daemon.berth("exec c1 -- ls /dev/lxd").fails().contains("No such file"));
    daemon.finish();
}

/// The next event that is shown.
fn event(listener: &mut Terminal) -> Value {
    listener.expect("{\"");
    let rest = listener.expect("\n");
    serde_json::from_str(&format!("{{\"{rest}")).unwrap_or_else(|e| panic!("{e}: {rest}"))
}

#[test]
fn a_container_hears_of_changes() {
    let daemon = daemon_with_debian();
    daemon.berth("launch debian/12 c1").ok();
    let mut listener = Terminal::start(daemon.berth_args(["exec", "c1", "--", "perl", "-e", LISTEN]));
    listener.expect("listening");
    // What it may not read it is not told.
    daemon.berth("config set c1 limits.memory=256MiB").ok();
    daemon.berth("config set c1 user.colour=green").ok();
    let event = event(&mut listener);
    assert_eq!(event["type"], "config");
    assert_eq!(event["metadata"], json!({"key": "user.colour", "old_value": "", "value": "green"}));
    // A change of a profile is one of the instance.
    daemon.berth("profile set default user.size=large").ok();
    assert_eq!(self::event(&mut listener)["metadata"]["key"], "user.size");
    daemon.lxc("config device add c1 zero unix-char path=/dev/zero2 source=/dev/zero").ok();
    let event = self::event(&mut listener);
    assert_eq!(event["type"], "device");
    assert_eq!((&event["metadata"]["action"], &event["metadata"]["name"]), (&json!("added"), &json!("zero")));
    daemon.berth("stop --force c1").ok();
    daemon.finish();
}

#[test]
fn one_that_connects_without_end_harms_only_itself() {
    let daemon = daemon_with_debian();
    daemon.berth("launch debian/12 c1").ok();
    daemon.berth("launch debian/12 c2").ok();
    let hold = "use IO::Socket::UNIX; $| = 1; my @all; \
                for (1..16) { push @all, IO::Socket::UNIX->new(Peer => '/dev/lxd/sock') or die $! } print \"held\\n\"; sleep";
    let mut holder = Terminal::start(daemon.berth_args(["exec", "c2", "--", "perl", "-e", hold]));
    holder.expect("held");
    assert_eq!(ask_json(&daemon, "/"), json!(["/1.0"]));
    assert!(daemon.berth("list").ok().contains("c2"));
    daemon.berth("stop --force c2").ok();
    daemon.finish();
}
