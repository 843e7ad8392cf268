//! Programs run from outside.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use berth_guest::protocol::WindowSize;
use berth_supervisor::protocol::{Input, RefusalKind, Reply};

use crate::common::*;

#[test]
fn the_exit_status_tells_what_became_of_it() {
    let place = Place::new();
    fs::write(place.rootfs().join("etc/plain"), "x").unwrap();
    let container = Running::start(&place);
    for (script, status) in [("true", 0), ("false", 1), ("exit 42", 42), ("kill -9 $$", 137), ("kill -15 $$", 143)] {
        assert_eq!(container.sh(script).status, status, "{script}");
    }
    let refusal = |command: &str| match *container.run(container.exec_spec(&[command])).unwrap_err() {
        Reply::Refused { kind, message } => {
            assert!(message.contains(command), "{message}");
            kind
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(refusal("none"), RefusalKind::NotFound);
    assert_eq!(refusal("/bin/none"), RefusalKind::NotFound);
    assert_eq!(refusal("/etc/plain"), RefusalKind::PermissionDenied);
    assert_eq!(refusal("/etc"), RefusalKind::PermissionDenied);
    let mut spec = container.exec_spec(&["true"]);
    spec.cwd = Some("/none".into());
    let refused = container.run(spec).unwrap_err();
    assert!(matches!(&*refused, Reply::Refused { message, .. } if message.contains("/none")), "{refused:?}");
}

#[test]
fn streams_are_apart_and_input_comes_to_its_end() {
    let place = Place::new();
    let container = Running::start(&place);
    let (input, input_remote) = UnixStream::pair().unwrap();
    let spec = container.exec_spec(&["sh", "-c", "cat; echo bad >&2"]);
    let (connection, mut out, mut err) = container.begin(spec, input_remote.into());
    let text = "x".repeat(1 << 20);
    let writer = std::thread::spawn({
        let text = text.clone();
        let mut input = input;
        move || input.write_all(text.as_bytes()).unwrap()
    });
    let (mut got, mut bad) = (String::new(), String::new());
    out.read_to_string(&mut got).unwrap();
    err.read_to_string(&mut bad).unwrap();
    writer.join().unwrap();
    assert!(got == text && bad == "bad\n");
    assert!(matches!(connection.recv().unwrap(), Some((Reply::ExecStarted { .. }, _))));
    assert!(matches!(connection.recv().unwrap(), Some((Reply::ExecExited { status: 0 }, _))));
}

#[test]
fn a_program_is_in_all_namespaces_of_init() {
    let place = Place::new();
    let container = Running::start(&place);
    let listing = "for n in user mnt pid net uts ipc cgroup; do readlink /proc/$P/ns/$n; done";
    let inits = container.text(&listing.replace("$P", "1"));
    assert_eq!(container.text(&listing.replace("$P", "self")), inits);
    for name in ["user", "mnt", "pid", "net", "uts", "ipc", "cgroup"] {
        let host = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        let init = fs::read_link(format!("/proc/{}/ns/{name}", container.pid)).unwrap();
        assert_ne!(host, init);
        assert!(inits.contains(init.to_str().unwrap()), "{inits}");
    }
    let map = container.text("cat /proc/self/uid_map");
    let fields: Vec<_> = map.split_whitespace().collect();
    assert_eq!(fields, ["0", &container.spec.idmap.base.to_string(), "65536"]);
    assert_eq!(container.text("grep Seccomp: /proc/self/status").split_whitespace().last(), Some("2"));
    let cgroups = container.text("cat /proc/self/cgroup");
    let inside = |line: &str| line.ends_with(":/") || line.ends_with(":/.berth-exec");
    assert!(cgroups.lines().all(inside), "{cgroups}");
}

#[test]
fn user_groups_and_home_are_the_containers() {
    let place = Place::new();
    let container = Running::start(&place);
    let mut spec = container.exec_spec(&["sh", "-c", "id -u; id -g; id -G; pwd; grep CapEff /proc/self/status"]);
    (spec.uid, spec.gid) = (1000, 1000);
    let output = container.run(spec).unwrap();
    assert_eq!(output.out, "1000\n1000\n1000 29\n/home/ann\nCapEff:\t0000000000000000\n");
    assert_eq!(container.text("pwd"), "/root");
    assert!(container.text("env").contains("PATH=/bin:/sbin"));
}

#[test]
fn a_terminal_is_the_containers_and_follows_the_window() {
    let place = Place::new();
    let container = Running::start(&place);
    let spec = container.exec_spec(&["sh", "-c", "tty; stty size; read x; stty size; test -t 2; exit $?"]);
    let (connection, mut master) = container.on_terminal(spec, WindowSize { width: 81, height: 25 });
    let mut seen = String::new();
    let mut read_until = |master: &mut fs::File, text: &str| {
        let mut buffer = [0; 512];
        while !seen.contains(text) {
            let length = master.read(&mut buffer).unwrap();
            seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        seen.clone()
    };
    assert!(read_until(&mut master, "25 81").contains("/dev/pts/"));
    connection.send(&Input::Resize(WindowSize { width: 100, height: 40 }), &[]).unwrap();
    // The monitor serves in order: once this is answered the size is set.
    container.text("true");
    master.write_all(b"\n").unwrap();
    read_until(&mut master, "40 100");
    assert!(matches!(connection.recv().unwrap(), Some((Reply::ExecExited { status: 0 }, _))));
}

#[test]
fn signals_reach_the_program() {
    let place = Place::new();
    let container = Running::start(&place);
    let input = fs::File::open("/dev/null").unwrap();
    let script = "trap 'echo caught; exit 7' USR1; echo go; while :; do sleep 100 & wait $!; done";
    let (connection, mut out, _err) = container.begin(container.exec_spec(&["sh", "-c", script]), input.into());
    assert!(matches!(connection.recv().unwrap(), Some((Reply::ExecStarted { .. }, _))));
    out.read_exact(&mut [0; 3]).unwrap();
    connection.send(&Input::Signal(10), &[]).unwrap();
    assert!(matches!(connection.recv().unwrap(), Some((Reply::ExecExited { status: 7 }, _))));
}

#[test]
fn a_lost_connection_kills_the_program_but_not_the_container() {
    let place = Place::new();
    let container = Running::start(&place);
    let input = fs::File::open("/dev/null").unwrap();
    let (connection, mut out, _err) = container.begin(container.exec_spec(&["sleep", "1000"]), input.into());
    assert!(matches!(connection.recv().unwrap(), Some((Reply::ExecStarted { .. }, _))));
    drop(connection);
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(container.sh("pidof sleep | wc -w").out.trim(), "1", "init's own is left");
}

#[test]
fn a_program_dies_with_its_container() {
    let place = Place::new();
    let container = Running::start(&place);
    let input = fs::File::open("/dev/null").unwrap();
    let (connection, _out, _err) = container.begin(container.exec_spec(&["sleep", "1000"]), input.into());
    assert!(matches!(connection.recv().unwrap(), Some((Reply::ExecStarted { .. }, _))));
    container.kill();
    assert!(matches!(connection.recv().unwrap(), Some((Reply::ExecExited { status: 137 }, _))));
}

#[test]
fn many_at_once_do_not_get_in_each_others_way() {
    let place = Place::new();
    let container = Running::start(&place);
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let container = &container;
            scope.spawn(move || {
                for round in 0..5 {
                    let output = container.sh(&format!("echo {worker}.{round}; exit {round}"));
                    assert_eq!((output.out, output.status), (format!("{worker}.{round}\n"), round));
                }
            });
        }
    });
}

#[test]
fn hostile_user_files_hold_up_nobody() {
    let place = Place::new();
    let container = Running::start(&place);
    container.text("rm /etc/passwd /etc/group; mkfifo /etc/passwd; ln -s /dev/zero /etc/group");
    assert_eq!(container.text("echo $((1+1))"), "2");
    assert_eq!(container.text("rm /etc/passwd; mkdir /etc/passwd; pwd"), "/");
}

#[test]
fn scripts_run_by_their_interpreter() {
    let place = Place::new();
    let script = place.rootfs().join("bin/script");
    fs::write(&script, "#!/bin/sh\necho \"$0 $1\"\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let container = Running::start(&place);
    let output = container.run(container.exec_spec(&["script", "one two"])).unwrap();
    assert_eq!(output.out, "/bin/script one two\n");
}
