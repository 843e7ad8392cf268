//! One connection: a unix stream on the host's side, credit and shutdown flags on the guest's.

use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::num::Wrapping;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::net::{SendFlags, send};

use super::packet::{HEADER, HOST, Header, NO_RECEIVE, NO_SEND, STREAM, op};
use crate::Memory;
use crate::virtio::{Buffers, Chain, IoVecs, RingError};
use crate::worker::Events;

/// Room for what the guest sends beyond what the host's socket takes; the credit told to the guest.
pub const BUFFER: u32 = 128 << 10;
/// Largest payload of one packet to the guest.
const MAX_PAYLOAD: usize = 64 << 10;
/// The guest hears of new room when there is this much more than it knows.
const TELL_CREDIT: u32 = BUFFER / 2;

/// Port on the host and port in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    pub host: u32,
    pub guest: u32,
}

/// Who still has to say something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The host dialled and the guest has not answered.
    Dialling,
    Established,
}

/// Packets owed to the guest, beside data.
#[derive(Debug, Default)]
struct Owed {
    request: bool,
    response: bool,
    shutdown: u32,
    credit_update: bool,
    credit_request: bool,
}

/// What became of a connection's turn to send to the guest.
pub enum Turn {
    /// A packet of so many bytes was written.
    Sent(usize),
    /// There was nothing to send after all.
    Nothing,
    /// The stream failed; reset the connection.
    Broken,
}

/// One connection.
pub struct Connection {
    key: Key,
    stream: UnixStream,
    state: State,
    owed: Owed,
    /// When it is given up, if it does not get on.
    pub deadline: Option<Instant>,
    /// Waits for its turn to send to the guest.
    pub queued: bool,
    /// From the guest, for the stream.
    buffer: VecDeque<u8>,
    received: Wrapping<u32>,
    forwarded: Wrapping<u32>,
    /// `forwarded` as last told to the guest.
    announced: Wrapping<u32>,
    /// To the guest.
    sent: Wrapping<u32>,
    guest_alloc: u32,
    guest_forwarded: Wrapping<u32>,
    asked_for_credit: bool,
    guest_sends: bool,
    guest_receives: bool,
    /// The stream may have data, or its end.
    readable: bool,
    /// The host's program closed its sending half.
    ended: bool,
    /// The host's program closed everything.
    hung_up: bool,
}

impl Connection {
    fn new(key: Key, stream: UnixStream, state: State, owed: Owed) -> Self {
        Self {
            key,
            stream,
            state,
            owed,
            deadline: None,
            queued: false,
            buffer: VecDeque::new(),
            received: Wrapping(0),
            forwarded: Wrapping(0),
            announced: Wrapping(0),
            sent: Wrapping(0),
            guest_alloc: 0,
            guest_forwarded: Wrapping(0),
            asked_for_credit: false,
            guest_sends: true,
            guest_receives: true,
            readable: true,
            ended: false,
            hung_up: false,
        }
    }

    /// A program of the host wants to talk to the guest; given up after `deadline` without an answer.
    pub fn from_host(key: Key, stream: UnixStream, deadline: Instant) -> Self {
        let owed = Owed { request: true, ..Owed::default() };
        Self { deadline: Some(deadline), ..Self::new(key, stream, State::Dialling, owed) }
    }

    /// The guest dialled and the host's program was reached.
    pub fn from_guest(key: Key, stream: UnixStream, request: &Header) -> Self {
        let owed = Owed { response: true, ..Owed::default() };
        let mut this = Self::new(key, stream, State::Established, owed);
        this.note_credit(request);
        this
    }

    pub fn key(&self) -> Key {
        self.key
    }

    /// Bytes held for the stream.
    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Every packet of the guest tells its room.
    pub fn note_credit(&mut self, header: &Header) {
        self.guest_alloc = header.buf_alloc;
        self.guest_forwarded = Wrapping(header.fwd_cnt);
        if self.credit() > 0 {
            self.asked_for_credit = false;
        }
    }

    fn credit(&self) -> usize {
        let in_flight = (self.sent - self.guest_forwarded).0;
        self.guest_alloc.saturating_sub(in_flight) as usize
    }

    /// The kernel says `events` of the stream.
    pub fn note_events(&mut self, events: Events) {
        self.readable |= events.intersects(Events::IN | Events::RDHUP | Events::HUP | Events::ERR);
        if events.contains(Events::HUP) && !self.hung_up {
            self.hung_up = true;
            // After a half close the host's program closed the rest; the guest hears of that too.
            self.owed.shutdown |= if self.ended { NO_SEND | NO_RECEIVE } else { 0 };
        }
    }

    /// The guest accepted; false if it was not asked, or the host's program is gone.
    pub fn accepted(&mut self) -> bool {
        if self.state != State::Dialling || self.owed.request {
            return false;
        }
        self.state = State::Established;
        self.deadline = None;
        let line = format!("OK {}\n", self.key.host);
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        // The first bytes of a stream always fit.
        send(&self.stream, line.as_bytes(), flags) == Ok(line.len())
    }

    /// The guest asks for our room.
    pub fn owe_credit(&mut self) {
        self.owed.credit_update = true;
    }

    /// Data of the guest: `len` bytes of `buffers` behind the header. False if the connection must be reset: the
    /// guest sends more than it may, or the stream failed.
    pub fn receive(&mut self, memory: &Memory, buffers: &Buffers, len: usize) -> Result<bool, RingError> {
        let held = (self.received - self.forwarded).0 as usize;
        if self.state != State::Established || !self.guest_sends || held + len > BUFFER as usize {
            return Ok(false);
        }
        self.received += len as u32;
        let mut taken = 0;
        if self.buffer.is_empty() && len > 0 {
            match IoVecs::new(memory, buffers.range(HEADER, len))?.send_to(&self.stream) {
                Ok(count) => taken = count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Ok(false),
            }
        }
        self.note_forwarded(taken);
        let mut rest = vec![0; len - taken];
        buffers.read(memory, HEADER + taken, &mut rest)?;
        self.buffer.extend(rest);
        Ok(true)
    }

    fn note_forwarded(&mut self, count: usize) {
        self.forwarded += count as u32;
        self.owed.credit_update |= (self.forwarded - self.announced).0 >= TELL_CREDIT;
    }

    /// Gives the stream what it takes; false if it failed.
    pub fn flush(&mut self) -> bool {
        while !self.buffer.is_empty() {
            let (head, _) = self.buffer.as_slices();
            match send(&self.stream, head, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(count) => {
                    self.buffer.drain(..count);
                    self.note_forwarded(count);
                }
                Err(rustix::io::Errno::AGAIN) => return true,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        self.buffer = VecDeque::new();
        self.pass_end();
        true
    }

    /// The guest closed one or both of its halves.
    pub fn shut(&mut self, flags: u32) {
        self.guest_receives &= flags & NO_RECEIVE == 0;
        self.guest_sends &= flags & NO_SEND == 0;
        if self.buffer.is_empty() {
            self.pass_end();
        }
    }

    /// Passes the end of the guest's data on, once all data before it is.
    fn pass_end(&self) {
        if !self.guest_sends {
            // An error means that the host's program is gone, which shows elsewhere.
            let _ = self.stream.shutdown(Shutdown::Write);
        }
    }

    /// Whether nothing more can come from either side.
    pub fn finished(&self) -> bool {
        let told = self.ended && self.owed.shutdown == 0;
        !self.guest_sends && self.buffer.is_empty() && (!self.guest_receives || told)
    }

    /// Whether the guest has been told that the host's program is gone, and only its answer is missing.
    pub fn closing(&self) -> bool {
        self.ended && self.hung_up && self.owed.shutdown == 0
    }

    fn data_wanted(&self) -> bool {
        self.readable && !self.ended && self.state == State::Established
    }

    /// Whether there is something to send to the guest.
    pub fn wants_turn(&self) -> bool {
        let Owed { request, response, shutdown, credit_update, credit_request } = self.owed;
        let owed = request || response || shutdown != 0 || credit_update || credit_request;
        // Without credit one question is sent instead of data.
        owed || self.data_wanted() && (self.credit() > 0 || !self.asked_for_credit || !self.guest_receives)
    }

    fn header(&mut self, cid: u64, op: u16, flags: u32, len: usize) -> Header {
        self.announced = self.forwarded;
        self.owed.credit_update = false;
        Header {
            src_cid: HOST,
            dst_cid: cid,
            src_port: self.key.host,
            dst_port: self.key.guest,
            len: len as u32,
            kind: STREAM,
            op,
            flags,
            buf_alloc: BUFFER,
            fwd_cnt: self.forwarded.0,
        }
    }

    /// Writes one packet into the writable part of `chain`, which has room for a header.
    pub fn turn(&mut self, memory: &Memory, chain: &Chain, cid: u64) -> Result<Turn, RingError> {
        let (op, flags) = if std::mem::take(&mut self.owed.request) {
            (op::REQUEST, 0)
        } else if std::mem::take(&mut self.owed.response) {
            (op::RESPONSE, 0)
        } else {
            if self.data_wanted() {
                match self.data(memory, chain, cid)? {
                    Turn::Nothing => {}
                    turn => return Ok(turn),
                }
            }
            match &mut self.owed {
                Owed { shutdown, .. } if *shutdown != 0 => (op::SHUTDOWN, std::mem::take(shutdown)),
                Owed { credit_request: true, .. } => {
                    self.owed.credit_request = false;
                    (op::CREDIT_REQUEST, 0)
                }
                Owed { credit_update: true, .. } => (op::CREDIT_UPDATE, 0),
                _ => return Ok(Turn::Nothing),
            }
        };
        let header = self.header(cid, op, flags, 0);
        chain.writable.write(memory, 0, &header.bytes())?;
        Ok(Turn::Sent(HEADER))
    }

    fn data(&mut self, memory: &Memory, chain: &Chain, cid: u64) -> Result<Turn, RingError> {
        if self.guest_receives && self.credit() == 0 {
            self.owed.credit_request = !std::mem::replace(&mut self.asked_for_credit, true);
            return Ok(Turn::Nothing);
        }
        if !self.guest_receives {
            // Nobody will read it. The stream is closed when the other half is.
            self.readable = false;
            if self.hung_up {
                self.ended = true;
                self.owed.shutdown = NO_SEND | NO_RECEIVE;
            }
            return Ok(Turn::Nothing);
        }
        let room = (chain.writable.len() - HEADER).min(MAX_PAYLOAD).min(self.credit());
        let vecs = IoVecs::new(memory, chain.writable.range(HEADER, room))?;
        if vecs.is_empty() {
            return Ok(Turn::Nothing);
        }
        match vecs.read_from(&self.stream) {
            Ok(0) => {
                self.ended = true;
                self.owed.shutdown = if self.hung_up { NO_SEND | NO_RECEIVE } else { NO_SEND };
                Ok(Turn::Nothing)
            }
            Ok(len) => {
                self.sent += len as u32;
                let header = self.header(cid, op::RW, 0, len);
                chain.writable.write(memory, 0, &header.bytes())?;
                Ok(Turn::Sent(HEADER + len))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Ok(Turn::Nothing)
            }
            Err(_) => Ok(Turn::Broken),
        }
    }
}
