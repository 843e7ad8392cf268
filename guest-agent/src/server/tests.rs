use std::{collections::BTreeMap, fs, time::Duration};

use berth_guest::{
    client::{self, ClientError, Exec, FileSession},
    protocol::{ErrorKind, ExecControl, ExecSpec, FileRequest, Ownership, WindowSize, WriteMode},
};
use rustix::process::{Pid, test_kill_process};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

use super::*;

const LONG: Duration = Duration::from_secs(30);

/// A connection to a server of its own.
fn connect() -> UnixStream {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    std::thread::spawn(move || serve(theirs.into()));
    ours.set_nonblocking(true).unwrap();
    UnixStream::from_std(ours).unwrap()
}

fn spec(command: &[&str]) -> ExecSpec {
    ExecSpec {
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        env: BTreeMap::from([("PATH".to_owned(), "/usr/sbin:/usr/bin:/sbin:/bin".to_owned())]),
        cwd: None,
        uid: 0,
        gid: 0,
        terminal: None,
    }
}

fn sh(script: &str) -> ExecSpec {
    spec(&["sh", "-c", script])
}

async fn start(spec: ExecSpec) -> Exec {
    client::exec(connect(), spec).await.unwrap()
}

/// Runs to the end without input: output, error output, status.
async fn run(spec: ExecSpec) -> (String, String, i32) {
    let Exec { stdin, mut stdout, mut stderr, control: _control, exit, .. } = start(spec).await;
    drop(stdin);
    let (mut out, mut err) = (String::new(), String::new());
    let whole = async {
        let (a, b) = tokio::join!(stdout.read_to_string(&mut out), stderr.read_to_string(&mut err));
        a.unwrap();
        b.unwrap();
        exit.await.unwrap()
    };
    let status = timeout(LONG, whole).await.expect("the program ends");
    (out, err, status)
}

fn runs(pid: u32) -> bool {
    test_kill_process(Pid::from_raw(pid as i32).unwrap()).is_ok()
}

#[tokio::test]
async fn status_and_both_outputs_arrive() {
    let (out, err, status) = run(sh("echo out; echo err >&2; exit 7")).await;
    assert_eq!((out.as_str(), err.as_str(), status), ("out\n", "err\n", 7));
    let (.., status) = run(sh("kill -9 $$")).await;
    assert_eq!(status, 137);
}

#[tokio::test]
async fn input_arrives_whole_and_ends() {
    let content: Vec<u8> = (0..2_500_000u32).map(|i| (i % 255) as u8).collect();
    let Exec { mut stdin, mut stdout, stderr, control: _control, exit, .. } = start(spec(&["cat"])).await;
    drop(stderr);
    let expected = content.clone();
    let feeder = tokio::spawn(async move {
        stdin.write_all(&content).await.unwrap();
    });
    let mut back = Vec::new();
    timeout(LONG, stdout.read_to_end(&mut back)).await.unwrap().unwrap();
    feeder.await.unwrap();
    assert!(back == expected);
    assert_eq!(exit.await.unwrap(), 0);
}

#[tokio::test]
async fn what_cannot_run_is_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("plain"), "x").unwrap();
    let plain = directory.path().join("plain").to_str().unwrap().to_owned();
    let in_path = ExecSpec {
        env: BTreeMap::from([("PATH".to_owned(), directory.path().to_str().unwrap().to_owned())]),
        ..spec(&["plain"])
    };
    let nowhere = ExecSpec { cwd: Some("/no/such/place".into()), ..spec(&["true"]) };
    for (spec, kind) in [
        (spec(&["no-such-program"]), ErrorKind::NotFound),
        (spec(&["/no/such/program"]), ErrorKind::NotFound),
        (spec(&["/etc/passwd/x"]), ErrorKind::NotFound),
        (spec(&[&plain]), ErrorKind::PermissionDenied),
        (spec(&["/"]), ErrorKind::PermissionDenied),
        (in_path, ErrorKind::PermissionDenied),
        (nowhere, ErrorKind::Invalid),
        (spec(&[]), ErrorKind::Invalid),
        (spec(&["a\0b"]), ErrorKind::NotFound),
        (spec(&["sh", "a\0b"]), ErrorKind::Invalid),
    ] {
        let name = spec.command.clone();
        let error = client::exec(connect(), spec).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{name:?}: {error}");
    }
}

#[tokio::test]
async fn environment_directory_and_user_are_as_asked() {
    let mut asked = sh("env | grep -v -e ^PWD= -e ^_= -e ^SHLVL= -e ^OLDPWD= | sort; pwd; id -u; id -g; id -G; umask");
    asked.env.insert("GREETING".into(), "a b".into());
    asked.cwd = Some("/usr/".into());
    asked.uid = 12345;
    asked.gid = 54321;
    let (out, ..) = run(asked).await;
    let expected = "GREETING=a b\nPATH=/usr/sbin:/usr/bin:/sbin:/bin\n/usr\n12345\n54321\n54321\n0022\n";
    assert_eq!(out, expected);
    let (out, ..) = run(sh("pwd")).await;
    assert_eq!(out, "/root\n");
}

#[tokio::test]
async fn a_terminal_has_a_size_a_user_and_an_echo() {
    let terminal = Some(WindowSize { width: 101, height: 33 });
    let script =
        "stty size; stat -c %u $(tty); read x; until [ \"$(stty size)\" = '44 55' ]; do sleep 0.05; done; echo =$x";
    let asked = ExecSpec { terminal, uid: 4321, ..sh(script) };
    let Exec { mut stdin, mut stdout, control, exit, .. } = start(asked).await;
    control.send(ExecControl::Resize(WindowSize { width: 0, height: 44 })).await.unwrap();
    let mut first = [0; "33 101\r\n4321\r\n".len()];
    timeout(LONG, stdout.read_exact(&mut first)).await.unwrap().unwrap();
    assert_eq!(String::from_utf8_lossy(&first), "33 101\r\n4321\r\n");
    control.send(ExecControl::Resize(WindowSize { width: 55, height: 44 })).await.unwrap();
    stdin.write_all(b"typed\n").await.unwrap();
    let mut rest = String::new();
    timeout(LONG, stdout.read_to_string(&mut rest)).await.unwrap().unwrap();
    assert_eq!((rest.as_str(), exit.await.unwrap()), ("typed\r\n=typed\r\n", 0));
}

#[tokio::test]
async fn the_interrupt_key_of_a_terminal_is_a_signal() {
    let asked = ExecSpec { terminal: Some(WindowSize { width: 0, height: 0 }), ..spec(&["cat"]) };
    let Exec { mut stdin, mut stdout, control: _control, exit, .. } = start(asked).await;
    stdin.write_all(b"ready\n").await.unwrap();
    let mut buffer = [0; 64];
    timeout(LONG, stdout.read(&mut buffer)).await.unwrap().unwrap();
    stdin.write_all(&[3]).await.unwrap();
    let mut rest = Vec::new();
    timeout(LONG, stdout.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert_eq!(exit.await.unwrap(), 130);
}

#[tokio::test]
async fn signals_reach_the_program() {
    let Exec { mut stdout, control, exit, stdin: _stdin, .. } =
        start(sh("trap 'echo got; exit 5' USR1; echo set; while :; do sleep 0.05; done")).await;
    let mut first = [0; 4];
    timeout(LONG, stdout.read_exact(&mut first)).await.unwrap().unwrap();
    // Neither is a signal; both are passed over.
    control.send(ExecControl::Signal(0)).await.unwrap();
    control.send(ExecControl::Signal(65)).await.unwrap();
    control.send(ExecControl::Signal(libc::SIGUSR1)).await.unwrap();
    let mut rest = String::new();
    timeout(LONG, stdout.read_to_string(&mut rest)).await.unwrap().unwrap();
    assert_eq!((rest.as_str(), exit.await.unwrap()), ("got\n", 5));
}

#[tokio::test]
async fn loss_of_the_connection_kills_the_process_group() {
    let Exec { mut stdout, exit, pid, stdin: _stdin, control: _control, .. } =
        start(sh("sleep 1000 & echo $!; wait")).await;
    let mut line = [0; 32];
    let n = timeout(LONG, stdout.read(&mut line)).await.unwrap().unwrap();
    let child: u32 = String::from_utf8_lossy(&line[..n]).trim().parse().unwrap();
    assert!(runs(pid) && runs(child));
    drop(exit);
    // The end of the output is the event: both processes held it.
    timeout(LONG, async { while stdout.read(&mut line).await.is_ok_and(|n| n > 0) {} }).await.unwrap();
    let gone = async {
        while runs(pid) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG, gone).await.unwrap();
}

#[tokio::test]
async fn loss_is_noticed_while_the_program_does_not_read() {
    let Exec { mut stdin, exit, pid, control: _control, .. } = start(spec(&["sleep", "1000"])).await;
    let flood = async { while stdin.write_all(&[0; 65536]).await.is_ok() {} };
    assert!(timeout(Duration::from_millis(500), flood).await.is_err(), "input is bounded");
    drop(exit);
    let gone = async {
        while runs(pid) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG, gone).await.unwrap();
}

#[tokio::test]
async fn a_process_left_behind_does_not_hold_up_the_exit() {
    for terminal in [None, Some(WindowSize { width: 80, height: 24 })] {
        let script = "trap '' HUP; sleep 1000 & echo $!; echo last";
        let Exec { mut stdout, exit, stdin: _stdin, control: _control, .. } =
            start(ExecSpec { terminal, ..sh(script) }).await;
        let mut out = String::new();
        timeout(LONG, stdout.read_to_string(&mut out)).await.unwrap().unwrap();
        assert_eq!(exit.await.unwrap(), 0);
        let mut lines = out.lines();
        let left = lines.next().unwrap().parse().unwrap();
        assert_eq!(lines.next(), Some("last"));
        rustix::process::kill_process(Pid::from_raw(left).unwrap(), rustix::process::Signal::KILL).unwrap();
    }
}

#[tokio::test]
async fn much_output_to_a_slow_reader_is_whole() {
    let Exec { stdin: _stdin, mut stdout, stderr, control: _control, exit, .. } =
        start(sh("seq 1 400000; exit 3")).await;
    drop(stderr);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut out = String::new();
    timeout(LONG, stdout.read_to_string(&mut out)).await.unwrap().unwrap();
    assert_eq!((out.lines().count(), out.lines().last()), (400_000, Some("400000")));
    assert_eq!(exit.await.unwrap(), 3);
}

#[tokio::test]
async fn files_and_state_are_served() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("f").to_str().unwrap().to_owned();
    let n = client::write(connect(), &path, WriteMode::Overwrite, Ownership::default(), &b"abc"[..]).await.unwrap();
    assert_eq!(n, 3);
    assert!(matches!(client::read(connect(), &path).await.unwrap(), FileSession::File { .. }));
    let stat = client::file(connect(), FileRequest::Stat { path: "/no".into() }).await.unwrap_err();
    assert!(matches!(stat, ClientError::Guest(e) if e.kind == ErrorKind::NotFound));
    assert!(client::state(connect()).await.unwrap().processes > 0);
}

#[tokio::test]
async fn nonsense_is_answered_or_ends_the_connection() {
    for bytes in [&b"\x02\0\0\0\0{}"[..], b"\x01\0\0\0\x03x", b"\xff\xff\xff\xff\0", b"\0\0\0\0\x09", b"\x05\0\0"] {
        let mut stream = connect();
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        timeout(LONG, stream.read_to_end(&mut answer)).await.unwrap().ok();
    }
}
