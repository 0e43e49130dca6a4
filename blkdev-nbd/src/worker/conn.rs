//! One connection: what was received and not yet understood, what has ended and is not yet answered.
//!
//! ```text
//!  socket ─ recv ─► staging ─► machine ─► commands ─► lane ─ … ─► outbox ─► headers + data ─ send ─► socket
//!            └ (long payloads) ─► the write's own buffer
//! ```
//!
//! The connection holds its slot until nothing of it is on its way any more: no op in the kernel, no request in a device,
//! no reply unsent.

use std::collections::VecDeque;
use std::ops::Range;

use iomgr_core::{FileHandle, FileSlot, Lease, OpQueue, SectorRange, Tag, Timestamp};
use rustix::net::Shutdown;

use super::core::Core;
use super::memory::Waiter;
use super::token::NetOp;
use crate::ConnectionStats;
use crate::config::{HEADER_BYTES, STAGING_BYTES};
use crate::listener::Peer;
use crate::proto::{Catalog, Failure, Handshake, StatusQuery, Transmission};
use crate::stats::Counts;

/// The buffers of a connection, made once and used by one connection after the other.
#[derive(Debug)]
pub(super) struct Kit {
    /// Where receives go.
    pub(super) staging: Lease,
    /// What goes out in front of data: reply headers, or messages of the handshake.
    pub(super) headers: Lease,
    /// Replies that wait.
    pub(super) outbox: VecDeque<Reply>,
    /// Replies whose bytes the kernel has.
    pub(super) sending: Vec<Reply>,
}

impl Kit {
    /// `None` if the arena has no room.
    pub(super) fn new(queue: &mut impl OpQueue, in_flight: u32) -> Option<Self> {
        Some(Self {
            staging: queue.alloc(STAGING_BYTES)?,
            headers: queue.alloc(HEADER_BYTES)?,
            outbox: VecDeque::with_capacity(in_flight as usize),
            sending: Vec::with_capacity(in_flight as usize),
        })
    }
}

/// The end of a command: what is to be said of it, and a good read's data.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) cookie: u64,
    pub(super) outcome: Outcome,
    pub(super) data: Option<Lease>,
}

/// How a command ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome {
    Done,
    Failed(Failure),
    /// A read, whose bytes are in the reply's data.
    Read(SectorRange),
    /// A read whose data has zeros that need not be sent.
    ReadSparse(SectorRange),
    /// A read of zeros alone. There is no data.
    ReadZeros(SectorRange),
    /// A question, which is answered when it is its turn to be sent.
    Status(StatusQuery),
}

/// Who a connection is with, and since when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Who {
    serial: u64,
    peer: Peer,
    opened: Timestamp,
    /// When it last asked for something or took a reply.
    pub(super) active: Timestamp,
    pub(super) counts: Counts,
}

impl Who {
    /// Somebody who came now.
    pub(super) fn new(serial: u64, peer: Peer, now: Timestamp) -> Self {
        Self {
            serial,
            peer,
            opened: now,
            active: now,
            counts: Counts::default(),
        }
    }
}

/// A connection.
#[derive(Debug)]
pub(super) struct Conn {
    /// Its place among those of its thread.
    pub(super) id: u32,
    pub(super) who: Who,
    pub(super) kit: Kit,
    pub(super) phase: Phase,
    /// The bytes of the staging buffer that were received and not taken yet.
    pub(super) unread: Range<u32>,
    /// The write whose payload is on its way.
    pub(super) collecting: Option<Collecting>,
    /// Commands taken and not answered.
    pub(super) in_flight: u32,
    pub(super) receiving: Option<Target>,
    pub(super) is_sending: bool,
    /// Nothing is received any more: the client went, or we want it to.
    pub(super) input_ended: bool,
    /// Nothing can be sent any more.
    pub(super) broken: bool,
    /// It is on the list of connections to look at.
    pub(super) is_listed: bool,
    /// It is on the list of connections to exchange bytes with.
    pub(super) is_touched: bool,
    pub(super) file: FileSlot,
    socket: FileHandle,
}

/// Where the conversation is.
#[derive(Debug)]
pub(super) enum Phase {
    /// Before an export is chosen.
    Handshake(Handshake),
    /// On the export of this lane.
    Transmission(Transmission, usize),
}

/// Where a receive puts its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// Behind the unread bytes of the staging buffer.
    Staging,
    /// Into the buffer of the write that is being collected.
    Payload,
}

/// A write whose payload has not come yet, or not all of it.
#[derive(Debug)]
pub(super) struct Collecting {
    pub(super) tag: Tag,
    pub(super) len: u32,
    pub(super) have: u32,
    /// `None` while it waits for memory.
    pub(super) lease: Option<Lease>,
}

impl Conn {
    pub(super) fn new(id: u32, who: Who, kit: Kit, socket: FileHandle, file: FileSlot) -> Self {
        Self {
            id,
            who,
            kit,
            phase: Phase::Handshake(Handshake::new()),
            unread: 0..0,
            collecting: None,
            in_flight: 0,
            receiving: None,
            is_sending: false,
            input_ended: false,
            broken: false,
            is_listed: false,
            is_touched: false,
            file,
            socket,
        }
    }

    /// Sends and receives what is due. True when the connection is over, and [`into_kit`](Self::into_kit) is due.
    pub(super) fn exchange(&mut self, core: &mut Core) -> bool {
        self.transmit(core);
        self.receive(core);
        if self.is_sending && !self.kit.outbox.is_empty() {
            // More replies wait for the send to end: hear of it at once.
            core.queue.wake_for_sends();
        }
        self.is_over()
    }

    /// Takes nothing more from the client. What it asked for ends and is answered.
    pub(super) fn end_input(&mut self, core: &mut Core) {
        self.input_ended = true;
        if self.receiving.is_some() {
            core.queue.cancel(NetOp::Recv(self.id).token());
        } else {
            self.drop_collecting(core);
        }
    }

    /// Gives the connection up: nothing more is received or sent. What is on its way to the device ends by itself.
    pub(super) fn break_off(&mut self, core: &mut Core) {
        if !self.broken {
            self.broken = true;
            if let Some(fd) = self.socket.fd() {
                // It fails where the peer is gone already, and that is as good.
                let _gone_already = rustix::net::shutdown(fd, Shutdown::Both);
            }
            if self.is_sending {
                core.queue.cancel(NetOp::Send(self.id).token());
            }
            self.drop_outbox(core);
        }
        self.end_input(core);
    }

    /// Frees the write whose payload will not come any more.
    pub(super) fn drop_collecting(&mut self, core: &mut Core) {
        if let (Some(write), Phase::Transmission(_, lane)) = (self.collecting.take(), &self.phase) {
            core.memory.leave(Waiter::Conn(self.id));
            if let Some(lease) = write.lease {
                core.memory.free(&mut core.queue, lease);
            }
            core.lanes[*lane].give_up(write.tag);
            self.in_flight -= 1;
        }
    }

    /// What it is doing.
    pub(super) fn stats(&self, core: &Core) -> ConnectionStats {
        let Counts {
            read,
            write,
            flush,
            trim,
        } = self.who.counts;
        let session = match &self.phase {
            Phase::Handshake(_) => None,
            Phase::Transmission(machine, _) => Some(machine.session()),
        };
        ConnectionStats {
            id: self.who.serial,
            peer: self.who.peer.to_string(),
            export: session.map(|session| core.exports.name(session.export).to_owned()),
            structured: session.is_some_and(|session| session.structured),
            opened_for: core.now.since(self.who.opened),
            in_flight: self.in_flight,
            held_bytes: self.held_bytes(core),
            read,
            write,
            flush,
            trim,
            last_active_ago: core.now.since(self.who.active),
        }
    }

    fn held_bytes(&self, core: &Core) -> u64 {
        let collected = self.collecting.iter().filter_map(|write| write.lease.as_ref());
        let replies = self.kit.outbox.iter().chain(&self.kit.sending);
        let own = collected.chain(replies.filter_map(|reply| reply.data.as_ref()));
        let own: u64 = own.map(|lease| u64::from(lease.len_bytes())).sum();
        let lanes = core.lanes.iter().map(|lane| lane.held_bytes(self.id));
        own + lanes.sum::<u64>()
    }

    fn is_over(&self) -> bool {
        let quiet = self.receiving.is_none() && !self.is_sending && self.in_flight == 0;
        self.input_ended && quiet && self.kit.outbox.is_empty()
    }

    /// Closes the socket; what is left serves the next connection.
    pub(super) fn into_kit(mut self, core: &mut Core) -> Kit {
        if let Phase::Transmission(_, lane) = self.phase {
            core.lanes[lane].leave(self.id);
        }
        core.queue.remove_file(self.file);
        self.kit.outbox.clear();
        self.kit.sending.clear();
        self.kit
    }
}
