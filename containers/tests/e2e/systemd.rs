//! A whole Debian with systemd. Its root is made once by
//! `mmdebstrap --variant=minbase --include=systemd-sysv,dbus,udev bookworm DIR`; then
//! `BERTH_TEST_ROOTFS=DIR cargo test -p berth-containers --test e2e systemd -- --ignored --nocapture`.

use std::time::Instant;

use berth_supervisor::protocol::{ExitReason, Reply, Request};

use crate::common::*;

#[test]
#[ignore = "needs a Debian root in BERTH_TEST_ROOTFS"]
fn systemd_comes_up_whole_and_halts() {
    let place = Place::new();
    for (script, reason) in [(None, ExitReason::Shutdown), (Some("systemctl reboot"), ExitReason::Reboot)] {
        let mut spec = place.spec();
        spec.rootfs = std::env::var_os("BERTH_TEST_ROOTFS").expect("BERTH_TEST_ROOTFS is set").into();
        let begin = Instant::now();
        let container = Running::start_spec(&place, spec);
        println!("started after {:?}", begin.elapsed());
        // systemctl cannot wait before the bus is there.
        let wait = "until [ -S /run/dbus/system_bus_socket ]; do sleep 0.01; done; systemctl is-system-running --wait";
        let state = container.sh(wait);
        println!("{} after {:?}", state.out.trim(), begin.elapsed());
        if state.out.trim() != "running" {
            println!("{}", container.sh("systemctl --failed --no-pager; journalctl -b -p warning --no-pager").out);
        }
        assert_eq!(state.out.trim(), "running");
        println!("{}", container.sh("systemd-detect-virt; systemctl list-units --state=failed --no-legend; ps ax | wc -l; cat /proc/1/cgroup").out);
        let subscription = container.subscribe();
        let begin = Instant::now();
        match script {
            None => assert!(matches!(container.ask(&Request::Shutdown), (Reply::Done, _))),
            Some(script) => drop(container.sh(script)),
        }
        assert_eq!(container.ended(&subscription).reason, reason);
        println!("{reason:?} after {:?}", begin.elapsed());
    }
}
