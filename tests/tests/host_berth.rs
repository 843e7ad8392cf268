//! Our client, in the words that `lxc` users know; see `clients`.

mod clients;

use clients::Client::Berth;

#[test]
fn images() {
    clients::images(Berth);
}

#[test]
fn life() {
    clients::life(Berth);
}

#[test]
fn programs() {
    clients::programs(Berth);
}

#[test]
fn console() {
    clients::console(Berth);
}

#[test]
fn files() {
    clients::files(Berth);
}

#[test]
fn configuration() {
    clients::configuration(Berth);
}

#[test]
fn profiles() {
    clients::profiles(Berth);
}

#[test]
fn events_and_queries() {
    clients::events_and_queries(Berth);
}

#[test]
fn snapshots() {
    clients::snapshots(Berth);
}

#[test]
fn copies() {
    clients::copies(Berth);
}

#[test]
fn moves() {
    clients::moves(Berth);
}

#[test]
fn publishing() {
    clients::publishing(Berth);
}
