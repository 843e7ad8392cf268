use serde_json::json;
use tokio::sync::oneshot;

use super::*;
use crate::events::Interest;

fn caller(name: &str) -> Caller {
    Caller { username: name.into(), protocol: "unix", address: "@".into() }
}

fn panics() -> ApiResult<()> {
    panic!("oh")
}

fn spec() -> Spec {
    Spec::new("Creating instance", Some("default"), &caller("root")).resource("instances", "/1.0/instances/c1")
}

#[tokio::test]
async fn an_operation_runs_and_tells_each_change() {
    let events = Events::default();
    let mut client = events.subscribe(Interest {
        kinds: vec![Kind::Operation],
        project: Some("default".into()),
        only_project: false,
    });
    let operations = Operations::new(events);
    let (go, gone) = oneshot::channel::<()>();
    let operation = operations
        .spawn(spec(), |context| async move {
            let _ = gone.await;
            context.set("fs_progress", "50%");
            Ok(json!({"return": 0}).as_object().cloned().unwrap())
        })
        .unwrap();
    let shown = operation.render_for_creator();
    assert_eq!(shown["status"], "Running");
    assert_eq!(shown["status_code"], 103);
    assert_eq!(shown["metadata"], Value::Null);
    assert_eq!(shown["resources"], json!({"instances": ["/1.0/instances/c1"]}));
    assert_eq!(operations.requestor("instances", "/1.0/instances/c1"), Some(caller("root")));
    go.send(()).unwrap();
    operation.ended().await;
    assert_eq!(operation.render()["metadata"], json!({"fs_progress": "50%", "return": 0}));
    let mut statuses = Vec::new();
    for _ in 0..4 {
        let event: Value = serde_json::from_str(&client.recv().await.unwrap()).unwrap();
        statuses.push(event["metadata"]["status"].as_str().unwrap().to_owned());
    }
    assert_eq!(statuses, ["Pending", "Running", "Running", "Success"]);
}

#[tokio::test]
async fn failure_and_panic_are_told() {
    let operations = Operations::new(Events::default());
    let failed = operations.spawn(spec(), |_| async { Err::<(), _>(ApiError::invalid("no room")) }).unwrap();
    failed.ended().await;
    assert_eq!(failed.render()["err"], "no room");
    assert_eq!(failed.render()["status_code"], 400);
    let panicked = operations.spawn(spec(), |_| async { panics() }).unwrap();
    panicked.ended().await;
    assert_eq!(panicked.status(), Status::Failure);
}

#[tokio::test]
async fn an_ended_operation_is_kept_for_a_while() {
    let operations = Operations::keeping(Events::default(), Duration::from_millis(200));
    let operation = operations.spawn(spec(), |_| async { Ok(Map::new()) }).unwrap();
    operation.ended().await;
    let id = operation.id().to_string();
    assert!(operations.get(&id).is_ok());
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(operations.get(&id).unwrap_err().code(), http::StatusCode::NOT_FOUND);
    assert!(operations.list(None).is_empty());
}

#[tokio::test]
async fn only_what_allows_it_is_cancelled() {
    let operations = Operations::new(Events::default());
    let fixed = operations.spawn(spec(), |_| std::future::pending::<ApiResult<()>>()).unwrap();
    let error = operations.cancel(&fixed.id().to_string()).unwrap_err();
    assert_eq!(error.to_string(), "This operation can't be cancelled");
    let (held, dropped) = oneshot::channel::<()>();
    let free = operations
        .spawn(spec().cancellable(), |_| async move {
            let _held = held;
            std::future::pending::<ApiResult<()>>().await
        })
        .unwrap();
    assert_eq!(free.render()["may_cancel"], true);
    operations.cancel(&free.id().to_string()).unwrap();
    free.ended().await;
    assert_eq!(free.render()["status_code"], 401);
    assert_eq!(free.render()["may_cancel"], false);
    assert!(dropped.await.is_err(), "its future is gone");
}

#[tokio::test]
async fn secrets_are_shown_to_the_creator_and_open_for_nobody_else() {
    let operations = Operations::new(Events::default());
    let (sockets, _expected, secrets) = Sockets::new(&["0"], CONNECT);
    let secret = secrets["0"].as_str().unwrap().to_owned();
    let spec = spec().class(Class::Websocket).private("fds", secrets);
    let operation = operations.spawn_with(spec, sockets, |_| std::future::pending::<ApiResult<()>>()).unwrap();
    let id = operation.id().to_string();
    assert_eq!(operation.render_for_creator()["metadata"]["fds"]["0"], secret.as_str());
    assert!(!operation.render().to_string().contains(&secret));
    assert!(operations.socket(&id, &secret, &caller("eve")).is_err());
    assert!(operations.socket(&id, "wrong", &caller("root")).is_err());
    assert!(operations.socket(&id, &secret, &caller("root")).is_ok());
    assert!(operations.socket(&id, &secret, &caller("root")).is_err());
}

#[tokio::test]
async fn stopping_waits_for_tasks_and_ends_what_waits_for_clients() {
    let operations = Operations::new(Events::default());
    let session =
        operations.spawn(spec().class(Class::Websocket), |_| std::future::pending::<ApiResult<()>>()).unwrap();
    let token = operations.spawn(spec().class(Class::Token), |_| std::future::pending::<ApiResult<()>>()).unwrap();
    operations
        .spawn(spec(), |_| async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok(Map::new())
        })
        .unwrap();
    assert_eq!(operations.stop(Duration::from_secs(5)).await, 0);
    assert_eq!((session.status(), token.status()), (Status::Cancelled, Status::Cancelled));
    let error = operations.spawn(spec(), |_| async { Ok(Map::new()) }).unwrap_err();
    assert_eq!(error.code(), http::StatusCode::SERVICE_UNAVAILABLE);
}
