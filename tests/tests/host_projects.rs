//! Projects: what they keep apart, and their limits and restrictions.

use std::thread;

use berth_tests::Daemon;
use serde_json::{Value, json};

#[test]
fn objects_are_apart() {
    let daemon = Daemon::with_busybox();
    let run = |words: &str| daemon.berth(words);
    run("init busybox c1").ok();
    run("project create web").ok();
    assert_eq!(run("--project web list --format csv").ok(), "");
    assert!(run("--project web init busybox c1").fails().contains("busybox"), "its images are its own");
    run("project create shared --config features.images=false --config features.profiles=false").ok();
    run("--project shared init busybox c1").ok();
    let all = run("list --all-projects --format csv --columns en").ok();
    assert_eq!(all, "default,c1\nshared,c1\n");
    assert_eq!(daemon.get("/1.0/instances?project=shared"), json!(["/1.0/instances/c1?project=shared"]));
    assert_eq!(daemon.get("/1.0/instances?project=nosuch"), json!([]));
    let said = daemon.http("GET", "/1.0/instances?project=web&all-projects=true", &[], b"");
    assert_eq!((said.status, &*said.error()), (400, "Cannot specify a project when requesting all projects"));
    assert!(run("project delete shared").fails().contains("instance \"c1\""), "it is not empty");
    run("--project shared start c1").ok();
    run("start c1").ok();
    assert_eq!(run("--project shared exec c1 -- hostname").ok(), "c1\n");
    run("--project shared delete --force c1").ok();
    run("project delete shared").ok();
    run("project delete web").ok();
    daemon.finish();
}

/// With the real `lxc`.
#[test]
fn a_project_lives_as_in_lxc() {
    let daemon = Daemon::with_busybox();
    let run = |words: &str| daemon.lxc(words);
    run("project create web -c features.images=false -c user.team=a").ok();
    assert!(run("project create web").fails().contains("already exists"));
    assert!(run("project create bad -c limits.instances=many").fails().contains("limits.instances"));
    run("project set web user.team=b").ok();
    assert_eq!(run("project get web user.team").ok(), "b\n");
    run("project unset web user.team").ok();
    let shown = run("project show web").ok();
    assert!(shown.contains("features.images: \"false\"") && shown.contains("features.networks: \"false\""), "{shown}");
    daemon.lxc("project edit web").input("description: edited\nconfig: {features.images: \"false\"}\n").ok();
    assert!(run("project show web").ok().contains("description: edited"));
    run("project rename web www").ok();
    assert!(run("project show web").fails().contains("not found"));
    let list = run("project list --format csv").ok();
    assert!(list.contains("www,NO,YES,YES,NO,edited,1\n"), "{list}");
    assert_eq!(daemon.get("/1.0/projects/www")["used_by"], json!(["/1.0/profiles/default?project=www"]));

    run("profile device add default root disk path=/ pool=default --project www").ok();
    run("init busybox c1 --project www").ok();
    for verb in ["rename www web", "delete www"] {
        let said = run(&format!("project {verb}")).fails();
        assert!(said.contains("instance \"c1\""), "{said}");
    }
    let info = run("project info www --format csv").ok();
    assert!(info.contains("CONTAINERS,UNLIMITED,1\n") && info.contains("INSTANCES,UNLIMITED,1\n"), "{info}");
    assert!(run("list --all-projects --format csv -c en").ok().contains("www,c1\n"));
    run("delete c1 --project www").ok();
    run("profile create more --project www").ok();
    assert!(run("project delete www").fails().contains("profile \"more\""));
    run("profile delete more --project www").ok();
    run("project delete www").ok();
    assert!(run("project delete default").fails().contains("default"));
    daemon.finish();
}

/// Project `p`, which uses images and profiles of the default project, with these keys.
fn project(daemon: &Daemon, config: &str) {
    let features = "project create p --config features.images=false --config features.profiles=false";
    daemon.berth(&format!("{features} {config}")).ok();
}

fn usage(daemon: &Daemon, resource: &str) -> Value {
    daemon.get("/1.0/projects/p/state")["resources"][resource].clone()
}

#[test]
fn limits_hold() {
    let daemon = Daemon::with_busybox();
    let run = |words: &str| daemon.berth(words);
    project(&daemon, "--config limits.instances=3 --config limits.memory=1GiB");
    assert!(run("--project p init busybox c1").fails().contains("limits.memory must be set"));
    run("--project p init busybox c1 --config limits.memory=512MiB").ok();
    run("--project p init busybox c2 --config limits.memory=256MiB").ok();
    let said = run("--project p init busybox c3 --config limits.memory=512MiB").fails();
    assert!(said.contains("limits.memory is 1073741824"), "{said}");
    assert_eq!(usage(&daemon, "memory"), json!({"Limit": 1 << 30, "Usage": 768 << 20}));
    assert!(run("--project p config set c1 limits.memory=1GiB").fails().contains("limits.memory"));
    run("--project p config set c1 limits.memory=768MiB").ok();
    run("--project p init busybox c3 --config limits.memory=0").ok();
    assert!(run("--project p init busybox c4 --config limits.memory=0").fails().contains("limits.instances is 3"));
    // Neither the limits nor a shared profile may change so that they do not hold.
    assert!(run("project set p limits.instances=2").fails().contains("3 would be used"));
    assert!(run("project set p limits.cpu=4").fails().contains("limits.cpu must be set"));
    run("profile set default limits.cpu=1").ok();
    run("project set p limits.cpu=4").ok();
    assert!(run("profile set default limits.cpu=2").fails().contains("limits.cpu is 4, 6 would be used"));
    assert!(run("profile unset default limits.cpu").fails().contains("limits.cpu must be set"));
    assert_eq!(daemon.get("/1.0/profiles/default")["config"]["limits.cpu"], "1");
    let refused = daemon.http("PUT", "/1.0/projects/p", &[], br#"{"config":{"limits.instances":"1"}}"#);
    assert_eq!(refused.status, 403, "{refused:?}");
    daemon.finish();
}

#[test]
fn limits_of_images_and_networks_hold() {
    let daemon = Daemon::with_busybox();
    let run = |words: &str| daemon.berth(words);
    let image = daemon.get("/1.0/images?recursion=1")[0].clone();
    let size = image["size"].as_u64().unwrap();
    run(&format!(
        "project create p --config features.networks=true --config limits.networks=1 --config limits.disk={size}"
    ))
    .ok();
    let name = format!("bq{}", std::process::id());
    let made = ["a", "b"]
        .map(|end| run(&format!("--project p network create {name}{end} ipv4.address=none ipv6.address=none")).any());
    assert_eq!(made[0].status, 0, "{}", made[0].stderr);
    assert!(made[1].stderr.contains("limits.networks is 1, 2 would be used"), "{}", made[1].stderr);
    let out = tempfile::tempdir().unwrap();
    run(&format!("image export busybox {}/", out.path().display())).ok();
    let file = std::fs::read_dir(out.path()).unwrap().next().unwrap().unwrap().path();
    let import = || daemon.berth_args(["--project", "p", "image", "import", file.to_str().unwrap()]);
    run(&format!("project set p limits.disk={}", size - 1)).ok();
    assert!(import().fails().contains("limits.disk"));
    run(&format!("project set p limits.disk={size}")).ok();
    import().ok();
    assert_eq!(usage(&daemon, "disk"), json!({"Limit": size, "Usage": size}));
    assert!(run("project delete p").fails().contains("image "));
    run(&format!("--project p image delete {}", image["fingerprint"].as_str().unwrap())).ok();
    run(&format!("--project p network delete {name}a")).ok();
    run("project delete p").ok();
    daemon.finish();
}

#[test]
fn clients_that_race_do_not_exceed_a_limit() {
    let daemon = Daemon::with_busybox();
    project(&daemon, "--config limits.instances=4");
    let make = |number: usize| {
        let body = json!({"name": format!("c{number}"), "source": {"type": "none"}}).to_string();
        let reply = daemon.http("POST", "/1.0/instances?project=p", &[], body.as_bytes());
        assert_eq!(reply.status, 202, "{reply:?}");
        let operation = reply.json()["operation"].as_str().unwrap().to_owned();
        daemon.http("GET", &format!("{}/wait", operation.split('?').next().unwrap()), &[], b"").json()["metadata"]
            .clone()
    };
    let make = &make;
    let done: Vec<Value> = thread::scope(|scope| {
        let clients: Vec<_> = (0..12).map(|number| scope.spawn(move || make(number))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let (made, refused): (Vec<_>, Vec<_>) = done.iter().partition(|operation| operation["status"] == "Success");
    assert_eq!(made.len(), 4, "{done:?}");
    assert!(refused.iter().all(|operation| operation["err"].as_str().unwrap().contains("limits.instances is 4")));
    assert_eq!(usage(&daemon, "instances"), json!({"Limit": 4, "Usage": 4}));
    daemon.finish();
}

#[test]
fn restrictions_hold() {
    let daemon = Daemon::with_busybox();
    let run = |words: &str| daemon.berth(words);
    project(&daemon, "--config restricted=true");
    let nested = run("--project p init busybox c1 --config security.nesting=true").fails();
    assert!(nested.contains("restricted.containers.nesting=block"), "{nested}");
    run("--project p init busybox c1").ok();
    let add = |words: &str| run(&format!("--project p config device add c1 {words}"));
    assert!(add("d disk path=/mnt source=/srv").fails().contains("restricted.devices.disk=managed"));
    run("project set p restricted.devices.disk=allow restricted.devices.disk.paths=/srv").ok();
    assert!(add("d disk path=/mnt source=/etc").fails().contains("restricted.devices.disk.paths=/srv"));
    add("d disk path=/mnt source=/srv").ok();
    assert!(run("project set p restricted.devices.disk=managed").fails().contains("nstance \"c1\""));
    // What is not restricted may do all this, until it is to be restricted.
    run("project set p restricted=false").ok();
    run("--project p config set c1 security.nesting=true").ok();
    let back = run("project set p restricted=true").fails();
    assert!(back.contains("nstance \"c1\"") && back.contains("security.nesting"), "{back}");
    daemon.finish();
}
