//! The wire types against what LXD 5.0.2 sends: what is read is written again, key for key.

use berth_api::{
    Response, StatusCode, Time,
    images::Image,
    instances::{Instance, InstanceFull, InstanceSnapshot, InstanceState, InstanceType, InstancesPost},
    networks::Network,
    operations::{Operation, OperationsByStatus},
    projects::ProjectState,
    storage::StoragePool,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

/// Reads and writes; both must be the same JSON, also in the order of keys where the type fixes it.
fn round_trip<T: Serialize + DeserializeOwned>(json: &str) -> T {
    let value: T = serde_json::from_str(json).unwrap();
    let expected: Value = serde_json::from_str(json).unwrap();
    assert_eq!(serde_json::to_value(&value).unwrap(), expected);
    value
}

const INSTANCE: &str = r#"{"architecture":"x86_64","config":{"image.os":"BusyBox","volatile.base_image":"37ff","volatile.idmap.base":"0","volatile.last_state.power":"RUNNING"},"devices":{},"ephemeral":false,"profiles":["default"],"stateful":false,"description":"","created_at":"2024-05-01T08:00:00.123456789Z","expanded_config":{"image.os":"BusyBox"},"expanded_devices":{"root":{"path":"/","pool":"default","type":"disk"}},"name":"x-c1","status":"Running","status_code":103,"last_used_at":"2024-05-01T08:00:01Z","location":"none","type":"container","project":"default"}"#;

const STATE: &str = r#"{"status":"Running","status_code":103,"disk":{},"memory":{"usage":434176,"usage_peak":1110016,"swap_usage":0,"swap_usage_peak":0},"network":{"lo":{"addresses":[],"counters":{"bytes_received":0,"bytes_sent":0,"packets_received":0,"packets_sent":0,"errors_received":0,"errors_sent":0,"packets_dropped_outbound":0,"packets_dropped_inbound":0},"hwaddr":"","host_name":"","mtu":65536,"state":"down","type":"loopback"}},"pid":17793,"processes":2,"cpu":{"usage":9532704}}"#;

#[test]
fn instance() {
    let instance: Instance = round_trip(INSTANCE);
    assert_eq!(instance.status_code, StatusCode::RUNNING);
    assert_eq!(instance.kind, InstanceType::Container);
    assert_eq!(serde_json::to_string(&instance).unwrap(), INSTANCE);
}

#[test]
fn instance_state() {
    let state: InstanceState = round_trip(STATE);
    assert_eq!(state.network.as_ref().unwrap()["lo"].mtu, 65536);
    assert_eq!(serde_json::to_string(&state).unwrap(), STATE);
    let stopped: InstanceState = serde_json::from_str(r#"{"disk":null,"network":null,"pid":0}"#).unwrap();
    assert_eq!(stopped.network, None);
}

#[test]
fn full_instance() {
    let instance = INSTANCE.trim_end_matches('}');
    let json = format!("{instance},\"backups\":null,\"state\":{STATE},\"snapshots\":[]}}");
    let full: InstanceFull = round_trip(&json);
    assert_eq!(full.instance.name, "x-c1");
    assert_eq!(full.state.unwrap().pid, 17793);
}

#[test]
fn operation() {
    let operation: Operation = round_trip(
        r#"{"id":"1537f3c6-0c4b-4d17-a6b5-66a6e3e5d0a1","class":"task","description":"Creating instance","created_at":"2024-05-01T08:00:00Z","updated_at":"2024-05-01T08:00:00Z","status":"Running","status_code":103,"resources":{"containers":["/1.0/containers/x-c1"],"instances":["/1.0/instances/x-c1"]},"metadata":null,"may_cancel":false,"err":"","location":"none"}"#,
    );
    assert_eq!(operation.metadata, None);
    let exec: Operation = serde_json::from_str(
        r#"{"class":"websocket","metadata":{"command":["sh"],"environment":{"TERM":"xterm"},"fds":{"0":"aa","control":"bb"},"interactive":true}}"#,
    )
    .unwrap();
    assert_eq!((exec.secret("0"), exec.secret("control"), exec.secret("1")), (Some("aa"), Some("bb"), None));
    let ended: Operation =
        serde_json::from_str(r#"{"metadata":{"output":{"1":"/1.0/instances/c/logs/x"},"return":3},"status_code":200}"#)
            .unwrap();
    assert_eq!(ended.exit_code(), Some(3));
}

#[test]
fn snapshot() {
    let snapshot: InstanceSnapshot = round_trip(
        r#"{"architecture":"x86_64","config":{},"created_at":"2024-05-01T08:00:00Z","expires_at":"0001-01-01T00:00:00Z","devices":{},"ephemeral":false,"expanded_config":{"a":"b"},"expanded_devices":{"root":{"path":"/"}},"last_used_at":"0001-01-01T00:00:00Z","name":"s0","profiles":["default"],"stateful":false,"size":-1}"#,
    );
    assert_eq!(snapshot.expires_at, Time::ZERO);
}

#[test]
fn image() {
    let image: Image = round_trip(
        r#"{"auto_update":false,"properties":{"os":"BusyBox"},"public":false,"expires_at":"1970-01-01T00:00:00Z","profiles":["default"],"aliases":[{"name":"testimage","description":""}],"architecture":"x86_64","cached":false,"filename":"","fingerprint":"37ff","size":2129920,"type":"container","created_at":"2024-05-01T08:00:00Z","last_used_at":"0001-01-01T00:00:00Z","uploaded_at":"2024-05-01T08:00:00.5Z"}"#,
    );
    assert!(image.expires_at.is_never());
}

#[test]
fn pool_network_and_project_state() {
    let _: StoragePool = round_trip(
        r#"{"config":{"source":"/x"},"description":"","name":"default","driver":"dir","used_by":["/1.0/instances/x-c1","/1.0/profiles/default"],"status":"Created","locations":["none"]}"#,
    );
    let network: Network = serde_json::from_str(
        r#"{"config":{},"description":"","name":"eth0","type":"physical","used_by":null,"managed":false,"status":"","locations":null}"#,
    )
    .unwrap();
    assert!(network.used_by.is_empty() && network.locations.is_empty());
    let state: ProjectState = round_trip(r#"{"resources":{"containers":{"Limit":-1,"Usage":1}}}"#);
    assert_eq!(state.resources["containers"].limit, -1);
}

#[test]
fn operations_by_status() {
    let response: Response = serde_json::from_str(
        r#"{"type":"sync","status":"Success","status_code":200,"operation":"","error_code":0,"error":"","metadata":{"running":[{"id":"a"}],"success":[]}}"#,
    )
    .unwrap();
    let operations: OperationsByStatus = serde_json::from_value(response.metadata).unwrap();
    assert_eq!(operations["running"][0].id, "a");
}

#[test]
fn a_go_client_sends_null_for_empty() {
    let post: InstancesPost = serde_json::from_str(
        r#"{"architecture":"","config":null,"devices":null,"ephemeral":false,"profiles":null,"stateful":false,"description":"","name":"c1","source":{"type":"image","certificate":"","fingerprint":"37ff","allow_inconsistent":false},"instance_type":"","type":""}"#,
    )
    .unwrap();
    assert_eq!(post.profiles, None);
    assert_eq!(post.kind, InstanceType::Container);
    assert_eq!(post.source.fingerprint, "37ff");
    let none: InstancesPost = serde_json::from_str(r#"{"profiles":[]}"#).unwrap();
    assert_eq!(none.profiles, Some(Vec::new()));
    let error = serde_json::from_str::<InstancesPost>(r#"{"type":"vm"}"#).unwrap_err().to_string();
    assert!(error.contains("virtual-machine"), "{error}");
}
