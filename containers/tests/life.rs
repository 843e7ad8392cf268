//! Start, stop and what lies between.

mod common;

use std::fs;
use std::io::Read;

use berth_containers::spec::{CpuAllowance, CpuLimit, Limits, Mount};
use berth_guest::protocol::WindowSize;
use berth_supervisor::protocol::{Event, ExitReason, Input, RefusalKind, Reply, Request, RunState};
use common::*;

#[test]
fn a_container_runs_and_is_killed() {
    let place = Place::new();
    let container = Running::start(&place);
    assert_eq!(container.text("echo hello; hostname; id -u"), "hello\ninside\n0");
    let exit = container.kill();
    assert_eq!(exit.reason, ExitReason::Killed);
}
