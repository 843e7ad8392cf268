use std::{collections::BTreeMap, os::unix::net::UnixStream as BlockingStream, path::PathBuf};

use tokio::io::AsyncReadExt;

use super::*;
use crate::{
    files,
    frame::{Frame, Kind},
    protocol::{ExecControl, ExecSpec, FileRequest, Ownership, WriteMode},
};

/// A connection to a file server below `root`.
fn serve_files(root: PathBuf) -> UnixStream {
    let (ours, mut theirs) = BlockingStream::pair().unwrap();
    std::thread::spawn(move || files::serve(&mut theirs, &root));
    ours.set_nonblocking(true).unwrap();
    UnixStream::from_std(ours).unwrap()
}

#[tokio::test]
async fn a_file_is_written_and_read_back() {
    let root = tempfile::tempdir().unwrap();
    let content: Vec<u8> = (0..3_000_001u32).map(|i| (i % 251) as u8).collect();
    let connect = || serve_files(root.path().to_owned());
    let ownership = Ownership { mode: Some(0o640), ..Ownership::default() };
    let n = write(connect(), "/big", WriteMode::Overwrite, ownership, content.as_slice()).await.unwrap();
    assert_eq!(n, content.len() as u64);
    let FileSession::File { stat, mut body } = read(connect(), "/big").await.unwrap() else { panic!("not a file") };
    assert_eq!((stat.mode, stat.size), (0o640, content.len() as u64));
    let mut back = Vec::new();
    body.read_to_end(&mut back).await.unwrap();
    assert!(back == content);
    let FileSession::Directory { entries, .. } = read(connect(), "/").await.unwrap() else { panic!("no directory") };
    assert_eq!(entries, ["big"]);
    let link = FileRequest::Symlink { path: "l".into(), target: "/big".into(), ownership: Ownership::default() };
    assert!(matches!(file(connect(), link).await.unwrap(), FileSession::Done));
    let FileSession::Link { target, .. } = read(connect(), "/l").await.unwrap() else { panic!("not a link") };
    assert_eq!(target, b"/big");
    let missing = read(connect(), "/none").await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_guest_that_fails_in_the_midst_of_a_file_ends_it_with_its_reason() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let guest = tokio::spawn(async move {
        frame::read_async(&mut theirs).await.unwrap().unwrap();
        let stat =
            crate::protocol::FileStat { kind: crate::protocol::FileKind::File, mode: 0o644, uid: 0, gid: 0, size: 100 };
        frame::write_json_async(&mut theirs, &Reply::File(stat)).await.unwrap();
        frame::write_async(&mut theirs, Kind::Data, b"half").await.unwrap();
        let error = GuestError { kind: ErrorKind::Other, message: "bad sector".into() };
        frame::write_json_async(&mut theirs, &Reply::Error(error)).await.unwrap();
    });
    let FileSession::File { mut body, .. } = read(ours, "/x").await.unwrap() else { panic!("not a file") };
    let mut content = Vec::new();
    let error = body.read_to_end(&mut content).await.unwrap_err();
    assert_eq!((content.as_slice(), error.to_string().as_str()), (&b"half"[..], "bad sector"));
    guest.await.unwrap();
}

#[tokio::test]
async fn a_failed_write_tells_the_guests_reason_and_does_not_wait_for_the_source() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let guest = tokio::spawn(async move {
        frame::read_async(&mut theirs).await.unwrap().unwrap();
        frame::write_json_async(&mut theirs, &Reply::Ready).await.unwrap();
        let error = GuestError { kind: ErrorKind::NoSpace, message: "disk full".into() };
        frame::write_json_async(&mut theirs, &Reply::Error(error)).await.unwrap();
        theirs
    });
    let (source, _never_written) = tokio::io::duplex(16);
    let error = write(ours, "/x", WriteMode::Append, Ownership::default(), source).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    guest.await.unwrap();
}

fn spec() -> ExecSpec {
    let command = vec!["cat".into()];
    ExecSpec { command, env: BTreeMap::new(), cwd: None, uid: 0, gid: 0, terminal: None }
}

#[tokio::test]
async fn a_program_is_fed_controlled_and_waited_for() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let guest = tokio::spawn(async move {
        let request: Request = frame::read_async(&mut theirs).await.unwrap().unwrap().parse().unwrap();
        assert_eq!(request, Request::Exec(spec()));
        frame::write_json_async(&mut theirs, &Reply::Started { pid: 7 }).await.unwrap();
        let mut seen: Vec<Frame> = Vec::new();
        while seen.len() < 3 {
            seen.push(frame::read_async(&mut theirs).await.unwrap().unwrap());
        }
        frame::write_async(&mut theirs, Kind::Stdout, b"out").await.unwrap();
        frame::write_async(&mut theirs, Kind::Stderr, b"err").await.unwrap();
        frame::write_async(&mut theirs, Kind::Stdout, b"").await.unwrap();
        frame::write_async(&mut theirs, Kind::Stderr, b"").await.unwrap();
        frame::write_json_async(&mut theirs, &Reply::Exited { status: 3 }).await.unwrap();
        seen
    });
    let mut program = exec(ours, spec()).await.unwrap();
    assert_eq!(program.pid, 7);
    program.stdin.write_all(b"in").await.unwrap();
    drop(program.stdin);
    program.control.send(ExecControl::Signal(15)).await.unwrap();
    drop(program.control);
    let (mut out, mut err) = (String::new(), String::new());
    program.stdout.read_to_string(&mut out).await.unwrap();
    program.stderr.read_to_string(&mut err).await.unwrap();
    assert_eq!((out.as_str(), err.as_str()), ("out", "err"));
    assert_eq!(program.exit.await.unwrap(), 3);
    let seen = guest.await.unwrap();
    assert!(seen.contains(&Frame { kind: Kind::Stdin, payload: b"in".to_vec() }));
    assert!(seen.contains(&Frame { kind: Kind::Stdin, payload: Vec::new() }));
    assert!(seen.contains(&Frame::json(&ExecControl::Signal(15)).unwrap()));
}

#[tokio::test]
async fn dropping_the_exit_closes_the_connection() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let guest = tokio::spawn(async move {
        frame::read_async(&mut theirs).await.unwrap().unwrap();
        frame::write_json_async(&mut theirs, &Reply::Started { pid: 7 }).await.unwrap();
        frame::read_async(&mut theirs).await
    });
    let program = exec(ours, spec()).await.unwrap();
    let Exec { exit, stdin: _stdin, control: _control, .. } = program;
    drop(exit);
    assert!(guest.await.unwrap().unwrap().is_none());
}

#[tokio::test]
async fn a_lost_guest_is_an_error_of_the_exit() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let guest = tokio::spawn(async move {
        frame::read_async(&mut theirs).await.unwrap().unwrap();
        frame::write_json_async(&mut theirs, &Reply::Started { pid: 7 }).await.unwrap();
    });
    let program = exec(ours, spec()).await.unwrap();
    guest.await.unwrap();
    assert!(program.exit.await.is_err());
}

#[tokio::test]
async fn a_vsock_port_without_listener_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vsock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let machine = tokio::spawn(async move {
        let (mut first, _) = listener.accept().await.unwrap();
        let mut line = [0; 13];
        first.read_exact(&mut line).await.unwrap();
        assert_eq!(&line, b"CONNECT 1025\n");
        first.write_all(b"OK 1073741824\nhello").await.unwrap();
        drop(first);
        let _second_is_dropped = listener.accept().await.unwrap();
    });
    let mut stream = connect_vsock(&path, 1025).await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "hello");
    let refused = connect_vsock(&path, 9).await.unwrap_err();
    assert!(matches!(refused, ClientError::NotListening { port: 9 }), "{refused}");
    machine.await.unwrap();
}
