//! Snapshots, copies and moves.

use berth_tests::Daemon;

use super::Client;

/// A daemon with the stopped container `c1`, which has a file.
fn with_c1(client: Client) -> Daemon {
    let daemon = Daemon::with_busybox();
    client.run(&daemon, "init busybox c1 --config user.note=first").ok();
    write(client, &daemon, "c1", "one");
    daemon
}

fn write(client: Client, daemon: &Daemon, instance: &str, text: &str) {
    client.run(daemon, &format!("file push --uid 33 --gid 44 --mode 0640 - {instance}/root/file")).input(text).ok();
}

fn read(client: Client, daemon: &Daemon, instance: &str) -> String {
    client.run(daemon, &format!("file pull {instance}/root/file -")).ok()
}

/// Names of an instance's snapshots, the oldest first.
fn names(daemon: &Daemon, instance: &str) -> Vec<String> {
    let list = daemon.get(&format!("/1.0/instances/{instance}/snapshots?recursion=1"));
    list.as_array().unwrap().iter().map(|snapshot| snapshot["name"].as_str().unwrap().to_owned()).collect()
}

/// Taken, listed, renamed, restored, deleted; of an instance that runs and of one that does not.
pub fn snapshots(client: Client) {
    let daemon = with_c1(client);
    let run = |words: &str| client.run(&daemon, words);
    run("snapshot c1").ok();
    run("config set c1 user.note=second snapshots.expiry=2w").ok();
    write(client, &daemon, "c1", "two");
    run("start c1").ok();
    run("snapshot c1 running").ok();
    assert_eq!(run("list --format csv --columns nsS").ok(), "c1,RUNNING,2\n");
    assert_eq!(names(&daemon, "c1"), ["snap0", "running"]);
    let info = run("info c1").ok();
    assert!(info.contains("snap0") && info.contains("running"), "{info}");
    let snapshot = daemon.get("/1.0/instances/c1/snapshots/running");
    assert_eq!(snapshot["config"]["user.note"], "second");
    assert!(snapshot["expanded_devices"]["root"].is_object() && snapshot["config"]["volatile.uuid"].is_string());
    assert_eq!(daemon.get("/1.0/instances/c1/snapshots/snap0")["expires_at"], "0001-01-01T00:00:00Z");
    assert!(!snapshot["expires_at"].as_str().unwrap().starts_with("0001"), "{snapshot}");
    assert!(run("snapshot c1 snap0").fails().contains("already exists"));
    run("snapshot c1 snap0 --reuse --no-expiry").ok();
    assert_eq!(names(&daemon, "c1"), ["running", "snap0"]);
    run("rename c1/running c1/before").ok();
    run("move c1/snap0 c1/after").ok();
    assert_eq!(names(&daemon, "c1"), ["before", "after"]);
    assert!(run("profile delete default").fails().contains("default"));

    // What runs is stopped and runs again.
    client
        .args(&daemon, ["exec", "c1", "--", "sh", "-c", "echo three > /root/file; busybox chmod 4755 /bin/busybox"])
        .ok();
    let uses = daemon.get("/1.0/profiles/default")["used_by"].to_string();
    assert!(uses.contains("/1.0/instances/c1/snapshots/before"), "{uses}");
    let pid = daemon.instance_pid("c1");
    run("restore c1 before").ok();
    assert_ne!(daemon.instance_pid("c1"), pid);
    assert_eq!(run("exec c1 -- cat /root/file").ok(), "two");
    assert_eq!(run("exec c1 -- busybox stat -c %u:%g:%a /root/file").ok(), "33:44:640\n");
    assert_eq!(run("exec c1 -- busybox stat -c %u:%g /bin/busybox").ok(), "0:0\n");
    run("stop c1 --force").ok();
    run("config set c1 user.note=third").ok();
    run("restore c1 after").ok();
    assert_eq!((read(client, &daemon, "c1"), run("config get c1 user.note").ok()), ("two".into(), "second\n".into()));
    assert!(run("restore c1 nosuch").fails().contains("nosuch"));
    run("delete c1/before").ok();
    assert!(run("delete c1/before").fails().contains("before") || client == Client::Lxc);
    assert_eq!(names(&daemon, "c1"), ["after"]);

    run("config set c1 snapshots.pattern=x%d").ok();
    for _ in 0..2 {
        run("snapshot c1").ok();
    }
    assert_eq!(names(&daemon, "c1"), ["after", "x0", "x1"]);
    for wrong in ["snapshots.schedule=often", "snapshots.expiry=soon", "snapshots.pattern=a/b"] {
        assert!(run(&format!("config set c1 {wrong}")).fails().contains("alue of \"snapshots."), "{wrong}");
    }
    assert!(run("snapshot c1 --stateful").fails().to_lowercase().contains("stateful"));
    run("delete c1").ok();
    no_volumes(&daemon);
    daemon.finish();
}

/// Copies with snapshots and without, of snapshots, and brought up to date.
pub fn copies(client: Client) {
    let daemon = with_c1(client);
    let run = |words: &str| client.run(&daemon, words);
    run("snapshot c1 s0").ok();
    run("start c1").ok();
    write(client, &daemon, "c1", "two");
    run("copy c1 c2 --config user.note=copied").ok();
    assert_eq!(run("list c2 --format csv --columns nsS").ok(), "c2,STOPPED,1\n");
    assert_eq!(run("list c1 --format csv --columns s").ok(), "RUNNING\n", "it goes on");
    assert_eq!((read(client, &daemon, "c2"), run("config get c2 user.note").ok()), ("two".into(), "copied\n".into()));
    let [one, two] = ["c1", "c2"].map(|name| daemon.instance(name)["config"].clone());
    for key in ["volatile.uuid", "volatile.idmap.base"] {
        assert!(one[key].is_string() && one[key] != two[key], "{key}: {one} {two}");
    }
    assert_eq!(one["volatile.base_image"], two["volatile.base_image"]);
    run("start c2").ok();
    let two = daemon.instance("c2")["config"].clone();
    assert_ne!(daemon.instance("c1")["config"]["volatile.eth0.hwaddr"], two["volatile.eth0.hwaddr"]);
    assert_eq!(run("exec c2 -- busybox stat -c %u:%g:%a /root/file").ok(), "33:44:640\n");
    assert_eq!(run("exec c2 -- hostname").ok(), "c2\n");
    assert!(run("copy c1 c2").fails().contains("already exists"));

    run("copy c1/s0 c3").ok();
    assert_eq!((read(client, &daemon, "c3"), names(&daemon, "c3").len()), ("one".into(), 0));
    run("copy c1 c4 --instance-only --ephemeral").ok();
    assert_eq!(names(&daemon, "c4").len(), 0);
    assert_eq!(daemon.instance("c4")["ephemeral"], true);

    write(client, &daemon, "c1", "three");
    run("snapshot c1 s1").ok();
    run("delete c1/s0").ok();
    assert!(run("copy c1 c2 --refresh").fails().contains("running"));
    run("stop c2 --force").ok();
    run("copy c1 c2 --refresh").ok();
    assert_eq!((read(client, &daemon, "c2"), names(&daemon, "c2")), ("three".into(), vec!["s1".to_owned()]));
    // LXD's client sets it to that of the source.
    let note = if client == Client::Lxc { "first\n" } else { "copied\n" };
    assert_eq!(run("config get c2 user.note").ok(), note);
    run("restore c2 s1").ok();
    assert_eq!(read(client, &daemon, "c2"), "three");
    run("delete c1 c2 c3 c4 --force").ok();
    no_volumes(&daemon);
    daemon.finish();
}

/// Images of instances and of snapshots, with all that their files have.
pub fn publishing(client: Client) {
    let daemon = with_c1(client);
    let run = |words: &str| client.run(&daemon, words);
    run("snapshot c1 s0").ok();
    run("start c1").ok();
    let script = "cd /root; ln file same; ln -s file link; mkfifo fifo; chmod 4755 file; echo two > other; \
                  mkdir -p deep/er; seq 100000 > deep/er/big; chown -R 7:8 deep";
    client
        .args(
            &daemon,
            [
                "exec",
                "c1",
                "--",
                "sh",
                "-c",
                &script.replace("chmod", "busybox chmod").replace("chown", "busybox chown"),
            ],
        )
        .ok();
    assert!(run("publish c1 --alias nothing").fails().contains("running"));
    let said = run("publish c1/s0 --alias from-snapshot").ok();
    assert!(said.contains("Instance published with fingerprint: "), "{said}");
    run("stop c1 --force").ok();
    for compression in ["gzip", "none", "zstd", "xz"] {
        run(&format!("publish c1 --alias {compression} --compression {compression} os=mine")).ok();
    }
    assert!(run("publish c1 --alias bad --compression what").fails().contains("what"));
    assert_eq!(run("image get-property from-snapshot os").ok(), "busybox\n");
    assert_eq!(run("image get-property xz os").ok(), "mine\n");
    run("launch from-snapshot c2").ok();
    assert_eq!(run("exec c2 -- cat /root/file").ok(), "one");
    run("launch zstd c3").ok();
    let look = "cd /root; busybox stat -c '%u:%g:%a:%h' file same; readlink link; cat other; wc -l < deep/er/big; \
                busybox stat -c '%u:%g' deep/er/big; test -p fifo && echo fifo";
    let seen = client.args(&daemon, ["exec", "c3", "--", "sh", "-c", look]).ok();
    assert_eq!(seen, "33:44:4755:2\n33:44:4755:2\nfile\ntwo\n100000\n7:8\nfifo\n");
    for image in ["gzip", "none", "xz"] {
        run(&format!("init {image} c4")).ok();
        assert_eq!(read(client, &daemon, "c4"), "one");
        run("delete c4").ok();
    }
    daemon.finish();
}

/// Other names, pools and projects.
pub fn moves(client: Client) {
    let daemon = with_c1(client);
    let run = |words: &str| client.run(&daemon, words);
    run("snapshot c1 s0").ok();
    write(client, &daemon, "c1", "two");
    run("move c1 c2").ok();
    assert_eq!(run("list --format csv --columns nS").ok(), "c2,1\n");
    run("storage create other dir").ok();
    run("move c2 --storage other").ok();
    assert_eq!(daemon.instance("c2")["expanded_devices"]["root"]["pool"], "other");
    assert!(run("storage delete other").fails().contains("in use"));
    assert_eq!((read(client, &daemon, "c2"), names(&daemon, "c2")), ("two".into(), vec!["s0".to_owned()]));
    no_volumes(&daemon);
    run("start c2").ok();
    assert!(run("move c2 c3").fails().contains("running"));
    run("stop c2 --force").ok();
    run("restore c2 s0").ok();
    assert_eq!(read(client, &daemon, "c2"), "one");
    run("copy c2 c4 --storage default").ok();
    run("start c4").ok();
    run("delete --force c4").ok();

    run("project create web --config features.profiles=false --config features.images=false").ok();
    run("move c2 c3 --target-project web").ok();
    assert_eq!(run("list --format csv --columns n").ok(), "");
    assert_eq!(run("list --project web --format csv --columns nS").ok(), "c3,1\n");
    run("start c3 --project web").ok();
    run("copy c3 c5 --project web --target-project default --instance-only").ok();
    assert_eq!(read(client, &daemon, "c5"), "one");
    run("delete c3 --project web --force").ok();
    run("delete c5").ok();
    run("storage delete other").ok();
    run("project delete web").ok();
    no_volumes(&daemon);
    daemon.finish();
}

/// Nothing is left in the default pool.
fn no_volumes(daemon: &Daemon) {
    for kind in ["containers", "containers-snapshots", ".pending"] {
        let left: Vec<_> = std::fs::read_dir(daemon.volume_dir(kind)).unwrap().collect();
        assert!(left.is_empty(), "{kind}: {left:?}");
    }
}
