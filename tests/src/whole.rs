//! What a daemon has and says it has: that the two agree, and what there is in all.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use serde_json::{Map, Value, json};

use crate::daemon::Daemon;
use crate::leftovers::{cgroups, mounts, names, processes};
use crate::run::wait_for_end;

/// File in the root of an instance by whose content tests know it again.
pub const MARKER: &str = "marker";

/// All documents, by the segments of their keys.
struct Documents(BTreeMap<Vec<String>, Value>);

impl Documents {
    fn of(daemon: &Daemon) -> Self {
        let path = daemon.dir().join("store/state.db");
        let db = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY).expect("the store can be read");
        let mut statement = db.prepare("SELECT key, value FROM kv").expect("the store has a table");
        let rows = statement
            .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?)))
            .expect("the store can be read");
        let parse = |(key, value): (String, Vec<u8>)| {
            (key.split('/').map(str::to_owned).collect(), serde_json::from_slice(&value).expect("documents are JSON"))
        };
        Self(rows.map(|row| parse(row.expect("the store can be read"))).collect())
    }

    /// The documents below a prefix, by the rest of their keys.
    fn below(&self, prefix: &[&str]) -> Vec<(&[String], &Value)> {
        let fits = |key: &[String]| key.len() > prefix.len() && key.iter().zip(prefix).all(|(a, b)| a == b);
        self.0.iter().filter(|(key, _)| fits(key)).map(|(key, value)| (&key[prefix.len()..], value)).collect()
    }

    /// First segments of the keys below a prefix.
    fn names(&self, prefix: &[&str]) -> BTreeSet<String> {
        self.below(prefix).into_iter().map(|(rest, _)| rest[0].clone()).collect()
    }
}

fn text(value: &Value) -> String {
    value.as_str().expect("it is a string").to_owned()
}

/// Identifiers are written with hyphens in documents, without in keys and names.
fn id(value: &Value) -> String {
    text(value).replace('-', "")
}

fn set(dir: &Path) -> BTreeSet<String> {
    names(dir).into_iter().collect()
}

impl Daemon {
    fn volume(&self, document: &Value, kind: &str) -> PathBuf {
        self.dir().join("storage-pools").join(text(&document["pool"])).join(kind).join(id(&document["volume"]))
    }

    fn marker(&self, document: &Value, kind: &str) -> Value {
        fs::read_to_string(self.volume(document, kind).join("rootfs").join(MARKER)).ok().into()
    }

    /// Writes the file by which a stopped container is known again.
    pub fn mark(&self, name: &str, content: &str) {
        let documents = Documents::of(self);
        let instances = documents.below(&["inst", "default"]);
        let (_, document) = instances.into_iter().find(|(rest, _)| rest[0] == name).expect("it exists");
        let marker = self.volume(document, "containers").join("rootfs").join(MARKER);
        fs::write(marker, content).expect("it can be marked");
    }

    /// All that there is, but for what is made up: containers with their content and snapshots, backups, images, networks,
    /// profiles, projects and pools.
    pub fn contents(&self) -> Value {
        let documents = Documents::of(self);
        let states = self.get("/1.0/instances?recursion=1&all-projects=true");
        let state = |project: &str, name: &str| {
            let same = |i: &&Value| i["project"] == project && i["name"] == name;
            states.as_array().expect("a list").iter().find(same).map_or(Value::Null, |i| i["status"].clone())
        };
        let mut instances = Map::new();
        for (key, document) in documents.below(&["inst"]) {
            let uuid = id(&document["uuid"]);
            let volatile = documents.below(&["vola"]).into_iter().find(|(rest, _)| rest[0] == uuid);
            let values = volatile.map_or(Value::Null, |(_, volatile)| volatile["values"].clone());
            let snapshots: Map<String, Value> = documents
                .below(&["snap", &uuid])
                .into_iter()
                .map(|(name, snapshot)| {
                    let marker = self.marker(snapshot, "containers-snapshots");
                    (name[0].clone(), json!([marker, snapshot["config"], snapshot["pool"], snapshot["expires_at"]]))
                })
                .collect();
            let mut content = json!({
                "status": state(&key[0], &key[1]),
                "marker": self.marker(document, "containers"),
                "base": values["volatile.base_image"],
                "template": values["volatile.apply_template"],
                "snapshots": snapshots,
                "backups": documents.names(&["backup", &uuid]),
            });
            for field in ["description", "config", "devices", "profiles", "pool", "ephemeral"] {
                content[field] = document[field].clone();
            }
            instances.insert(key.join("/"), content);
        }
        let mut all = json!({ "instances": instances });
        for kind in ["image", "alias", "net", "profile", "project", "pool", "cfg"] {
            let mut found = Map::new();
            for (key, document) in documents.below(&[kind]) {
                let mut document = document.clone();
                for made_up in ["uploaded_at", "last_used_at", "created_at", "filename", "size", "id"] {
                    document.as_object_mut().expect("an object").remove(made_up);
                }
                if let Some(config) = document["config"].as_object_mut() {
                    config.retain(|key, _| !key.starts_with("volatile.") && !key.ends_with(".address"));
                }
                // Images made one after the other differ in what they tell of the time.
                let name = if kind == "image" { text(&document["properties"]["os"]) } else { key.join("/") };
                if kind == "alias" {
                    document.as_object_mut().expect("an object").remove("target");
                }
                found.entry(name).or_insert_with(|| json!([])).as_array_mut().expect("an array").push(document);
            }
            all[kind] = found.into();
        }
        all
    }

    /// Fails if what there is and what the daemon says there is differ, or something is half done or left over. To be
    /// called while nothing is under way.
    pub fn check_whole(&self) {
        self.wait_for_removals();
        let documents = Documents::of(self);
        let mut wrong = Vec::new();
        let mut same = |what: &str, found: BTreeSet<String>, expected: BTreeSet<String>| {
            if found != expected {
                wrong.push(format!("{what}: found {found:?}, expected {expected:?}"));
            }
        };
        let none = BTreeSet::new;
        let instances: Vec<&Value> = documents.below(&["inst"]).into_iter().map(|(_, document)| document).collect();
        let uuids: BTreeSet<String> = instances.iter().map(|document| id(&document["uuid"])).collect();
        let phases = instances.iter().map(|document| text(&document["phase"]));
        same("unfinished instances", phases.filter(|phase| phase != "ready").collect(), none());
        same("waste", documents.names(&["waste"]), none());
        same("volatile documents", documents.names(&["vola"]), uuids.clone());
        same("claimed uuids", documents.names(&["ix", "uuid"]), uuids.clone());
        let claims = documents.below(&["ix", "idmap"]);
        same("holders of id ranges", claims.iter().map(|(_, claim)| id(&claim["instance"])).collect(), uuids.clone());
        let of_none = |prefix: &str| documents.names(&[prefix]).difference(&uuids).cloned().collect();
        same("snapshots without instance", of_none("snap"), none());
        same("backups without instance", of_none("backup"), none());
        let second = |prefix: &[&str]| -> BTreeSet<String> {
            documents.below(prefix).into_iter().filter_map(|(rest, _)| rest.get(1).cloned()).collect()
        };
        same("claimed links", documents.names(&["ix", "link"]), second(&["net"]));

        for pool in documents.names(&["pool"]) {
            let root = self.dir().join("storage-pools").join(&pool);
            let in_pool = |documents: Vec<&Value>| -> BTreeSet<String> {
                documents.into_iter().filter(|d| d["pool"] == *pool).map(|d| id(&d["volume"])).collect()
            };
            let snapshots = documents.below(&["snap"]).into_iter().map(|(_, document)| document).collect();
            same("volumes", set(&root.join("containers")), in_pool(instances.clone()));
            same("volumes of snapshots", set(&root.join("containers-snapshots")), in_pool(snapshots));
            same("unfinished volumes", set(&root.join(".pending")), none());
        }
        same("pools", set(&self.dir().join("storage-pools")), documents.names(&["pool"]));
        same("networks", set(&self.dir().join("networks")), second(&["net"]));
        let files = documents.below(&["backup"]).into_iter().map(|(_, backup)| id(&backup["file"]));
        same("files of backups", set(&self.dir().join("backups")), files.collect());
        let images = |name: &String| name.starts_with('.') || name.len() == 64;
        same("images", set(&self.dir().join("images")).into_iter().filter(images).collect(), second(&["image"]));

        let shown = self.get("/1.0/instances?recursion=1&all-projects=true");
        let running = shown.as_array().expect("a list").iter().filter(|instance| instance["status"] != "Stopped");
        let configs: Vec<&Value> = running.map(|instance| &instance["config"]).collect();
        let running: BTreeSet<String> = configs.iter().map(|config| id(&config["volatile.uuid"])).collect();
        let stopped: Vec<String> = self.seen().into_iter().filter(|uuid| !running.contains(uuid)).collect();
        same("run directories", set(&self.dir().join("run")), running);
        same("logs of none", set(&self.dir().join("logs")).difference(&uuids).cloned().collect(), none());
        same("cgroups of what does not run", cgroups(&stopped).into_iter().collect(), none());
        same("mounts", mounts(self.dir()).into_iter().collect(), none());
        let links = configs.iter().flat_map(|config| config.as_object().expect("an object"));
        let links = links.filter(|(key, _)| key.ends_with(".host_name")).map(|(_, name)| text(name));
        let links: BTreeSet<String> = links.collect();
        let ports = names(&self.dir().join("networks")).into_iter();
        let ports = ports.flat_map(|network| names(&self.dir().join("networks").join(network).join("ports")));
        same("announced links", ports.collect(), links.clone());
        let ports = self.ports();
        let there = |link: &&String| ports.iter().any(|port| port.contains(&format!(" {link}@")));
        same("links", links.iter().filter(there).cloned().collect(), links.clone());
        same("number of links", BTreeSet::from([ports.len().to_string()]), BTreeSet::from([links.len().to_string()]));
        assert!(wrong.is_empty(), "not whole:\n{}\n--- log ---\n{}", wrong.join("\n"), self.log());
    }

    /// Waits for the end of helpers that a killed daemon left at work.
    pub fn await_helpers(&self) {
        for (pid, command) in processes(self.dir()) {
            let stays = ["berthd serve", "dnsmasq", "berth-container monitor"];
            if !stays.iter().any(|words| command.contains(words)) {
                let pid = pid.parse().ok().and_then(rustix::process::Pid::from_raw);
                assert!(pid.is_none_or(wait_for_end), "it was left at work: {command}");
            }
        }
    }
}
