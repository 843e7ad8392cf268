use std::{
    ffi::OsStr,
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, symlink},
        net::UnixStream,
    },
    path::PathBuf,
    thread,
};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// Sends a request, and its content once the server is ready for it, as the client does; gives all
/// frames of the answer.
fn talk(root: &Path, request: FileRequest, content: &[&[u8]]) -> Vec<frame::Frame> {
    let (mut ours, mut theirs) = UnixStream::pair().unwrap();
    let root = root.to_owned();
    let server = thread::spawn(move || serve(&mut theirs, &root));
    frame::write_json(&mut ours, &Request::Files(request)).unwrap();
    let mut answer = Vec::new();
    while let Some(frame) = frame::read(&mut ours).unwrap() {
        let ready = matches!(frame.parse(), Ok(Reply::Ready));
        answer.push(frame);
        if ready {
            content.iter().for_each(|chunk| frame::write(&mut ours, Kind::Data, chunk).unwrap());
        }
    }
    server.join().unwrap().unwrap();
    answer
}

fn ask(root: &Path, request: FileRequest) -> Reply {
    talk(root, request, &[])[0].parse().unwrap()
}

fn error(reply: Reply) -> ErrorKind {
    let Reply::Error(error) = reply else { panic!("no error: {reply:?}") };
    error.kind
}

fn read_path(root: &Path, path: &str) -> Vec<frame::Frame> {
    talk(root, FileRequest::Read { path: path.into() }, &[])
}

fn write_path(root: &Path, path: &str, mode: WriteMode, ownership: Ownership, content: &[u8]) -> Reply {
    let request = FileRequest::Write { path: path.into(), mode, ownership };
    talk(root, request, &[content, b""]).last().unwrap().parse().unwrap()
}

/// A root, and beside it a file that must not be reached.
fn rooted() -> (TempDir, PathBuf) {
    let outer = tempfile::tempdir().unwrap();
    fs::write(outer.path().join("secret"), "secret").unwrap();
    let root = outer.path().join("root");
    fs::create_dir(&root).unwrap();
    (outer, root)
}

#[test]
fn paths_and_links_stay_below_the_root() {
    let (outer, root) = rooted();
    let secret = outer.path().join("secret");
    symlink(&secret, root.join("absolute")).unwrap();
    symlink("../secret", root.join("relative")).unwrap();
    symlink("..", root.join("up")).unwrap();
    symlink("/proc/self/root", root.join("magic")).unwrap();
    for path in ["../secret", "/../../secret", "up/secret", "a/../../secret", "magic/etc/passwd"] {
        let answer = read_path(&root, path)[0].parse::<Reply>().unwrap();
        assert!(matches!(error(answer), ErrorKind::NotFound | ErrorKind::Invalid), "{path}");
    }
    for link in ["absolute", "relative"] {
        let answer = read_path(&root, link);
        let Reply::File(stat) = answer[0].parse().unwrap() else { panic!("{link}") };
        assert_eq!(stat.kind, FileKind::Symlink);
    }
    // Followed as a program inside would: the link leads to a path of the root.
    assert_eq!(write_path(&root, "relative", WriteMode::Overwrite, Ownership::default(), b"new"), Reply::Done);
    assert_eq!(fs::read(&secret).unwrap(), b"secret");
    assert_eq!(fs::read(root.join("secret")).unwrap(), b"new");
}

#[test]
fn special_files_neither_block_nor_open() {
    let (_outer, root) = rooted();
    let fifo = root.join("fifo");
    let mode = Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, mode, 0).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    symlink("fifo", root.join("to-fifo")).unwrap();
    for path in ["fifo", "socket"] {
        assert_eq!(error(read_path(&root, path)[0].parse().unwrap()), ErrorKind::NotSupported);
        let Reply::File(stat) = ask(&root, FileRequest::Stat { path: path.into() }) else { panic!() };
        assert_eq!(stat.kind, FileKind::Other);
    }
    for path in ["fifo", "socket", "to-fifo"] {
        let answer = write_path(&root, path, WriteMode::Append, Ownership::default(), b"x");
        assert_eq!(error(answer), ErrorKind::NotSupported);
    }
}

#[test]
fn a_large_file_is_read_whole() {
    let (_outer, root) = rooted();
    let content: Vec<u8> = (0..5_000_003u32).map(|i| (i % 253) as u8).collect();
    fs::write(root.join("big"), &content).unwrap();
    let answer = read_path(&root, "/big");
    let body: Vec<u8> = answer[1..].iter().flat_map(|frame| frame.payload.clone()).collect();
    assert!(body == content);
    assert!(answer.last().unwrap().payload.is_empty());
}

#[test]
fn owner_and_mode_of_new_and_old_files() {
    let (_outer, root) = rooted();
    let own = |uid, gid, mode| Ownership { uid, gid, mode };
    let is = |path: &str, uid, gid, mode| {
        let meta = fs::symlink_metadata(root.join(path)).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (uid, gid, mode), "{path}");
    };
    write_path(&root, "a", WriteMode::Overwrite, own(None, None, None), b"1");
    is("a", 0, 0, 0o644);
    write_path(&root, "b", WriteMode::Overwrite, own(Some(7), Some(8), Some(0o4751)), b"1");
    is("b", 7, 8, 0o4751);
    assert_eq!(write_path(&root, "b", WriteMode::Append, own(None, None, None), b"2"), Reply::Done);
    assert_eq!(fs::read(root.join("b")).unwrap(), b"12");
    assert_eq!(write_path(&root, "b", WriteMode::Overwrite, own(None, Some(9), None), b"3"), Reply::Done);
    assert_eq!(fs::read(root.join("b")).unwrap(), b"3");
    is("b", 7, 9, 0o751);
    let directory = |path: &str, ownership| FileRequest::MakeDirectory { path: path.into(), ownership };
    assert_eq!(ask(&root, directory("/d/", own(Some(5), None, None))), Reply::Done);
    is("d", 5, 0, 0o755);
    assert_eq!(ask(&root, directory("/d", own(Some(6), None, Some(0o700)))), Reply::Done);
    is("d", 5, 0, 0o755);
    symlink("d", root.join("to-d")).unwrap();
    assert_eq!(ask(&root, directory("/to-d", own(None, None, None))), Reply::Done);
    assert_eq!(error(ask(&root, directory("/a", own(None, None, None)))), ErrorKind::Conflict);
    assert_eq!(error(ask(&root, directory("/x/y", own(None, None, None)))), ErrorKind::NotFound);
    assert_eq!(error(ask(&root, directory("/z", own(None, None, Some(0o10_000))))), ErrorKind::Invalid);
    assert_eq!(error(write_path(&root, "d", WriteMode::Append, own(None, None, None), b"")), ErrorKind::Invalid);
}

#[test]
fn a_link_replaces_a_link_only() {
    let (_outer, root) = rooted();
    let link = |path: &str, target: &str| FileRequest::Symlink {
        path: path.into(),
        target: target.into(),
        ownership: Ownership { uid: Some(3), ..Ownership::default() },
    };
    assert_eq!(ask(&root, link("l", "/one")), Reply::Done);
    assert_eq!(ask(&root, link("l", "/two")), Reply::Done);
    assert_eq!(fs::read_link(root.join("l")).unwrap(), Path::new("/two"));
    assert_eq!(fs::symlink_metadata(root.join("l")).unwrap().uid(), 3);
    fs::write(root.join("f"), "").unwrap();
    assert_eq!(error(ask(&root, link("f", "/two"))), ErrorKind::Conflict);
    assert_eq!(fs::read_dir(&root).unwrap().count(), 2);
}

#[test]
fn names_that_are_no_text_are_listed_and_deleted() {
    let (_outer, root) = rooted();
    fs::create_dir(root.join("d")).unwrap();
    fs::write(root.join("d").join(OsStr::from_bytes(b"bad\xff")), "").unwrap();
    fs::write(root.join("d/good"), "").unwrap();
    let answer = read_path(&root, "d");
    let Reply::Entries(names) = answer[1].parse().unwrap() else { panic!() };
    assert_eq!(names, ["bad\u{fffd}", "good"]);
    let delete = |recursive| FileRequest::Delete { path: "/d".into(), recursive };
    assert_eq!(error(ask(&root, delete(false))), ErrorKind::Conflict);
    assert_eq!(ask(&root, delete(true)), Reply::Done);
    assert!(!root.join("d").exists());
    assert_eq!(error(ask(&root, delete(true))), ErrorKind::NotFound);
}

#[test]
fn a_deleted_tree_takes_nothing_with_it_that_it_links_to() {
    let (outer, root) = rooted();
    fs::create_dir_all(root.join("tree/sub")).unwrap();
    fs::create_dir(root.join("other")).unwrap();
    fs::write(root.join("other/kept"), "").unwrap();
    symlink("/other", root.join("tree/link")).unwrap();
    symlink(outer.path(), root.join("tree/sub/out")).unwrap();
    assert_eq!(ask(&root, FileRequest::Delete { path: "tree".into(), recursive: true }), Reply::Done);
    assert!(root.join("other/kept").exists() && outer.path().join("secret").exists());
    symlink("/other", root.join("direct")).unwrap();
    assert_eq!(ask(&root, FileRequest::Delete { path: "direct".into(), recursive: true }), Reply::Done);
    assert!(root.join("other/kept").exists());
    for path in ["/", "", "..", "other/."] {
        assert_eq!(error(ask(&root, FileRequest::Delete { path: path.into(), recursive: true })), ErrorKind::Invalid);
    }
}

#[test]
fn a_tree_deeper_than_descriptors_allow_is_deleted() {
    let (_outer, root) = rooted();
    // Made from within, because the whole path is longer than the kernel takes.
    let mut parent = rustix::fs::openat(rustix::fs::CWD, &root, OFlags::PATH, Mode::empty()).unwrap();
    for _ in 0..3000 {
        rustix::fs::mkdirat(&parent, "d", Mode::from_raw_mode(0o755)).unwrap();
        parent = rustix::fs::openat(&parent, "d", OFlags::PATH, Mode::empty()).unwrap();
    }
    assert_eq!(ask(&root, FileRequest::Delete { path: "d".into(), recursive: true }), Reply::Done);
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
}

#[test]
fn a_failed_write_is_told_once_and_the_rest_is_dropped() {
    let (_outer, root) = rooted();
    // A tmpfs of one page is full after it.
    let full = root.join("full");
    fs::create_dir(&full).unwrap();
    let options = c"size=4096";
    rustix::mount::mount("full", &full, "tmpfs", rustix::mount::MountFlags::empty(), options).unwrap();
    let request =
        FileRequest::Write { path: "full/f".into(), mode: WriteMode::Overwrite, ownership: Ownership::default() };
    let answer = talk(&root, request, &[&[1; 8192], &[2; 8192], &[3; 8192], b""]);
    rustix::mount::unmount(&full, rustix::mount::UnmountFlags::DETACH).unwrap();
    assert_eq!(answer.len(), 2);
    assert_eq!(error(answer[1].parse().unwrap()), ErrorKind::NoSpace);
}

#[test]
fn other_requests_are_refused() {
    let (mut ours, mut theirs) = UnixStream::pair().unwrap();
    frame::write_json(&mut ours, &Request::State).unwrap();
    serve(&mut theirs, Path::new("/")).unwrap();
    let reply = frame::read(&mut ours).unwrap().unwrap().parse().unwrap();
    assert_eq!(error(reply), ErrorKind::NotSupported);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_path_reaches_what_is_outside(path in "(/|\\.\\.|\\.|a|up|abs|secret|\u{0}){0,12}") {
        let (outer, root) = rooted();
        fs::create_dir(root.join("a")).unwrap();
        symlink("..", root.join("up")).unwrap();
        symlink(outer.path(), root.join("abs")).unwrap();
        for request in [
            FileRequest::Stat { path: path.clone() },
            FileRequest::Read { path: path.clone() },
            FileRequest::Delete { path: path.clone(), recursive: true },
        ] {
            let answer = talk(&root, request, &[]);
            prop_assert!(answer.iter().all(|frame| frame.payload != b"secret"));
        }
        prop_assert!(outer.path().join("secret").exists());
    }
}
