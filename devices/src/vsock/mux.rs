//! All connections of a guest, and the host programs that are about to have one.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::ffi::OsString;
use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, connect, recv, socket_with,
};
use tracing::{debug, warn};

use super::connection::{Connection, Key, Turn};
use super::packet::{HEADER, HOST, Header, STREAM, op};
use crate::Memory;
use crate::virtio::{Chain, RingError};
use crate::worker::{Events, Poller};

/// Connections at once: bounds descriptors and memory a guest can make this process hold.
pub const MAX_CONNECTIONS: usize = 512;
/// Host programs that may be saying their line at once.
const MAX_DIALLERS: usize = 64;
/// Bytes of all connections waiting for slow readers on the host.
const MAX_BUFFERED: usize = 16 << 20;
/// Answers to packets that belong to no connection; when so many wait, the guest must take some before it may send
/// more.
const MAX_ORPHANS: usize = 256;
/// `CONNECT 4294967295\n` and then some.
const MAX_LINE: usize = 32;
/// How long the guest may take to answer a host program's dialling.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the guest may take to confirm that a connection is closed.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(8);
/// How long not to accept after that failed (out of descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// Host ports of connections that the host dials, so that none looks like a port a host program listens on.
const DIAL_PORTS: std::ops::Range<u32> = 1 << 30..1 << 31;

/// Token of the listener; the queues' are below.
pub const LISTENER: u64 = 8;
/// First token of a stream.
const FIRST_STREAM: u64 = 16;
/// Everything that may happen to a stream. Edge-triggered: what is not dealt with at once is remembered.
const STREAM_EVENTS: Events = Events::IN.union(Events::OUT).union(Events::RDHUP).union(Events::ET);

/// The connections of an active device.
pub struct Mux {
    cid: u64,
    path: PathBuf,
    /// How long a host program may take over its line.
    line_timeout: Duration,
    connections: HashMap<u64, Connection>,
    keys: HashMap<Key, u64>,
    /// Host programs that have not said what they want.
    diallers: HashMap<u64, UnixStream>,
    /// Connections that want to send to the guest, in turn.
    ready: VecDeque<u64>,
    /// Refusals of packets that belong to nobody.
    orphans: VecDeque<Header>,
    timers: BinaryHeap<Reverse<(Instant, u64)>>,
    /// Sum of what connections hold.
    buffered: usize,
    next_id: u64,
    next_port: u32,
    /// Whether the listener is polled.
    listening: bool,
    accept_paused: bool,
}

impl Mux {
    /// No connections.
    pub fn new(cid: u64, path: PathBuf, line_timeout: Duration) -> Self {
        Self {
            cid,
            path,
            line_timeout,
            connections: HashMap::new(),
            keys: HashMap::new(),
            diallers: HashMap::new(),
            ready: VecDeque::new(),
            orphans: VecDeque::new(),
            timers: BinaryHeap::new(),
            buffered: 0,
            next_id: FIRST_STREAM,
            next_port: DIAL_PORTS.start,
            listening: false,
            accept_paused: false,
        }
    }

    /// Whether the guest may send more packets now.
    pub fn accepts_packets(&self) -> bool {
        self.orphans.len() < MAX_ORPHANS
    }

    /// The next time something expires.
    pub fn deadline(&self) -> Option<Instant> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    fn set_timer(&mut self, after: Duration, id: u64) -> Instant {
        let at = Instant::now() + after;
        self.timers.push(Reverse((at, id)));
        at
    }

    /// Gives up what did not get on in time.
    pub fn expire(&mut self) {
        let now = Instant::now();
        while let Some(Reverse((at, id))) = self.timers.peek().copied()
            && at <= now
        {
            self.timers.pop();
            if id == LISTENER {
                self.accept_paused = false;
            }
            self.diallers.remove(&id);
            if self.connections.get(&id).is_some_and(|connection| connection.deadline.is_some_and(|at| at <= now)) {
                debug!(id, "a socket connection of the guest timed out");
                self.reset(id);
            }
        }
    }

    /// Polls the listener while there is room for another host program.
    pub fn update_listening(&mut self, listener: &UnixListener, poller: &Poller) -> io::Result<()> {
        let room = self.diallers.len() < MAX_DIALLERS && self.connections.len() < MAX_CONNECTIONS;
        let wanted = room && !self.accept_paused;
        if wanted != self.listening {
            if wanted {
                poller.add(listener, LISTENER, Events::IN)?
            } else {
                poller.remove(listener)?
            }
            self.listening = wanted;
        }
        Ok(())
    }

    /// A host program connected.
    pub fn accept(&mut self, listener: &UnixListener, poller: &Poller) {
        let stream = match accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok(stream) => UnixStream::from(stream),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return,
            Err(error) => {
                warn!(%error, "no host program can connect to the guest for a second");
                self.accept_paused = true;
                self.set_timer(ACCEPT_PAUSE, LISTENER);
                return;
            }
        };
        let id = self.id();
        if let Err(error) = poller.add(&stream, id, STREAM_EVENTS) {
            warn!(%error, "a host program's connection to the guest is refused");
            return;
        }
        self.set_timer(self.line_timeout, id);
        self.diallers.insert(id, stream);
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Something happened to the stream `id`.
    pub fn stream_event(&mut self, id: u64, events: Events) {
        if self.diallers.contains_key(&id) {
            self.hear_dialler(id);
        } else if let Some(connection) = self.connections.get_mut(&id) {
            connection.note_events(events);
            let before = connection.buffered();
            let fine = !events.contains(Events::OUT) || connection.flush();
            self.buffered -= before - connection.buffered();
            self.settle(id, fine);
        }
    }

    /// Reads the line of a host program without taking what follows it.
    fn hear_dialler(&mut self, id: u64) {
        let Some(dialler) = self.diallers.get(&id) else { return };
        let mut line = [0; MAX_LINE];
        let heard = match recv(dialler, &mut line[..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN | Errno::INTR) => return,
            Ok((_, len)) => len,
            Err(_) => 0,
        };
        let end = line[..heard].iter().position(|byte| *byte == b'\n');
        if end.is_none() && (1..MAX_LINE).contains(&heard) {
            return;
        }
        let Some(stream) = self.diallers.remove(&id) else { return };
        let port = end.and_then(|end| parse_connect(&line[..end]));
        let taken = end.is_some_and(|end| recv(&stream, &mut line[..=end], RecvFlags::DONTWAIT).is_ok());
        match port {
            Some(port) if taken => self.dial_guest(id, stream, port),
            _ => debug!("a host program did not say CONNECT and a port; closed"),
        }
    }

    fn dial_guest(&mut self, id: u64, stream: UnixStream, port: u32) {
        let Some(key) = self.free_key(port) else { return };
        let deadline = self.set_timer(DIAL_TIMEOUT, id);
        self.insert(id, Connection::from_host(key, stream, deadline));
    }

    fn free_key(&mut self, guest: u32) -> Option<Key> {
        if self.connections.len() >= MAX_CONNECTIONS {
            return None;
        }
        // There are far fewer connections than ports, so this ends soon.
        loop {
            let host = self.next_port;
            self.next_port = if host + 1 < DIAL_PORTS.end { host + 1 } else { DIAL_PORTS.start };
            let key = Key { host, guest };
            if !self.keys.contains_key(&key) {
                return Some(key);
            }
        }
    }

    fn insert(&mut self, id: u64, connection: Connection) {
        self.keys.insert(connection.key(), id);
        self.connections.insert(id, connection);
        self.settle(id, true);
    }

    /// After anything happened to a connection: ends it, or gives it its turn.
    fn settle(&mut self, id: u64, fine: bool) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        if !fine || connection.finished() {
            self.reset(id);
            return;
        }
        if !connection.queued && connection.wants_turn() {
            connection.queued = true;
            self.ready.push_back(id);
        }
        if connection.closing() && connection.deadline.is_none() {
            let at = Instant::now() + CLOSE_TIMEOUT;
            connection.deadline = Some(at);
            self.timers.push(Reverse((at, id)));
        }
    }

    fn remove(&mut self, id: u64) -> Option<Key> {
        let connection = self.connections.remove(&id)?;
        self.buffered -= connection.buffered();
        self.keys.remove(&connection.key());
        Some(connection.key())
    }

    /// Ends a connection and tells the guest.
    fn reset(&mut self, id: u64) {
        if let Some(Key { host, guest }) = self.remove(id) {
            let header =
                Header { src_cid: self.cid, dst_cid: HOST, src_port: guest, dst_port: host, ..Header::default() };
            self.orphans.push_back(header.refusal());
        }
    }

    /// A packet of the guest, whose header is at the start of `chain`'s readable part.
    pub fn packet(&mut self, memory: &Memory, chain: &Chain, poller: &Poller) -> Result<(), RingError> {
        let mut bytes = [0; HEADER];
        if chain.readable.read(memory, 0, &mut bytes)? < HEADER {
            debug!("packet of the guest without a whole header; dropped");
            return Ok(());
        }
        let header = Header::parse(&bytes);
        if header.src_cid != self.cid || header.dst_cid != HOST {
            debug!(?header, "packet of the guest is not for the host; dropped");
            return Ok(());
        }
        let key = Key { host: header.dst_port, guest: header.src_port };
        let lies = header.len as usize > chain.readable.len() - HEADER;
        match self.keys.get(&key).copied() {
            Some(id) if lies || header.kind != STREAM => self.reset(id),
            Some(id) => self.known(id, &header, memory, chain)?,
            None if header.op == op::RST => {}
            None if header.op == op::REQUEST && header.kind == STREAM && !lies => self.dial_host(key, &header, poller),
            None => self.orphans.push_back(header.refusal()),
        }
        Ok(())
    }

    /// A packet of a connection.
    fn known(&mut self, id: u64, header: &Header, memory: &Memory, chain: &Chain) -> Result<(), RingError> {
        let Some(connection) = self.connections.get_mut(&id) else { return Ok(()) };
        connection.note_credit(header);
        let before = connection.buffered();
        let mut fine = true;
        match header.op {
            op::RW => fine = connection.receive(memory, &chain.readable, header.len as usize)?,
            op::RESPONSE => fine = connection.accepted(),
            op::SHUTDOWN => connection.shut(header.flags),
            op::CREDIT_UPDATE => {}
            op::CREDIT_REQUEST => connection.owe_credit(),
            op::RST => {
                self.remove(id);
                return Ok(());
            }
            _ => fine = false,
        }
        let grown = connection.buffered() - before;
        self.buffered += grown;
        self.settle(id, fine && (grown == 0 || self.buffered <= MAX_BUFFERED));
        Ok(())
    }

    /// The guest dials a port of the host.
    fn dial_host(&mut self, key: Key, request: &Header, poller: &Poller) {
        let mut path = OsString::from(&self.path);
        path.push(format!("_{}", key.host));
        let full = self.connections.len() >= MAX_CONNECTIONS;
        let stream = if full { Err(io::ErrorKind::QuotaExceeded.into()) } else { connect_to(&PathBuf::from(path)) };
        let id = self.id();
        match stream.and_then(|stream| poller.add(&stream, id, STREAM_EVENTS).map(|()| stream)) {
            Ok(stream) => self.insert(id, Connection::from_guest(key, stream, request)),
            Err(error) => {
                debug!(port = key.host, %error, "guest's connect to the host is refused");
                self.orphans.push_back(request.refusal());
            }
        }
    }

    /// Whether there is something to send to the guest.
    pub fn has_packets(&self) -> bool {
        !self.orphans.is_empty() || !self.ready.is_empty()
    }

    /// Writes the next packet into `chain`; returns its length, `None` if there was nothing to send after all.
    pub fn next_packet(&mut self, memory: &Memory, chain: &Chain) -> Result<Option<usize>, RingError> {
        if let Some(header) = self.orphans.pop_front() {
            chain.writable.write(memory, 0, &header.bytes())?;
            return Ok(Some(HEADER));
        }
        while let Some(id) = self.ready.pop_front() {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            connection.queued = false;
            let turn = if connection.wants_turn() { connection.turn(memory, chain, self.cid)? } else { Turn::Nothing };
            self.settle(id, !matches!(turn, Turn::Broken));
            if let Turn::Sent(len) = turn {
                return Ok(Some(len));
            }
        }
        Ok(None)
    }
}

/// The port of `CONNECT <port>`.
fn parse_connect(line: &[u8]) -> Option<u32> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let digits = std::str::from_utf8(line.strip_prefix(b"CONNECT ")?).ok()?;
    // `parse` would take a sign.
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// Connects without waiting: a listener whose backlog is full refuses.
fn connect_to(path: &std::path::Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}
