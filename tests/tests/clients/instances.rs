//! Instances of a Debian, from launch to deletion.

use berth_tests::{Daemon, Terminal};

use super::Client;

const STATE: &str = "list --format csv --columns ns";

/// Launched, stopped, started, paused, restarted, deleted.
pub fn life(client: Client) {
    let daemon = client.with_debian();
    let run = |words: &str| client.run(&daemon, words);
    let said = run("launch debian c1").ok();
    assert!(said.contains("Creating c1") && said.contains("Starting c1"), "{said}");
    assert_eq!(run("list --format csv --columns nst").ok(), "c1,RUNNING,CONTAINER\n");
    assert_eq!(run("list status=running --format csv --columns n").ok(), "c1\n");
    assert_eq!(run("list status=stopped --format csv --columns n").ok(), "");
    assert_eq!(run("list nosuch --format csv").ok(), "");
    daemon.wait_booted("c1");
    let info = run("info c1").ok();
    for part in ["Name: c1", "Status: RUNNING", "Processes: ", "Memory (current): ", "eth0:", "Host interface: veth"] {
        assert!(info.contains(part), "\"{part}\" is missing in: {info}");
    }
    assert!(run("info").ok().contains("api_version: \"1.0\""));

    run("pause c1").ok();
    assert_eq!(run(STATE).ok(), "c1,FROZEN\n");
    run("start c1").ok();
    assert_eq!(run(STATE).ok(), "c1,RUNNING\n");
    let before = daemon.instance_pid("c1");
    run("restart c1").ok();
    assert_ne!(daemon.instance_pid("c1"), before);
    run("stop c1 --force").ok();
    assert_eq!(run(STATE).ok(), "c1,STOPPED\n");
    run("start c1").ok();
    daemon.wait_booted("c1");
    run("stop c1").ok();
    assert_eq!(run(STATE).ok(), "c1,STOPPED\n");
    assert!(run("stop c1").fails().contains("already stopped"));

    assert!(run("launch debian c1").fails().contains("already exists"));
    run("init debian c2 --ephemeral --config user.purpose=test").ok();
    run("start c2").ok();
    run("stop c2 --force").ok();
    assert_eq!(run(STATE).ok(), "c1,STOPPED\n", "what is ephemeral goes when it stops");
    run("start c1").ok();
    assert!(run("delete c1").fails().contains("running"));
    run("delete c1 --force").ok();
    assert_eq!(run("list --format csv").ok(), "");
    daemon.finish();
}

/// Exit status, input, output, directory, user and terminal of programs.
pub fn programs(client: Client) {
    let daemon = client.with_debian();
    client.run(&daemon, "launch debian c1").ok();
    let shell = |script: &str| client.args(&daemon, ["exec", "c1", "--", "sh", "-c", script]);
    assert_eq!(shell("exit 7").any().status, 7);
    assert_eq!(shell("kill -KILL $$").any().status, 137);
    assert_eq!(client.run(&daemon, "exec c1 -- /no/such/program").any().status, 127);
    let output = shell("echo out; echo err >&2").any();
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"));
    let large = "0123456789abcdef\n".repeat(100_000);
    assert_eq!(client.run(&daemon, "exec c1 -- cat").input(large.clone()).ok(), large);
    assert_eq!(client.run(&daemon, "exec c1 --cwd /tmp -- pwd").ok(), "/tmp\n");
    assert_eq!(
        client.run(&daemon, "exec c1 --env A=b --user 33 --group 33 -- sh -c id").ok().split(' ').next(),
        Some("uid=33(www-data)")
    );
    assert_eq!(shell("hostname").ok(), "c1\n");

    let mut terminal = Terminal::start(client.run(&daemon, "exec c1 -- bash --norc"));
    // With an echo, what is typed would look like output.
    terminal.send("PS1=prompt:; stty -echo\n");
    terminal.send("tty; stty size; id -un; echo ready\n");
    let said = terminal.expect("\nready");
    assert!(said.contains("/dev/pts/") && said.contains("24 80") && said.contains("root"), "{said}");
    terminal.send("trap 'stty size; echo resized' WINCH; echo waiting\n");
    terminal.expect("\nwaiting");
    terminal.expect("prompt:");
    terminal.resize(100, 30);
    assert!(terminal.expect("resized").contains("30 100"));
    // By a shell of its own, because bash itself may miss an interrupt just before it starts a program.
    terminal.send("sh -c 'echo asleep; exec sleep 600'\n");
    terminal.expect("asleep");
    terminal.send("\x03");
    terminal.expect("prompt:");
    terminal.send("exit 5\n");
    assert_eq!(terminal.end().0, 5);
    daemon.finish();
}

/// The console asks for a login; ctrl-a q leaves; the log has it all.
pub fn console(client: Client) {
    let daemon = client.with_debian();
    client.run(&daemon, "launch debian c1").ok();
    let mut terminal = Terminal::start(client.run(&daemon, "console c1"));
    terminal.expect("To ");
    terminal.expect("a q");
    daemon.wait_booted("c1");
    terminal.send("\r");
    terminal.expect("c1 login:");
    let (status, second) = Terminal::start(client.run(&daemon, "console c1")).end();
    assert_eq!(status, 1);
    assert!(second.contains("attached to the console of instance \"c1\""), "one at a time: {second}");
    terminal.send("nobody\r");
    terminal.expect("Password:");
    terminal.press_until_end(&["\x01", "q"]);
    assert_eq!(terminal.end().0, 0);
    let log = client.run(&daemon, "console c1 --show-log").ok();
    assert!(log.contains("c1 login:"), "{log}");

    // It ends by itself with the instance.
    let mut terminal = Terminal::start(client.run(&daemon, "console c1"));
    terminal.expect("a q");
    client.run(&daemon, "stop c1 --force").ok();
    terminal.end();
    let log = client.run(&daemon, "console c1 --show-log").ok();
    assert!(log.contains("c1 login:"), "the log stays: {log}");
    daemon.finish();
}

/// Files and trees in both directions.
pub fn files(client: Client) {
    let daemon = client.with_debian();
    let run = |words: &str| client.run(&daemon, words);
    run("init debian c1").ok();
    let work = tempfile::tempdir().unwrap();
    let path = |name: &str| work.path().join(name).to_str().unwrap().to_owned();
    let tree = work.path().join("tree");
    std::fs::create_dir_all(tree.join("deep/er")).unwrap();
    std::fs::write(tree.join("deep/er/file"), vec![7; 1_000_000]).unwrap();
    std::fs::write(tree.join("empty"), "").unwrap();
    std::os::unix::fs::symlink("deep/er/file", tree.join("link")).unwrap();
    for running in [false, true] {
        if running {
            run("start c1").ok();
        }
        push_and_pull(client, &daemon, &path, running);
    }
    assert_eq!(run("exec c1 -- stat -c %a:%u:%g /srv/new/stdin").ok(), "640:33:34\n");
    assert_eq!(run("exec c1 -- stat -c %u:%g /root/tree/deep/er/file").ok(), "0:0\n");
    assert_eq!(run("exec c1 -- readlink /root/tree/link").ok(), "deep/er/file\n");
    daemon.finish();
}

fn push_and_pull(client: Client, daemon: &Daemon, path: &dyn Fn(&str) -> String, running: bool) {
    let run = |words: &str| client.run(daemon, words);
    let back = path(&format!("back-{running}"));
    std::fs::create_dir(&back).unwrap();
    run(&format!("file push -r {} c1/root", path("tree"))).ok();
    run(&format!("file pull -r c1/root/tree {back}")).ok();
    assert_eq!(std::fs::read(format!("{back}/tree/deep/er/file")).unwrap(), vec![7; 1_000_000]);
    assert_eq!(std::fs::read(format!("{back}/tree/empty")).unwrap(), b"");
    let push = "file push --create-dirs --mode 0640 --uid 33 --gid 34 - c1/srv/new/stdin";
    run(push).input(format!("running: {running}\n")).ok();
    assert_eq!(run("file pull c1/srv/new/stdin -").ok(), format!("running: {running}\n"));
    run(&format!("file pull c1/etc/passwd {}", path("passwd"))).ok();
    assert!(std::fs::read_to_string(path("passwd")).unwrap().starts_with("root:"));
    run(&format!("file push {} c1/root/other-name", path("passwd"))).ok();
    run("file delete c1/root/other-name").ok();
    let said = run("file pull c1/root/other-name -").fails();
    assert!(said.contains("/root/other-name") && said.contains("No such file"), "{said}");
    let said = run(&format!("file push {} c1/no/such/dir/x", path("passwd"))).fails();
    assert!(said.contains("/no/such/dir/x") && said.contains("No such file"), "{said}");
}
