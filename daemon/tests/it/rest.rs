//! The REST core over a real socket.

use crate::common::Daemon;
use serde_json::{Value, json};

#[test]
fn envelopes_errors_and_paths() {
    let daemon = Daemon::start();
    assert_eq!(daemon.get("/"), json!(["/1.0"]));
    let server = daemon.get("/1.0/");
    assert_eq!(server["auth"], "trusted");
    assert_eq!(server["environment"]["server"], "lxd");
    assert_eq!(server["environment"]["server_version"], "5.0.2");

    let missing = daemon.request("GET", "/1.0/nothing", &[], b"");
    assert_eq!(missing.code, 404);
    assert_eq!(missing.json()["error_code"], 404);
    assert_eq!(missing.header("X-Content-Type-Options"), Some("nosniff"));
    assert_eq!(daemon.request("DELETE", "/1.0/resources", &[], b"").code, 501);
    assert_eq!(daemon.request("OPTIONS", "/1.0/instances", &[], b"").code, 200);
    assert_eq!(daemon.request("GET", "/1.0/cluster/members", &[], b"").code, 500);

    let bad = daemon.send("POST", "/1.0/profiles", &json!({"name": "p", "config": {"limits.cpu": 2}}));
    assert_eq!(bad.code, 400);
    assert!(bad.json()["error"].as_str().unwrap().contains("config.limits.cpu"), "{bad:?}");
    assert_eq!(daemon.request("POST", "/1.0/profiles", &[], b"{").code, 400);
    let large = vec![b' '; 5 * 1024 * 1024];
    assert_eq!(daemon.request("POST", "/1.0/profiles", &[], &large).code, 413);
    assert_eq!(daemon.request("GET", "/1.0/instances?filter=name", &[], b"").code, 400);
    assert_eq!(daemon.request("GET", "/1.0/instances?project=x&all-projects=true", &[], b"").code, 400);
    for list in ["instances", "images", "profiles", "networks"] {
        assert_eq!(daemon.get(&format!("/1.0/{list}?project=nope")), json!([]), "{list}");
    }
}

#[test]
fn what_a_first_start_makes() {
    let daemon = Daemon::start();
    assert_eq!(daemon.get("/1.0/profiles"), json!(["/1.0/profiles/default"]));
    let profile = daemon.get("/1.0/profiles/default");
    assert_eq!(profile["devices"]["root"]["pool"], "default");
    let network = profile["devices"]["eth0"]["network"].as_str().unwrap().to_owned();
    assert_eq!(daemon.get(&format!("/1.0/networks/{network}"))["used_by"], json!(["/1.0/profiles/default"]));
    assert_eq!(daemon.get("/1.0/storage-pools/default")["used_by"], json!(["/1.0/profiles/default"]));
    let used_by = daemon.get("/1.0/projects/default")["used_by"].clone();
    assert_eq!(used_by, json!(["/1.0/profiles/default", format!("/1.0/networks/{network}")]));
    assert!(daemon.get("/1.0/storage-pools/default/resources")["space"]["total"].as_u64().unwrap() > 0);
    let refused = daemon.request("DELETE", &format!("/1.0/networks/{network}"), &[], b"");
    assert!(refused.json()["error"].as_str().unwrap().contains("/1.0/profiles/default"), "{refused:?}");
}

#[test]
fn profiles_and_their_tags() {
    let daemon = Daemon::start();
    let made = daemon.send("POST", "/1.0/profiles", &json!({"name": "p", "config": {"limits.cpu": "1"}}));
    assert_eq!((made.code, made.header("Location")), (201, Some("/1.0/profiles/p")));
    let tag = daemon.request("GET", "/1.0/profiles/p", &[], b"").header("ETag").unwrap().to_owned();
    let put = json!({"description": "new"}).to_string();
    assert_eq!(daemon.request("PUT", "/1.0/profiles/p", &[("If-Match", &tag)], put.as_bytes()).code, 200);
    let late = daemon.request("PUT", "/1.0/profiles/p", &[("If-Match", &tag)], put.as_bytes());
    assert_eq!(late.code, 412);
    assert!(late.json()["error"].as_str().unwrap().starts_with("ETag doesn't match: "));
    assert_eq!(daemon.send("PATCH", "/1.0/profiles/p", &json!({"config": {"user.a": "1"}})).code, 200);
    let profile = daemon.get("/1.0/profiles/p");
    assert_eq!((&profile["description"], &profile["config"]), (&json!("new"), &json!({"user.a": "1"})));
    assert_eq!(daemon.send("POST", "/1.0/profiles/p", &json!({"name": "q"})).code, 201);
    assert_eq!(daemon.request("DELETE", "/1.0/profiles/q", &[], b"").code, 200);
    assert_eq!(daemon.request("GET", "/1.0/profiles/q", &[], b"").code, 404);
}

#[test]
fn the_life_of_an_empty_instance() {
    let daemon = Daemon::start();
    let make = json!({"name": "c1", "source": {"type": "none"}, "config": {"user.note": "x"}});
    let made = daemon.background("POST", "/1.0/instances", &make);
    assert_eq!(made["status"], "Success", "{made}");
    assert_eq!(made["resources"]["instances"], json!(["/1.0/instances/c1"]));
    let again = daemon.background("POST", "/1.0/instances", &make);
    assert_eq!(again["status"], "Failure");
    assert_eq!(daemon.send("POST", "/1.0/instances", &json!({"name": "a_b", "source": {"type": "none"}})).code, 400);

    assert_eq!(daemon.get("/1.0/instances"), json!(["/1.0/instances/c1"]));
    assert_eq!(daemon.get("/1.0/containers"), json!(["/1.0/containers/c1"]));
    assert_eq!(daemon.get("/1.0/virtual-machines"), json!([]));
    assert_eq!(daemon.request("GET", "/1.0/virtual-machines/c1", &[], b"").code, 404);
    assert_eq!(daemon.get("/1.0/instances?filter=config.user.note%20eq%20x"), json!(["/1.0/instances/c1"]));
    assert_eq!(daemon.get("/1.0/instances?filter=status%20eq%20running"), json!([]));
    let full = daemon.get("/1.0/instances?recursion=2&filter=");
    assert_eq!(full[0]["state"]["status_code"], 102);
    assert_eq!((&full[0]["snapshots"], &full[0]["backups"]), (&json!([]), &json!([])));

    assert_eq!(daemon.send("PATCH", "/1.0/instances/c1", &json!({"config": {"user.b": "2"}})).code, 200);
    assert_eq!(daemon.get("/1.0/instances/c1")["config"]["user.note"], "x");
    let exec = daemon.send("POST", "/1.0/instances/c1/exec", &json!({"command": ["true"]}));
    assert!(exec.json()["error"].as_str().unwrap().contains("not running"), "{exec:?}");
    assert_eq!(daemon.get("/1.0/instances/c1/logs"), json!([]));
    assert_eq!(daemon.background("POST", "/1.0/instances/c1", &json!({"name": "c2"}))["status"], "Success");
    assert_eq!(daemon.background("DELETE", "/1.0/instances/c2", &Value::Null)["status"], "Success");
    assert_eq!(daemon.get("/1.0/instances"), json!([]));
}

#[test]
fn projects_keep_instances_apart() {
    let daemon = Daemon::start();
    assert_eq!(daemon.send("POST", "/1.0/projects", &json!({"name": "p"})).code, 201);
    let device = json!({"root": {"type": "disk", "path": "/", "pool": "default"}});
    let make = json!({"name": "c1", "source": {"type": "none"}, "devices": device});
    let made = daemon.background("POST", "/1.0/instances?project=p", &make);
    assert_eq!(made["status"], "Success", "{made}");
    assert_eq!(daemon.get("/1.0/instances"), json!([]));
    assert_eq!(daemon.get("/1.0/instances?project=p"), json!(["/1.0/instances/c1?project=p"]));
    assert_eq!(daemon.get("/1.0/instances?all-projects=true"), json!(["/1.0/instances/c1?project=p"]));
    assert_eq!(daemon.get("/1.0/projects/p/state")["resources"]["instances"], json!({"Limit": -1, "Usage": 1}));
    assert_ne!(daemon.request("DELETE", "/1.0/projects/p", &[], b"").code, 200);
    assert_eq!(daemon.background("DELETE", "/1.0/instances/c1?project=p", &Value::Null)["status"], "Success");
    assert_eq!(daemon.request("DELETE", "/1.0/projects/p", &[], b"").code, 200);
}
