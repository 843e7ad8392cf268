//! `console`: the console of an instance and its log.

use axum::{Router, body::Body, routing::get};
use berth_api::instances::{InstanceConsoleControl, InstanceConsolePost};
use berth_guest::protocol::WindowSize;
use berth_instances::ConsoleSession;
use futures::StreamExt;
use tokio::fs::File;
use tokio_util::{io::ReaderStream, sync::CancellationToken};

use super::{
    Target, happened, operation,
    session::{close, keep_alive, receive_control, receive_input, send_output},
};
use crate::{
    app::Shared,
    http::{ApiError, ApiResult, Caller, Json, envelope},
    operations::{CONNECT, Class, Expected, Operations, Sockets},
};

pub fn routes(base: &str) -> Router<Shared> {
    Router::new().route(&format!("{base}/{{name}}/console"), get(log).post(attach).delete(clear))
}

async fn attach(
    Target { app, instance, .. }: Target,
    caller: Caller,
    Json(post): Json<InstanceConsolePost>,
) -> ApiResult {
    let name = &instance.name;
    match post.kind.as_str() {
        "" | "console" => {}
        "vga" => {
            return Err(ApiError::invalid("A graphical console (type \"vga\") is not supported; use type \"console\""));
        }
        other => return Err(ApiError::invalid(format!("Unknown console type \"{other}\"; the type is \"console\""))),
    }
    if !instance.is_running() {
        return Err(ApiError::invalid(format!("Instance \"{name}\" is not running; start it first")));
    }
    let size = match (u16::try_from(post.width), u16::try_from(post.height)) {
        (Ok(width), Ok(height)) if width > 0 && height > 0 => Some(WindowSize { width, height }),
        _ => None,
    };
    let console = app.instances.console(&instance.project, &instance.name, post.force).await?;
    let (sockets, expected, secrets) = Sockets::new(&["0", "control"], CONNECT);
    let spec = operation("Showing console", &instance, &caller)
        .class(Class::Websocket)
        .private("fds", secrets)
        // Its future holds the console, which is let go with it.
        .cancellable();
    let started = app.operations.spawn_with(spec, sockets, |_| serve(console, size, expected))?;
    happened(&app, "instance-console", &instance, &caller);
    Ok(Operations::reply(&started))
}

/// Until the client or the instance ends.
async fn serve(console: ConsoleSession, size: Option<WindowSize>, mut expected: Expected) -> ApiResult<()> {
    let data = expected.connect("0").await?;
    let control = expected.later("control");
    if let Some(size) = size {
        // Without effect if the instance ended just now; its end is seen below.
        let _ = console.resize.send(size).await;
    }
    let (input, output) = {
        let (read, write) = console.stream.into_split();
        (Box::new(write), Box::new(read))
    };
    let (mut sink, mut source) = data.split();
    let never = CancellationToken::new();
    let resize = &console.resize;
    tokio::select! {
        _ = send_output(output, &mut sink, &never) => {}
        () = receive_input(&mut source, input, true) => {}
        () = async {
            let Some(Ok(socket)) = (match control { Some(control) => Some(control.await), None => None }) else {
                return std::future::pending().await;
            };
            let (mut sink, mut source) = socket.split();
            let size = |text: &str| {
                let message: InstanceConsoleControl = serde_json::from_str(text).ok()?;
                message.window_size().map(|(width, height)| WindowSize { width, height })
            };
            let obey = receive_control(&mut source, size, resize);
            tokio::select! {
                () = obey => {}
                () = keep_alive(&mut sink) => {}
            }
            close(sink, source);
        } => {}
    }
    close(sink, source);
    Ok(())
}

async fn log(Target { app, instance, .. }: Target) -> ApiResult {
    let name = &instance.name;
    match File::open(app.instances.console_log(&instance.project, &instance.name)?).await {
        Ok(file) => Ok(envelope::raw(Body::from_stream(ReaderStream::new(file)), None, "console.log")),
        // It never ran.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Ok(envelope::raw(Body::empty(), Some(0), "console.log"))
        }
        Err(error) => Err(ApiError::internal(format!("Cannot read the console log of \"{name}\": {error}"))),
    }
}

async fn clear(Target { app, instance, .. }: Target) -> ApiResult {
    let name = &instance.name;
    let path = app.instances.console_log(&instance.project, &instance.name)?;
    match File::options().write(true).open(path).await {
        Ok(file) => file.set_len(0).await?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(ApiError::internal(format!("Cannot clear the console log of \"{name}\": {error}"))),
    }
    Ok(envelope::empty())
}
