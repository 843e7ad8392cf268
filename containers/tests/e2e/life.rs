//! Start, stop and what lies between.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use berth_containers::spec::{CpuAllowance, CpuLimit, Limits, MemoryLimit};
use berth_guest::protocol::WindowSize;
use berth_supervisor::console::LOG_SIZE;
use berth_supervisor::protocol::{Event, ExitReason, Input, RefusalKind, Reply, Request, RunState};
use rustix::event::{PollFd, PollFlags, poll};

use crate::common::*;

#[test]
fn a_container_runs_and_is_killed() {
    let place = Place::new();
    let container = Running::start(&place);
    assert_eq!(container.text("echo hello; hostname; id -u"), "hello\ninside\n0");
    let (reply, _) = container.ask(&Request::Status);
    let Reply::Status(status) = reply else { panic!("{reply:?}") };
    assert_eq!((status.state, status.pid), (RunState::Running, container.pid));
    assert_eq!(container.kill().reason, ExitReason::Killed);
}

#[test]
fn shutdown_and_reboot_are_told_apart() {
    for (ask, reason) in [(None, ExitReason::Shutdown), (Some("kill -USR1 1"), ExitReason::Reboot)] {
        let place = Place::new();
        let container = Running::start(&place);
        wait_for_init(&container);
        let subscription = container.subscribe();
        match ask {
            None => assert!(matches!(container.ask(&Request::Shutdown), (Reply::Done, _))),
            Some(script) => drop(container.run(container.exec_spec(&["sh", "-c", script]))),
        }
        assert_eq!(container.ended(&subscription).reason, reason);
    }
}

/// Waits until init has set its traps.
fn wait_for_init(container: &Running) {
    let connection = container.connect();
    connection.send(&Request::Console { force: true }, &[]).unwrap();
    let (_, mut fds) = connection.recv::<Reply>().unwrap().unwrap();
    expect(&mut UnixStream::from(fds.remove(0)), "ready");
}

/// Reads until `text` has come.
fn expect(stream: &mut impl Read, text: &str) -> String {
    let mut got = String::new();
    let mut buffer = [0; 512];
    while !got.contains(text) {
        let length = stream.read(&mut buffer).unwrap();
        assert!(length > 0, "the end before {text:?}: {got:?}");
        got.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    got
}

#[test]
fn an_init_that_fails_is_told() {
    let place = Place::new();
    let mut spec = place.spec();
    spec.init = vec!["/bin/sh".into(), "-c".into(), "read _; exit 3".into()];
    let container = Running::start_spec(&place, spec);
    let subscription = container.subscribe();
    let connection = container.connect();
    connection.send(&Request::Console { force: false }, &[]).unwrap();
    let (_, mut fds) = connection.recv::<Reply>().unwrap().unwrap();
    UnixStream::from(fds.remove(0)).write_all(b"\n").unwrap();
    let exit = container.ended(&subscription);
    assert_eq!(exit.reason, ExitReason::Error);
    assert!(exit.message.contains("status 3"), "{exit:?}");
}

#[test]
fn a_start_without_init_is_undone() {
    let place = Place::new();
    let mut spec = place.spec();
    spec.init = vec!["/sbin/none".into()];
    let message = Starting::new(&place, spec.clone()).finish().err().unwrap();
    assert!(message.contains("/sbin/none") && message.contains("c1"), "{message}");
}

#[test]
fn a_daemon_that_goes_away_takes_the_start_with_it() {
    let place = Place::new();
    let mut starting = Starting::new(&place, place.spec());
    let (pid, netns) = starting.created().unwrap();
    assert!(fs::exists(format!("/proc/{pid}")).unwrap());
    drop((starting.handshake, netns));
    assert!(!starting.monitor.wait().unwrap().success());
    assert_nothing_left(&starting.spec, &starting.run_dir);
}

#[test]
fn a_killed_monitor_takes_the_container_with_it_and_the_rest_is_cleaned_up() {
    let place = Place::new();
    let mut container = Running::start(&place);
    let init = rustix::process::pidfd_open(
        rustix::process::Pid::from_raw(container.pid as i32).unwrap(),
        rustix::process::PidfdFlags::empty(),
    )
    .unwrap();
    container.monitor.kill().unwrap();
    container.monitor.wait().unwrap();
    container.ended = true;
    poll(&mut [PollFd::new(&init, PollFlags::IN)], None).unwrap();
    berth_containers::clean_up(&container.spec.uuid).unwrap();
    fs::remove_file(container.run_dir.join("control")).unwrap();
    assert_nothing_left(&container.spec, &container.run_dir);
}

#[test]
fn it_is_paused_and_goes_on() {
    let place = Place::new();
    let container = Running::start(&place);
    let subscription = container.subscribe();
    let input = fs::File::open("/dev/null").unwrap();
    let script = "while :; do echo; usleep 1000; done";
    let (_connection, mut out, _err) = container.begin(container.exec_spec(&["sh", "-c", script]), input.into());
    out.read_exact(&mut [0; 3]).unwrap();
    assert!(matches!(container.ask(&Request::Pause), (Reply::Done, _)));
    let event: (Reply, _) = subscription.recv().unwrap().unwrap();
    assert_eq!(event.0, Reply::Event(Event::State(RunState::Paused)));
    // What was written before is taken out; then nothing comes any more.
    rustix::io::ioctl_fionbio(&out, true).unwrap();
    while out.read(&mut [0; 4096]).is_ok() {}
    let time = rustix::event::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    assert_eq!(poll(&mut [PollFd::new(&out, PollFlags::IN)], Some(&time)).unwrap(), 0);
    let refused = container.run(container.exec_spec(&["true"])).unwrap_err();
    assert!(matches!(*refused, Reply::Refused { kind: RefusalKind::Busy, .. }), "{refused:?}");
    assert!(matches!(container.ask(&Request::Resume), (Reply::Done, _)));
    poll(&mut [PollFd::new(&out, PollFlags::IN)], None).unwrap();
    assert!(matches!(container.ask(&Request::Pause), (Reply::Done, _)));
    assert_eq!(container.kill().reason, ExitReason::Killed, "a frozen one can be killed");
}

#[test]
fn limits_reach_the_cgroups() {
    let place = Place::new();
    let mut spec = place.spec();
    spec.limits = Limits {
        memory: Some(MemoryLimit::Hard(64 << 20)),
        swap: Some(false),
        cpus: Some(CpuLimit::Count(1)),
        cpu_allowance: Some(CpuAllowance::Quota { quota_us: 90_000, period_us: 100_000 }),
        processes: Some(100),
        ..Limits::default()
    };
    let container = Running::start_spec(&place, spec);
    let read = |controller: &str, one: &str, two: &str| {
        let dir = cgroup_of(&container.spec, controller);
        let text = fs::read_to_string(dir.join(one)).or_else(|_| fs::read_to_string(dir.join(two))).unwrap();
        text.trim().to_owned()
    };
    assert_eq!(read("memory", "memory.limit_in_bytes", "memory.max"), (64 << 20).to_string());
    assert_eq!(read("pids", "pids.max", "pids.max"), "100");
    let cpu = read("cpuset", "cpuset.cpus", "cpuset.cpus");
    assert!(cpu.parse::<u32>().is_ok(), "{cpu}");
    assert!(["90000", "90000 100000"].contains(&read("cpu", "cpu.cfs_quota_us", "cpu.max").as_str()));
    assert_eq!(container.text("nproc"), "1");
    let eaten = container.sh("head -c 200m /dev/zero | tail -c 150m >/dev/null");
    assert_ne!(eaten.status, 0, "{eaten:?}");
    let forked = container.sh("i=0; while [ $i -lt 150 ]; do sleep 5 >/dev/null 2>&1 & i=$((i+1)); done; true");
    assert!(forked.status != 0 || forked.err.contains("fork"), "{forked:?}");
}

#[test]
fn impossible_limits_are_refused() {
    let place = Place::new();
    for cpus in [CpuLimit::Set("4000".into()), CpuLimit::Set("x".into()), CpuLimit::Count(0)] {
        let mut spec = place.spec();
        spec.limits.cpus = Some(cpus);
        let mut starting = Starting::new(&place, spec);
        let message = starting.created().unwrap_err();
        assert!(message.contains("limits.cpu"), "{message}");
        starting.monitor.wait().unwrap();
        assert_nothing_left(&starting.spec, &starting.run_dir);
    }
}

#[test]
fn figures_are_told() {
    let place = Place::new();
    let container = Running::start(&place);
    container.text("head -c 10m /dev/zero | md5sum");
    let (reply, _) = container.ask(&Request::Stats);
    let Reply::Stats(state) = reply else { panic!("{reply:?}") };
    assert!(state.cpu_ns > 0 && state.memory_usage > 0 && state.memory_peak >= state.memory_usage, "{state:?}");
    assert!(state.processes >= 1, "{state:?}");
    assert_eq!(state.network.keys().collect::<Vec<_>>(), ["lo"]);
    assert_eq!(state.network["lo"].state, "up");
}

#[test]
fn the_console_has_one_client_and_a_log() {
    let place = Place::new();
    let mut spec = place.spec();
    spec.init = vec!["/bin/sh".into()];
    let container = Running::start_spec(&place, spec);
    let open = |force| {
        let connection = container.connect();
        connection.send(&Request::Console { force }, &[]).unwrap();
        let (reply, mut fds) = connection.recv::<Reply>().unwrap().unwrap();
        (connection, reply, fds.pop().map(UnixStream::from))
    };
    let (connection, _, stream) = open(false);
    let mut stream = stream.unwrap();
    connection.send(&Input::Resize(WindowSize { width: 91, height: 33 }), &[]).unwrap();
    // The answer tells that the size, sent before, has been taken.
    assert!(matches!(container.ask(&Request::Status), (Reply::Status(_), _)));
    stream.write_all(b"echo s$((1+1))e; tty; stty size\n").unwrap();
    let seen = expect(&mut stream, "33 91");
    assert!(seen.contains("s2e") && seen.contains("/dev/console"), "{seen}");
    assert!(matches!(open(false).1, Reply::Refused { kind: RefusalKind::Busy, .. }));
    let (_forced, _, taken) = open(true);
    expect(&mut taken.unwrap(), "s2e");
    drop(connection);
    assert!(fs::read_to_string(&container.spec.console_log).unwrap().contains("s2e"));
    assert!(fs::metadata(&container.spec.console_log).unwrap().len() < LOG_SIZE);
}
