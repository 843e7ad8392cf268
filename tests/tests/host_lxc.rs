//! LXD's own client against the daemon; see `clients`.

mod clients;

use clients::Client::Lxc;

#[test]
fn images() {
    clients::images(Lxc);
}

#[test]
fn life() {
    clients::life(Lxc);
}

#[test]
fn programs() {
    clients::programs(Lxc);
}

#[test]
fn console() {
    clients::console(Lxc);
}

#[test]
fn files() {
    clients::files(Lxc);
}

#[test]
fn configuration() {
    clients::configuration(Lxc);
}

#[test]
fn profiles() {
    clients::profiles(Lxc);
}

#[test]
fn events_and_queries() {
    clients::events_and_queries(Lxc);
}

#[test]
fn snapshots() {
    clients::snapshots(Lxc);
}

#[test]
fn copies() {
    clients::copies(Lxc);
}

#[test]
fn moves() {
    clients::moves(Lxc);
}

#[test]
fn publishing() {
    clients::publishing(Lxc);
}
