//! `exec`: programs in an instance.

use std::{collections::BTreeMap, future::pending, path::Path as FsPath};

use axum::{Router, extract::ws::WebSocket, routing::post};
use berth_api::instances::{InstanceExecControl, InstanceExecPost};
use berth_guest::protocol::{ExecSpec, WindowSize};
use berth_instances::{Config, Error, ExecIo, ExecSession, Instance};
use berth_supervisor::protocol::Input;
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::{fs::File, sync::mpsc};
use tokio_util::sync::CancellationToken;

use super::{
    Target, happened, operation,
    session::{Source, close, keep_alive, keep_output, receive_control, receive_input, receive_nothing, send_output},
};
use crate::{
    app::{App, Shared},
    http::{ApiError, ApiResult, Caller, Json, query::url},
    operations::{CONNECT, Class, Context, Expected, Operations, Sockets},
};

/// `PATH` unless the instance or the client gives another.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Bytes of each output that are kept by `record-output`.
const MAX_RECORD: u64 = 256 * 1024 * 1024;
const SIGKILL: i32 = 9;

pub fn routes(base: &str) -> Router<Shared> {
    Router::new().route(&format!("{base}/{{name}}/exec"), post(exec))
}

async fn exec(Target { app, instance, .. }: Target, caller: Caller, Json(post): Json<InstanceExecPost>) -> ApiResult {
    let name = &instance.name;
    if post.command.is_empty() {
        return Err(ApiError::invalid("No command given: \"command\" is a list of the program and its arguments"));
    }
    if !instance.is_running() {
        return Err(ApiError::invalid(format!("Instance \"{name}\" is not running; start it first")));
    }
    let env = environment(&instance.expanded_config, &post);
    let spec = operation("Executing command", &instance, &caller)
        .metadata("command", json!(post.command))
        .metadata("environment", json!(env))
        .metadata("interactive", post.interactive)
        // Its future holds the program, which dies with it.
        .cancellable();
    let terminal = post.interactive.then(|| WindowSize { width: size(post.width), height: size(post.height) });
    let program = ExecSpec {
        command: post.command,
        env,
        cwd: Some(post.cwd).filter(|cwd| !cwd.is_empty()),
        uid: post.user,
        gid: post.group,
        terminal,
    };
    let operations = app.operations.clone();
    if !post.wait_for_websocket {
        let program = ExecSpec { terminal: None, ..program };
        return operations.accept(spec, |context| async move {
            unattended(&app, &instance, program, post.record_output, context).await
        });
    }
    let names: &[&str] = if post.interactive { &["0", "control"] } else { &["0", "1", "2", "control"] };
    let (sockets, expected, secrets) = Sockets::new(names, CONNECT);
    let spec = spec.class(Class::Websocket).private("fds", secrets);
    let started = operations.spawn_with(spec, sockets, |context| async move {
        attended(&app, &instance, program, expected, &context).await
    })?;
    Ok(Operations::reply(&started))
}

fn size(number: i64) -> u16 {
    u16::try_from(number).unwrap_or(0)
}

/// LXD's defaults, the instance's `environment.*`, and what the client gives.
fn environment(config: &Config, post: &InstanceExecPost) -> BTreeMap<String, String> {
    let mut env = BTreeMap::from([("PATH".to_owned(), PATH.to_owned()), ("LANG".to_owned(), "C.UTF-8".to_owned())]);
    if post.user == 0 {
        env.extend([("HOME".to_owned(), "/root".to_owned()), ("USER".to_owned(), "root".to_owned())]);
    }
    let own =
        config.iter().filter_map(|(key, value)| Some((key.strip_prefix("environment.")?.to_owned(), value.clone())));
    env.extend(own);
    env.extend(post.environment.clone());
    env
}

/// Starts the program; one that cannot be run ends the operation as LXD ends it.
async fn start(app: &App, instance: &Instance, program: ExecSpec, context: &Context) -> ApiResult<ExecSession> {
    match app.instances.exec(&instance.project, &instance.name, program).await {
        Err(Error::Exec { status, message }) => {
            tracing::debug!(instance = instance.name, status, message, "the program cannot be run");
            context.set("return", status);
            Err(failure(status).unwrap_or_else(|| ApiError::invalid(message)))
        }
        other => {
            let session = other?;
            happened(app, "instance-exec", instance, context.caller());
            Ok(session)
        }
    }
}

/// What LXD makes of these two statuses.
fn failure(status: i32) -> Option<ApiError> {
    match status {
        127 => Some(ApiError::invalid("Command not found")),
        126 => Some(ApiError::invalid("Command not executable")),
        _ => None,
    }
}

fn outcome(status: i32, context: &Context) -> ApiResult<()> {
    context.set("return", status);
    failure(status).map_or_else(|| Ok(()), Err)
}

/// The exit status; cancels `exited` when it is known.
async fn ended(
    exit: tokio::sync::oneshot::Receiver<berth_instances::Result<i32>>,
    exited: &CancellationToken,
) -> ApiResult<i32> {
    let result = exit.await;
    exited.cancel();
    let lost = || ApiError::internal("The program was lost: the instance stopped or its supervisor died");
    Ok(result.map_err(|_| lost())??)
}

/// A program whose input and output are websockets.
async fn attended(
    app: &App,
    instance: &Instance,
    program: ExecSpec,
    mut expected: Expected,
    context: &Context,
) -> ApiResult<()> {
    let first = expected.connect("0").await?;
    if program.terminal.is_some() {
        let control = expected.connect("control").await?;
        let session = start(app, instance, program, context).await?;
        return terminal(session, first, control, context).await;
    }
    let (stdout, stderr) = (expected.connect("1").await?, expected.connect("2").await?);
    let session = start(app, instance, program, context).await?;
    pipes(session, [first, stdout, stderr], expected, context).await
}

async fn terminal(session: ExecSession, data: WebSocket, control: WebSocket, context: &Context) -> ApiResult<()> {
    let ExecSession { io, control: signals, exit } = session;
    let ExecIo::Terminal { input, output } = io else {
        return Err(ApiError::internal("The program has no terminal"));
    };
    let exited = CancellationToken::new();
    let (mut sink, mut source) = data.split();
    let (mut control_sink, mut control_source) = control.split();
    let status = {
        let work = async { tokio::join!(ended(exit, &exited), send_output(output, &mut sink, &exited)).0 };
        let client = async {
            tokio::join!(
                receive_input(&mut source, input, true),
                controlled(&mut control_source, &signals),
                keep_alive(&mut control_sink),
            );
            pending::<std::convert::Infallible>().await
        };
        tokio::select! {
            status = work => status,
            never = client => match never {},
        }
    };
    close(sink, source);
    close(control_sink, control_source);
    outcome(status?, context)
}

async fn pipes(
    session: ExecSession,
    sockets: [WebSocket; 3],
    mut expected: Expected,
    context: &Context,
) -> ApiResult<()> {
    let ExecSession { io, control: signals, exit } = session;
    let ExecIo::Pipes { stdin, stdout, stderr } = io else {
        return Err(ApiError::internal("The program has a terminal"));
    };
    let exited = CancellationToken::new();
    let [(mut in_sink, mut in_source), (mut out_sink, mut out_source), (mut err_sink, mut err_source)] =
        sockets.map(StreamExt::split);
    let later = expected.later("control");
    let status = {
        let work = async {
            let outputs = async {
                tokio::join!(send_output(stdout, &mut out_sink, &exited), send_output(stderr, &mut err_sink, &exited))
            };
            tokio::join!(ended(exit, &exited), outputs).0
        };
        let client = async {
            // Old clients never connect this one.
            let control = async {
                let Some(Ok(socket)) = (match later {
                    Some(later) => Some(later.await),
                    None => None,
                }) else {
                    return;
                };
                let (mut sink, mut source) = socket.split();
                tokio::join!(controlled(&mut source, &signals), keep_alive(&mut sink));
            };
            tokio::join!(
                control,
                receive_input(&mut in_source, stdin, false),
                keep_alive(&mut in_sink),
                // Nothing is expected on these but the answers to pings.
                receive_nothing(&mut out_source),
                receive_nothing(&mut err_source),
            );
            pending::<std::convert::Infallible>().await
        };
        tokio::select! {
            status = work => status,
            never = client => match never {},
        }
    };
    close(in_sink, in_source);
    close(out_sink, out_source);
    close(err_sink, err_source);
    outcome(status?, context)
}

/// Obeys a control websocket; its loss kills the program.
async fn controlled(source: &mut Source, signals: &mpsc::Sender<Input>) {
    receive_control(source, input, signals).await;
    // The program may have ended.
    let _ = signals.send(Input::Signal(SIGKILL)).await;
}

/// What a control message asks for; what is not understood is left alone, as a newer client may send more.
fn input(text: &str) -> Option<Input> {
    let message: InstanceExecControl = serde_json::from_str(text).ok()?;
    match message.command.as_str() {
        "window-resize" => message.window_size().map(|(width, height)| Input::Resize(WindowSize { width, height })),
        "signal" if (1..=64).contains(&message.signal) => Some(Input::Signal(message.signal)),
        _ => None,
    }
}

/// A program without websockets; its output is recorded or dropped.
async fn unattended(
    app: &App,
    instance: &Instance,
    program: ExecSpec,
    recorded: bool,
    context: Context,
) -> ApiResult<()> {
    let session = start(app, instance, program, &context).await?;
    let ExecSession { io, control: _control, exit } = session;
    let ExecIo::Pipes { stdin, stdout, stderr } = io else {
        return Err(ApiError::internal("The program has a terminal"));
    };
    drop(stdin);
    let exited = CancellationToken::new();
    let status = if recorded {
        let dir = app.instances.log_dir(&instance.project, &instance.name)?;
        tokio::fs::create_dir_all(&dir).await?;
        let file = |end: &str| format!("exec_{}.{end}", context.id());
        let (out, err) = (file("stdout"), file("stderr"));
        let (mut to_out, mut to_err) = (record(&dir, &out).await?, record(&dir, &err).await?);
        let (status, kept_out, kept_err) = tokio::join!(
            ended(exit, &exited),
            keep_output(stdout, &mut to_out, MAX_RECORD, &exited),
            keep_output(stderr, &mut to_err, MAX_RECORD, &exited)
        );
        if let Err(error) = kept_out.and(kept_err) {
            tracing::warn!(instance = instance.name, %error, "the output of a program is not recorded completely");
        }
        let link =
            |file: &str| Value::String(format!("{}/logs/{file}", url("/1.0/instances", &instance.name, "default")));
        context.set("output", json!({"1": link(&out), "2": link(&err)}));
        status
    } else {
        let (mut out, mut err) = (tokio::io::sink(), tokio::io::sink());
        let outputs = async {
            tokio::join!(keep_output(stdout, &mut out, 0, &exited), keep_output(stderr, &mut err, 0, &exited))
        };
        tokio::join!(ended(exit, &exited), outputs).0
    };
    outcome(status?, &context)
}

/// A new file that keeps a program's output.
async fn record(dir: &FsPath, name: &str) -> ApiResult<File> {
    let mut options = tokio::fs::OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(dir.join(name)).await;
    file.map_err(|error| ApiError::internal(format!("Cannot record the output in {name}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_layered() {
        let config = Config::from([("environment.A".into(), "1".into()), ("user.x".into(), "y".into())]);
        let post = InstanceExecPost {
            environment: BTreeMap::from([("PATH".into(), "/bin".into()), ("TERM".into(), "xterm".into())]),
            ..InstanceExecPost::default()
        };
        let env = environment(&config, &post);
        assert_eq!((env["A"].as_str(), env["PATH"].as_str(), env["HOME"].as_str()), ("1", "/bin", "/root"));
        assert_eq!(env.len(), 6);
        let other = environment(&Config::new(), &InstanceExecPost { user: 1000, ..InstanceExecPost::default() });
        assert!(!other.contains_key("HOME"));
    }

    #[test]
    fn control_messages_are_read() {
        let resize = input(r#"{"command":"window-resize","args":{"width":"80","height":"24"}}"#);
        assert!(matches!(resize, Some(Input::Resize(WindowSize { width: 80, height: 24 }))));
        assert!(matches!(input(r#"{"command":"signal","signal":15}"#), Some(Input::Signal(15))));
        for bad in [r#"{"command":"signal","signal":0}"#, r#"{"command":"dance"}"#, "x"] {
            assert!(input(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn two_statuses_are_failures() {
        assert_eq!(failure(127).unwrap().to_string(), "Command not found");
        assert_eq!(failure(126).unwrap().to_string(), "Command not executable");
        assert!(failure(1).is_none());
        assert_eq!((size(80), size(-1), size(1 << 20)), (80, 0, 0));
    }
}
