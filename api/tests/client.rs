//! The client against a small server on a unix socket.

use std::{
    convert::Infallible,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use berth_api::{
    Client, Endpoint, Error, Response, StatusCode,
    client::{Done, Upload, multipart},
    exec::{InstanceConsolePost, InstanceExecControl, InstanceExecPost},
    operations::Operation,
};
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http::{Method, Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    net::UnixListener,
    sync::{Notify, mpsc},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, handshake::derive_accept_key, protocol::Role},
};

type Reply = http::Response<Full<Bytes>>;
type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// A server that knows just enough.
struct Fake {
    directory: tempfile::TempDir,
    state: Arc<State>,
}

struct State {
    connections: AtomicUsize,
    requests: Mutex<Vec<String>>,
    /// What came in on standard input; `None` is its end.
    typed: mpsc::UnboundedSender<Option<Bytes>>,
    /// Standard output takes it.
    echoed: Mutex<Option<mpsc::UnboundedReceiver<Option<Bytes>>>>,
    /// The operation has ended.
    ended: Notify,
    signals: mpsc::Sender<Value>,
    close_after_answer: bool,
}

impl Fake {
    fn socket(&self) -> PathBuf {
        self.directory.path().join("unix.socket")
    }

    fn requests(&self) -> Vec<String> {
        self.state.requests.lock().unwrap().clone()
    }

    fn start(close_after_answer: bool) -> (Self, mpsc::Receiver<Value>) {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("unix.socket")).unwrap();
        let (signals, received) = mpsc::channel(8);
        let (typed, echoed) = mpsc::unbounded_channel();
        let state = Arc::new(State {
            connections: AtomicUsize::new(0),
            requests: Mutex::default(),
            typed,
            echoed: Mutex::new(Some(echoed)),
            ended: Notify::new(),
            signals,
            close_after_answer,
        });
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                shared.connections.fetch_add(1, Ordering::SeqCst);
                let state = Arc::clone(&shared);
                tokio::spawn(async move {
                    let service = service_fn(|request| answer(Arc::clone(&state), request));
                    let keep_alive = !state.close_after_answer;
                    let connection =
                        http1::Builder::new().keep_alive(keep_alive).serve_connection(TokioIo::new(stream), service);
                    let _ = connection.with_upgrades().await;
                });
            }
        });
        (Self { directory, state }, received)
    }
}

fn reply(status: u16, response: &Response) -> Reply {
    let body = serde_json::to_vec(response).unwrap();
    http::Response::builder().status(status).header(header::ETAG, "\"v1\"").body(Full::from(body)).unwrap()
}

fn operation(status: StatusCode, metadata: Value) -> Value {
    json!({"id":"op1","class":"task","description":"Testing","status":status.text(),"status_code":status,"metadata":metadata,"err":""})
}

fn background(metadata: Value) -> Reply {
    reply(202, &Response::background("/1.0/operations/op1", operation(StatusCode::RUNNING, metadata)))
}

async fn answer(state: Arc<State>, mut request: Request<Incoming>) -> Result<Reply, Infallible> {
    let line = format!("{} {}", request.method(), request.uri());
    state.requests.lock().unwrap().push(line);
    let path = request.uri().path().to_owned();
    if request.headers().contains_key(header::UPGRADE) {
        return Ok(upgrade(state, &mut request));
    }
    Ok(match (request.method().as_str(), path.as_str()) {
        ("GET", "/1.0") => reply(200, &Response::sync(json!({"api_version":"1.0"}))),
        ("PUT", "/1.0/profiles/p") => {
            match request.headers().get(header::IF_MATCH).map(|value| value.to_str().unwrap()) {
                Some("\"v1\"") => reply(200, &Response::empty()),
                _ => reply(412, &Response::error(412, "ETag doesn't match")),
            }
        }
        ("POST", "/1.0/echo") => {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            reply(200, &Response::sync(json!(String::from_utf8_lossy(&body))))
        }
        ("GET", "/1.0/file") => http::Response::new(Full::from(vec![7_u8; 300_000])),
        ("GET", "/1.0/multipart") => {
            let mut body = multipart::part_head("b", "metadata", "m.tar");
            body.push_str("one");
            body.push_str(multipart::PART_TAIL);
            body.push_str(&multipart::part_head("b", "rootfs", "r.squashfs"));
            body.push_str(multipart::PART_TAIL);
            body.push_str(&multipart::end("b"));
            let builder = http::Response::builder().header(header::CONTENT_TYPE, "multipart/form-data; boundary=b");
            builder.body(Full::from(body)).unwrap()
        }
        ("POST", "/1.0/work") => background(Value::Null),
        ("POST", "/1.0/instances/c1/exec") => {
            background(json!({"fds":{"0":"s0","1":"s1","2":"s2","control":"sc"},"command":["cat"]}))
        }
        ("POST", "/1.0/instances/c1/console") => background(json!({"fds":{"0":"k0","control":"kc"}})),
        ("GET", "/1.0/operations/op1/wait") => {
            state.ended.notified().await;
            reply(200, &Response::sync(operation(StatusCode::SUCCESS, json!({"return": 7}))))
        }
        ("GET", "/1.0/broken") => http::Response::builder().status(502).body(Full::from("bad gateway\n")).unwrap(),
        ("GET", "/1.0/nonsense") => http::Response::new(Full::from("no json")),
        _ => reply(404, &Response::error(404, "Not found")),
    })
}

fn upgrade(state: Arc<State>, request: &mut Request<Incoming>) -> Reply {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let path = request.uri().path().to_owned();
    if query.contains("secret=wrong") {
        return reply(403, &Response::error(403, "not authorized"));
    }
    let key = derive_accept_key(request.headers()["sec-websocket-key"].as_bytes());
    let upgraded = hyper::upgrade::on(request);
    tokio::spawn(async move {
        let Ok(io) = upgraded.await else { return };
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(io), Role::Server, None).await;
        let _ = serve_socket(state, &path, &query, socket).await;
    });
    http::Response::builder()
        .status(101)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header("Sec-WebSocket-Accept", key)
        .body(Full::default())
        .unwrap()
}

async fn serve_socket(state: Arc<State>, path: &str, query: &str, mut socket: Socket) -> Option<()> {
    if path == "/1.0/events" {
        for percent in ["10%", "90%"] {
            let metadata = operation(StatusCode::RUNNING, json!({"create_progress": percent}));
            let event = json!({"type":"operation","timestamp":"2024-05-01T08:00:00Z","metadata":metadata});
            socket.send(Message::text(event.to_string())).await.ok()?;
        }
        let metadata = operation(StatusCode::SUCCESS, json!({"done": true}));
        let event = json!({"type":"operation","timestamp":"2024-05-01T08:00:00Z","metadata":metadata});
        return socket.send(Message::text(event.to_string())).await.ok();
    }
    match query.rsplit('=').next()? {
        // Standard input comes back on standard output.
        "s0" => {
            while let Some(Ok(message)) = socket.next().await {
                let _ = match message {
                    Message::Text(text) if text.is_empty() => state.typed.send(None),
                    Message::Binary(data) => state.typed.send(Some(data)),
                    _ => Ok(()),
                };
            }
        }
        "s1" => {
            let mut input = state.echoed.lock().unwrap().take()?;
            socket.send(Message::binary("out:")).await.ok()?;
            while let Some(Some(data)) = input.recv().await {
                socket.send(Message::Binary(data)).await.ok()?;
            }
            socket.send(Message::text("")).await.ok()?;
            state.ended.notify_one();
        }
        "s2" => {
            socket.send(Message::binary("err")).await.ok()?;
            socket.send(Message::text("")).await.ok()?;
        }
        "k0" => {
            socket.send(Message::binary("login:")).await.ok()?;
            while let Some(Ok(Message::Binary(data))) = socket.next().await {
                socket.send(Message::Binary(data)).await.ok()?;
            }
        }
        _ => {
            while let Some(Ok(Message::Text(text))) = socket.next().await {
                let _ = state.signals.send(serde_json::from_str(&text).unwrap()).await;
            }
        }
    }
    Some(())
}

#[tokio::test]
async fn requests_share_one_connection() {
    let (fake, _) = Fake::start(false);
    let client = Client::unix(fake.socket()).with_project(Some("p1"));
    for _ in 0..3 {
        let value: Value = client.get(&Endpoint::new(&[])).await.unwrap();
        assert_eq!(value["api_version"], "1.0");
    }
    assert_eq!(fake.requests(), ["GET /1.0?project=p1"; 3]);
    assert_eq!(fake.state.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_closed_connection_is_replaced() {
    let (fake, _) = Fake::start(true);
    let client = Client::unix(fake.socket());
    for _ in 0..3 {
        let _: Value = client.get(&Endpoint::new(&[])).await.unwrap();
    }
    assert_eq!(fake.state.connections.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn errors_tell_what_happened() {
    let (fake, _) = Fake::start(false);
    let client = Client::unix(fake.socket());
    let error = client.get::<Value>(&Endpoint::new(&["nothing"])).await.unwrap_err();
    assert!(error.is_not_found());
    assert_eq!(error.to_string(), "Not found");
    let error = client.get::<Value>(&Endpoint::new(&["broken"])).await.unwrap_err();
    assert_eq!((error.code(), error.to_string()), (Some(502), "bad gateway".into()));
    let error = client.get::<Value>(&Endpoint::new(&["nonsense"])).await.unwrap_err();
    assert!(matches!(error, Error::Protocol { .. }));
    let profile = Endpoint::new(&["profiles", "p"]);
    let body = || Some(b"{}".to_vec());
    let error = client.request(Method::PUT, &profile, body(), Some("\"v0\"")).await.unwrap_err();
    assert!(error.is_precondition_failed());
    client.request(Method::PUT, &profile, body(), Some("\"v1\"")).await.unwrap();

    let error = Client::unix(fake.directory.path().join("none")).get::<Value>(&Endpoint::new(&[])).await.unwrap_err();
    assert!(error.to_string().contains("systemctl start berth"), "{error}");
}

#[tokio::test]
async fn a_watched_operation_tells_its_progress() {
    let (fake, _) = Fake::start(false);
    let client = Client::unix(fake.socket());
    let mut seen = Vec::new();
    let mut watch = |operation: &Operation| seen.extend(operation.value("create_progress").cloned());
    let done = client.run(Method::POST, &Endpoint::new(&["work"]), None, None, &mut watch).await.unwrap();
    let Done::Background(operation) = done else { panic!("an operation was expected") };
    assert_eq!(operation.value("done"), Some(&json!(true)));
    assert_eq!(seen, [json!("10%"), json!("90%")]);
}

#[tokio::test]
async fn bodies_stream_both_ways() {
    let (fake, _) = Fake::start(false);
    let client = Client::unix(fake.socket());
    let upload = Upload::reader(&b"hello"[..], Some(5), |_| {});
    let endpoint = Endpoint::new(&["echo"]);
    let answer = client.upload(Method::POST, &endpoint, http::HeaderMap::new(), upload).await.unwrap();
    assert_eq!(answer.response.metadata, json!("hello"));

    let mut data = Vec::new();
    let mut told = 0;
    let response = client.download(&Endpoint::new(&["file"])).await.unwrap();
    assert_eq!(response.length(), Some(300_000));
    response.copy_to(&mut data, |count| told = count).await.unwrap();
    assert_eq!((data.len(), told), (300_000, 300_000));
    assert!(client.download(&Endpoint::new(&["none"])).await.unwrap_err().is_not_found());
    let response = client.download(&Endpoint::new(&["file"])).await.unwrap();
    assert!(response.bytes(1000).await.is_err());
}

#[tokio::test]
async fn two_files_are_split() {
    let (fake, _) = Fake::start(false);
    let client = Client::unix(fake.socket());
    let mut response = client.download(&Endpoint::new(&["multipart"])).await.unwrap();
    let boundary = multipart::boundary(response.header("content-type")).unwrap().to_owned();
    let mut splitter = multipart::Splitter::new(&boundary);
    let mut files = Vec::new();
    while let Some(head) = splitter.next_head(&mut response).await.unwrap() {
        let mut data = Vec::new();
        splitter.copy_part(&mut response, &mut data, |_| {}).await.unwrap();
        files.push((head.filename, data));
    }
    assert_eq!(files, [("m.tar".to_owned(), b"one".to_vec()), ("r.squashfs".to_owned(), Vec::new())]);
}

#[tokio::test]
async fn exec_connects_all_streams() {
    let (fake, mut signals) = Fake::start(false);
    let client = Client::unix(fake.socket());
    let request = InstanceExecPost { command: vec!["cat".into()], ..InstanceExecPost::default() };
    let session = client.exec("c1", &request).await.unwrap();
    let (control, controls) = mpsc::channel(1);
    control.send(InstanceExecControl::signal(15)).await.unwrap();
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let operation = session.run(Some(&b"input"[..]), &mut stdout, &mut stderr, controls).await.unwrap();
    assert_eq!(operation.exit_code(), Some(7));
    assert_eq!(stdout, b"out:input");
    assert_eq!(stderr, b"err");
    assert_eq!(signals.recv().await.unwrap(), json!({"command":"signal","args":{},"signal":15}));
    let error = client.operation_websocket(&Operation { id: "op1".into(), ..Operation::default() }, "wrong").await;
    assert_eq!(error.unwrap_err().to_string(), "not authorized");
}

#[tokio::test]
async fn a_console_ends_with_its_input() {
    let (fake, _) = Fake::start(false);
    let client = Client::unix(fake.socket());
    let session = client.console("c1", &InstanceConsolePost::default()).await.unwrap();
    let (input, keys) = mpsc::channel(4);
    let (_resize, resizes) = mpsc::channel(1);
    let (mut reader, mut writer) = tokio::io::duplex(64);
    let user = async move {
        use tokio::io::AsyncReadExt as _;
        let mut text = [0; 6];
        reader.read_exact(&mut text).await.unwrap();
        assert_eq!(&text, b"login:");
        input.send(Bytes::from_static(b"me")).await.unwrap();
        reader.read_exact(&mut text[..2]).await.unwrap();
        assert_eq!(&text[..2], b"me");
        drop(input);
    };
    let (ended, ()) = tokio::join!(session.run(keys, &mut writer, resizes), user);
    assert!(!ended.unwrap());
}
