use super::*;

use berth_supervisor::protocol::SaveControl;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::JoinHandle;

use berth_devices::saved::Sections;
use berth_guest::protocol::ExecSpec;
use berth_supervisor::transport::Endpoint;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use crate::machine::output::output;
use crate::machine::{ChangeError, OutputReceiver, OutputSender, SignalReceiver, SignalSender, signals};
use crate::memory::Memory;
use crate::settings::Change;
use crate::state::ram::RamId;
use crate::state::{SaveError, SavedMachine};

const MEMORY: u64 = 64 << 20;

/// A machine that only notes what is done with it.
struct Fake {
    calls: mpsc::Sender<String>,
    signals: SignalReceiver,
    output: OutputReceiver,
    drained: EventFd,
    /// Bytes the port takes at a time.
    room: usize,
}

impl Fake {
    fn note(&self, call: &str) {
        self.calls.send(call.to_owned()).unwrap();
    }
}

impl Guest for Fake {
    fn pause(&mut self) {
        self.note("pause");
    }
    fn save(&mut self, ram: RamId) -> Result<Sections, SaveError> {
        self.note("save");
        let mut sections = Sections::new();
        sections.add("machine", &SavedMachine { vcpus: 1, memory: MEMORY, mmio64: (0, 0), ram })?;
        Ok(sections)
    }
    fn memory(&self) -> Memory {
        let memory = crate::memory::allocate(MEMORY).unwrap();
        memory.write_obj(0x5au8, GuestAddress(MEMORY - 1)).unwrap();
        memory
    }
    fn resume(&mut self) {
        self.note("resume");
    }
    fn change(&mut self, change: &Change) -> Result<(), ChangeError> {
        let ids: Vec<_> = change.disks.keys().chain(change.nics.keys()).map(String::as_str).collect();
        self.note(&format!("change {}", ids.join(" ")));
        Ok(())
    }
    fn press_power_button(&mut self) -> std::io::Result<()> {
        self.note("button");
        Ok(())
    }
    fn stop(&mut self) {
        self.note("stop");
    }
    fn signals(&self) -> &SignalReceiver {
        &self.signals
    }
    fn output(&self) -> &OutputReceiver {
        &self.output
    }
    fn input(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.room);
        if taken > 0 {
            self.note(&format!("typed {}", String::from_utf8_lossy(&bytes[..taken])));
        }
        if taken < bytes.len() {
            self.drained.write(1).unwrap();
        }
        taken
    }
    fn input_drained(&self) -> &EventFd {
        &self.drained
    }
}

struct Bench {
    dir: tempfile::TempDir,
    calls: mpsc::Receiver<String>,
    signals: SignalSender,
    output: OutputSender,
    thread: JoinHandle<Exit>,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (calls_sender, calls) = mpsc::channel();
        let (signal_sender, signals) = signals().unwrap();
        let (output_sender, output) = output().unwrap();
        let drained = EventFd::new(libc::EFD_NONBLOCK).unwrap();
        let fake = Fake { calls: calls_sender, signals, output, drained, room: 3 };
        let console = Console::new(&dir.path().join("console.log")).unwrap();
        let listener = Listener::bind(&dir.path().join("control")).unwrap().leave_file();
        berth_devices::seccomp::settle_allocator().unwrap();
        let times = Times::begin();
        let thread = std::thread::spawn(move || {
            let termination = Termination::new().unwrap();
            crate::seccomp::owner().unwrap().enter().unwrap();
            let mut supervisor = Supervisor::new(fake, console, listener, None, termination, times, 1);
            let exit = supervisor.serve();
            supervisor.end().broadcast(&Event::Exited(exit.clone()));
            exit
        });
        Self { dir, calls, signals: signal_sender, output: output_sender, thread }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("control")
    }

    /// Sends a request and keeps the connection.
    fn open(&self, request: &Request) -> (Endpoint, Reply, Vec<std::os::fd::OwnedFd>) {
        let endpoint = Endpoint::connect(&self.path()).unwrap();
        endpoint.send(request, &[]).unwrap();
        let (reply, fds) = endpoint.recv().unwrap().unwrap();
        (endpoint, reply, fds)
    }

    fn ask(&self, request: &Request) -> Reply {
        self.open(request).1
    }

    fn end(self) -> Exit {
        self.ask(&Request::Kill);
        self.thread.join().unwrap()
    }
}

fn event(endpoint: &Endpoint) -> Event {
    match endpoint.recv::<Reply>().unwrap().unwrap().0 {
        Reply::Event(event) => event,
        other => panic!("{other:?} is no event"),
    }
}

#[test]
fn requests_are_served_and_told_to_subscribers() {
    let bench = Bench::new();
    let (subscriber, first, _) = bench.open(&Request::Subscribe);
    assert!(matches!(first, Reply::Status(Status { state: RunState::Running, .. })));
    assert_eq!(bench.ask(&Request::Pause), Reply::Done);
    assert_eq!(event(&subscriber), Event::State(RunState::Paused));
    assert_eq!(bench.ask(&Request::Pause), Reply::Done);
    assert!(matches!(bench.ask(&Request::Status), Reply::Status(Status { state: RunState::Paused, .. })));
    assert!(matches!(bench.ask(&Request::Shutdown), Reply::Refused { .. }));
    assert_eq!(bench.ask(&Request::Resume), Reply::Done);
    assert_eq!(event(&subscriber), Event::State(RunState::Running));
    assert_eq!(bench.ask(&Request::Shutdown), Reply::Done);
    for request in [Request::Files, Request::Stats, Request::Exec(exec())] {
        let reply = bench.ask(&request);
        assert!(matches!(reply, Reply::Refused { kind: RefusalKind::NotSupported, .. }), "{reply:?}");
    }
    let calls: Vec<_> = bench.calls.try_iter().collect();
    assert_eq!(calls, ["pause", "resume", "button"]);
    assert_eq!(bench.ask(&Request::Kill), Reply::Done);
    assert!(matches!(event(&subscriber), Event::Exited(Exit { reason: ExitReason::Killed, .. })));
    assert_eq!(bench.thread.join().unwrap().reason, ExitReason::Killed);
    assert_eq!(bench.calls.recv().unwrap(), "stop");
}

fn exec() -> ExecSpec {
    ExecSpec { command: vec!["true".into()], env: Default::default(), cwd: None, uid: 0, gid: 0, terminal: None }
}

#[test]
fn devices_are_changed_if_the_change_is_understood() {
    let bench = Bench::new();
    let disk = serde_json::json!({ "read": {}, "write": { "bytes": 5 } });
    let change = serde_json::json!({ "disks": { "root": disk }, "nics": { "eth0": { "egress": 1 } } });
    assert_eq!(bench.ask(&Request::Change(change)), Reply::Done);
    for wrong in [
        serde_json::json!({}),
        serde_json::json!({ "disks": { "root": { "read": {}, "write": { "bytes": 0 } } }, "nics": {} }),
        serde_json::json!({ "disks": {}, "nics": {}, "more": 1 }),
    ] {
        let reply = bench.ask(&Request::Change(wrong));
        assert!(matches!(reply, Reply::Refused { kind: RefusalKind::Other, .. }), "{reply:?}");
    }
    assert_eq!(bench.calls.try_iter().collect::<Vec<_>>(), ["change root eth0"]);
    bench.end();
}

#[test]
fn the_console_goes_both_ways_and_belongs_to_one() {
    let mut bench = Bench::new();
    bench.output.write_all(b"hello ").unwrap();
    let (session, reply, fds) = bench.open(&Request::Console { force: false });
    assert_eq!(reply, Reply::Console);
    let mut stream = UnixStream::from(fds.into_iter().next().unwrap());
    bench.output.write_all(b"world").unwrap();
    let mut text = [0; 11];
    stream.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"hello world");
    stream.write_all(b"abcdefg").unwrap();
    let typed: Vec<_> = (0..3).map(|_| bench.calls.recv().unwrap()).collect();
    assert_eq!(typed, ["typed abc", "typed def", "typed g"]);
    let refused = bench.ask(&Request::Console { force: false });
    assert!(matches!(refused, Reply::Refused { kind: RefusalKind::Busy, .. }));
    let (second, reply, _fds) = bench.open(&Request::Console { force: true });
    assert_eq!(reply, Reply::Console);
    assert!(session.recv::<Reply>().unwrap().is_none(), "the first session is closed");
    assert_eq!(stream.read(&mut text).unwrap(), 0);
    drop(second);
    // The end of the session detaches; its turn comes before the next connection's.
    let (_, reply, _) = bench.open(&Request::Console { force: true });
    assert_eq!(reply, Reply::Console);
    bench.end();
}

#[test]
fn a_panic_is_told_and_is_the_reason_of_a_reset() {
    let mut bench = Bench::new();
    let (subscriber, ..) = bench.open(&Request::Subscribe);
    bench.output.write_all(b"[1.0] Kernel panic - not syncing: oh\r\n").unwrap();
    assert_eq!(event(&subscriber), Event::Panic("Kernel panic - not syncing: oh".into()));
    let Reply::Status(status) = bench.ask(&Request::Status) else { panic!() };
    assert_eq!(status.panic.as_deref(), Some("Kernel panic - not syncing: oh"));
    bench.signals.send(GuestSignal::Reset);
    let exit = bench.thread.join().unwrap();
    assert_eq!(exit.reason, ExitReason::Panic);
    assert!(exit.message.contains("oh"));
}

#[test]
fn the_guest_ends_itself_in_its_own_way() {
    for (signal, reason) in [
        (GuestSignal::PowerOff, ExitReason::Shutdown),
        (GuestSignal::Reset, ExitReason::Reboot),
        (GuestSignal::Failed("broken".into()), ExitReason::Error),
    ] {
        let bench = Bench::new();
        bench.signals.send(signal);
        assert_eq!(bench.thread.join().unwrap().reason, reason);
    }
}

#[test]
fn nonsense_is_answered_and_silence_is_harmless() {
    let bench = Bench::new();
    let silent = Endpoint::connect(&bench.path()).unwrap();
    let endpoint = Endpoint::connect(&bench.path()).unwrap();
    endpoint.send(&"nonsense", &[]).unwrap();
    let (reply, _) = endpoint.recv::<Reply>().unwrap().unwrap();
    assert!(matches!(reply, Reply::Refused { .. }));
    drop(silent);
    assert_eq!(bench.end().reason, ExitReason::Killed);
}

#[test]
fn the_time_of_the_first_program_is_told() {
    let mut bench = Bench::new();
    let times = |reply| match reply {
        Reply::Status(status) => status.times.unwrap(),
        other => panic!("{other:?} is no status"),
    };
    assert_eq!(times(bench.ask(&Request::Status)).user_space, None);
    let (_session, _, fds) = bench.open(&Request::Console { force: false });
    let mut console = UnixStream::from(fds.into_iter().next().unwrap());
    bench.output.write_all(berth_guest::protocol::USER_SPACE_MARK.as_bytes()).unwrap();
    console.read_exact(&mut [0; 1]).unwrap();
    let told = times(bench.ask(&Request::Status));
    assert!(told.user_space.unwrap() >= told.began);
    bench.end();
}

/// Asks for a save; returns the connection, the answer and both files.
fn save(bench: &Bench) -> (Endpoint, Reply, [std::fs::File; 2]) {
    let files = [tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap()];
    let endpoint = Endpoint::connect(&bench.path()).unwrap();
    endpoint.send(&Request::Save, &files.each_ref().map(|file| file.as_fd())).unwrap();
    let reply = endpoint.recv().unwrap().unwrap().0;
    (endpoint, reply, files)
}

#[test]
fn a_saved_machine_stands_still_until_its_saver_goes_and_ends_when_told() {
    let bench = Bench::new();
    let (saver, reply, [mut state, ram]) = save(&bench);
    assert_eq!(reply, Reply::Done);
    std::io::Seek::rewind(&mut state).unwrap();
    let machine = Sections::read(state).unwrap().take::<SavedMachine>("machine").unwrap();
    crate::state::ram::check(&ram, MEMORY, machine.ram).unwrap();
    let mut last = [0];
    std::os::unix::fs::FileExt::read_exact_at(&ram, &mut last, MEMORY - 1).unwrap();
    assert_eq!(last, [0x5a]);
    assert!(matches!(bench.ask(&Request::Pause), Reply::Refused { kind: RefusalKind::Busy, .. }));
    assert!(matches!(save(&bench).1, Reply::Refused { kind: RefusalKind::Busy, .. }));
    drop(saver);
    assert_eq!([(); 3].map(|()| bench.calls.recv().unwrap()), ["pause", "save", "resume"]);

    let (saver, reply, _files) = save(&bench);
    assert_eq!(reply, Reply::Done);
    saver.send(&SaveControl::End, &[]).unwrap();
    assert_eq!(bench.thread.join().unwrap().reason, ExitReason::Saved);
}

#[test]
fn a_machine_goes_on_after_a_save_that_failed_and_stays_paused_if_it_was() {
    let bench = Bench::new();
    let refused = bench.ask(&Request::Save);
    assert!(matches!(refused, Reply::Refused { .. }), "{refused:?}");
    assert_eq!(bench.ask(&Request::Pause), Reply::Done);
    drop(save(&bench));
    assert_eq!(bench.ask(&Request::Resume), Reply::Done);
    let files = std::fs::File::open("/dev/null").unwrap();
    let endpoint = Endpoint::connect(&bench.path()).unwrap();
    endpoint.send(&Request::Save, &[files.as_fd(), files.as_fd()]).unwrap();
    assert!(matches!(endpoint.recv::<Reply>().unwrap().unwrap().0, Reply::Refused { .. }));
    let expected = ["pause", "pause", "save", "resume", "pause", "save", "resume"];
    assert_eq!(expected.map(|_| bench.calls.recv().unwrap()), expected);
    bench.end();
}
