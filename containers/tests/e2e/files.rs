//! The file server in running and stopped containers.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixStream;

use berth_guest::frame::{self, Kind};
use berth_guest::protocol::{ErrorKind, FileRequest, Ownership, Reply, Request as GuestRequest, WriteMode};
use berth_supervisor::protocol::{Reply as ControlReply, Request};

use crate::common::*;

/// Where files are asked for.
enum Target<'a> {
    Running(&'a Running),
    Stopped(&'a Place),
}

impl Target<'_> {
    fn stream(&self) -> (UnixStream, Option<std::process::Child>) {
        match self {
            Self::Running(container) => match container.ask(&Request::Files) {
                (ControlReply::Files, mut fds) => (fds.remove(0).into(), None),
                other => panic!("{other:?}"),
            },
            Self::Stopped(place) => {
                let (ours, theirs) = UnixStream::pair().unwrap();
                let map = format!("{BASE}:65536");
                let rootfs = place.rootfs();
                let arguments =
                    ["files".as_ref(), "--rootfs".as_ref(), rootfs.as_os_str(), "--idmap".as_ref(), map.as_ref()];
                (ours, Some(spawn(&arguments, OwnedFd::from(theirs))))
            }
        }
    }

    fn ask(&self, request: &FileRequest, content: &[u8]) -> (Reply, Vec<u8>) {
        let (mut stream, child) = self.stream();
        frame::write_json(&mut stream, &GuestRequest::Files(request.clone())).unwrap();
        let mut reply: Reply = frame::read(&mut stream).unwrap().unwrap().parse().unwrap();
        if reply == Reply::Ready {
            frame::write(&mut stream, Kind::Data, content).unwrap();
            frame::write(&mut stream, Kind::Data, &[]).unwrap();
            reply = frame::read(&mut stream).unwrap().unwrap().parse().unwrap();
        }
        let mut data = Vec::new();
        while let Ok(Some(frame)) = frame::read(&mut stream) {
            data.extend(frame.payload);
        }
        if let Some(mut child) = child {
            assert!(child.wait().unwrap().success());
        }
        (reply, data)
    }

    fn write(&self, path: &str, text: &str) -> Reply {
        let ownership = Ownership { uid: Some(1000), gid: Some(1000), mode: Some(0o640) };
        self.ask(&FileRequest::Write { path: path.into(), mode: WriteMode::Overwrite, ownership }, text.as_bytes()).0
    }

    fn read(&self, path: &str) -> (Reply, String) {
        let (reply, data) = self.ask(&FileRequest::Read { path: path.into() }, &[]);
        (reply, String::from_utf8(data).unwrap())
    }
}

fn everywhere(check: impl Fn(&Place, &Target)) {
    let place = Place::new();
    check(&place, &Target::Stopped(&place));
    let place = Place::new();
    let container = Running::start(&place);
    check(&place, &Target::Running(&container));
}

#[test]
fn files_come_and_go_with_the_containers_ids() {
    everywhere(|place, target| {
        assert_eq!(target.write("/tmp/file", "text"), Reply::Done);
        let file = fs::metadata(place.rootfs().join("tmp/file")).unwrap();
        assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777), (1000, 1000, 0o640));
        let (reply, text) = target.read("/tmp/file");
        assert!(matches!(reply, Reply::File(stat) if stat.uid == 1000), "{reply:?}");
        assert_eq!(text, "text");
        assert!(matches!(target.read("/none").0, Reply::Error(e) if e.kind == ErrorKind::NotFound));
    });
}

#[test]
fn links_lead_nowhere_but_into_the_container() {
    everywhere(|place, target| {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "secret").unwrap();
        let root = place.rootfs();
        symlink(outside.path(), root.join("tmp/absolute")).unwrap();
        symlink("../../../../../../../../etc", root.join("tmp/up")).unwrap();
        symlink("/proc/1/root", root.join("tmp/magic")).unwrap();
        symlink("/tmp/made", root.join("tmp/dangling")).unwrap();
        assert!(matches!(target.read("/tmp/absolute/secret").0, Reply::Error(_)));
        assert!(matches!(target.write("/tmp/absolute/new", "x"), Reply::Error(_)));
        assert!(!outside.path().join("new").exists());
        assert!(target.read("/tmp/up/passwd").1.contains("/home/ann"), "the container's own");
        if let (Reply::File(_), text) = target.read("/tmp/magic/etc/passwd") {
            assert!(text.contains("/home/ann"), "the container's own");
        }
        assert_eq!(target.write("/tmp/dangling", "x"), Reply::Done);
        assert_eq!(fs::read(root.join("tmp/made")).unwrap(), b"x");
        assert!(matches!(target.read("/../../../../etc/hostname").0, Reply::Error(_)));
    });
}

#[test]
fn what_is_no_file_does_not_hold_up() {
    let place = Place::new();
    let container = Running::start(&place);
    container.text("mkfifo /tmp/fifo");
    let target = Target::Running(&container);
    for path in ["/tmp/fifo", "/dev/zero", "/dev/console"] {
        assert!(matches!(target.read(path).0, Reply::Error(e) if e.kind == ErrorKind::NotSupported), "{path}");
    }
}
