//! One connection: what was received and not yet understood, what has ended and is not yet answered.
//!
//! ```text
//!  socket ─ recv ─► staging ─► machine ─► pending ─► lane ─ … ─► outbox ─► headers + data ─ send ─► socket
//!            └ (long payloads) ─► its buffer
//! ```
//!
//! The connection holds its slot until nothing of it is on its way any more: no op in the kernel, no request in a device,
//! no reply unsent.

use std::collections::VecDeque;
use std::ops::Range;

use iomgr_core::stats::{Figures, Precision};
use iomgr_core::{FileHandle, FileSlot, Lease, OpQueue, Operation, SectorRange, Timestamp};
use rustix::net::Shutdown;
use tqueue::Queue;

use super::backlog::Backlog;
use super::core::Core;
use super::lane::Shape;
use super::token::NetOp;
use crate::ConnectionStats;
use crate::config::{HEADER_BYTES, STAGING_BYTES};
use crate::listener::Peer;
use crate::proto::{Command, Failure, Handshake, StatusQuery, Transmission};

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
    /// That many, in the order in which an arena is filled without gaps: the larger buffers first. `None` if it has no room.
    pub(super) fn all(queue: &mut Queue, count: u32, in_flight: u32) -> Option<Vec<Self>> {
        let staging: Option<Vec<_>> = (0..count).map(|_| queue.alloc_large(STAGING_BYTES)).collect();
        let kit = |staging| {
            Some(Self {
                staging,
                headers: queue.alloc_large(HEADER_BYTES)?,
                outbox: VecDeque::with_capacity(in_flight as usize),
                sending: Vec::with_capacity(in_flight as usize),
            })
        };
        staging?.into_iter().map(kit).collect()
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
#[derive(Debug)]
pub(super) struct Who {
    pub(super) serial: u64,
    pub(super) peer: Peer,
    pub(super) opened: Timestamp,
    /// When it last asked for something or took a reply.
    pub(super) active: Timestamp,
    /// What it has had done, by direction.
    pub(super) figures: Box<[Figures; 4]>,
}

impl Who {
    /// Somebody who came now.
    pub(super) fn new(serial: u64, peer: Peer, now: Timestamp) -> Self {
        Self {
            serial,
            peer,
            opened: now,
            active: now,
            figures: Box::new(std::array::from_fn(|_| Figures::new(Precision::TenPercent))),
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
    /// The command that waits for memory, for its payload, or for a slot. What follows it waits as well.
    pub(super) pending: Option<Pending>,
    /// Commands taken and not answered.
    pub(super) in_flight: u32,
    pub(super) receiving: Option<Target>,
    pub(super) backlog: Backlog,
    pub(super) is_sending: bool,
    /// Since when what is being sent is on its way.
    pub(super) sending_since: Timestamp,
    /// Nothing is received any more: the client went, or we want it to.
    pub(super) input_ended: bool,
    /// Nothing can be sent any more.
    pub(super) broken: bool,
    pub(super) farewell: Farewell,
    /// It is on the list of connections to look at.
    pub(super) is_listed: bool,
    /// It is on the list of connections to exchange bytes with.
    pub(super) is_touched: bool,
    pub(super) file: FileSlot,
    socket: FileHandle,
}

/// What must come before the socket is closed. One that is closed with bytes unread is reset, and by TCP that takes replies
/// along that are still on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Farewell {
    None,
    /// The pass is not over, and sends may have ended that nobody was told of.
    Undecided,
    /// The client hears that nothing follows the replies, and then what it still says is thrown away.
    Due,
    /// It has heard, and may say things until it goes as well.
    Said,
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
    /// Into the buffer of the pending write.
    Payload,
    /// Nowhere yet: first the socket has to take more replies.
    Room,
}

/// A command that was understood and is not queued yet.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) command: Command,
    /// What is known of a read's bytes.
    pub(super) shape: Shape,
    /// Bytes of payload that are to come still.
    pub(super) missing: u32,
    /// `None` while it waits for memory, and if it needs none.
    pub(super) lease: Option<Lease>,
    pub(super) arrival: Timestamp,
    /// Since when its payload may come.
    pub(super) since: Timestamp,
}

impl Pending {
    pub(super) fn new(command: Command, shape: Shape, now: Timestamp) -> Self {
        let is_write = command.op == Operation::Write;
        Self {
            missing: if is_write { command.data_len() } else { 0 },
            command,
            shape,
            lease: None,
            arrival: now,
            since: now,
        }
    }

    /// Does it wait for memory?
    pub(super) fn lacks_memory(&self) -> bool {
        self.lease.is_none() && self.shape != Shape::Zeros && self.command.data_len() > 0
    }
}

impl Conn {
    pub(super) fn new(id: u32, who: Who, kit: Kit, socket: FileHandle, file: FileSlot) -> Self {
        Self {
            id,
            who,
            kit,
            phase: Phase::Handshake(Handshake::new()),
            unread: 0..0,
            pending: None,
            in_flight: 0,
            receiving: None,
            backlog: Backlog::default(),
            is_sending: false,
            sending_since: Timestamp::ZERO,
            input_ended: false,
            broken: false,
            farewell: Farewell::None,
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
        if self.farewell == Farewell::Undecided {
            let is_busy = self.in_flight > 0 || !self.unread.is_empty();
            self.farewell = if is_busy { Farewell::Due } else { Farewell::None };
        }
        self.is_over() && !self.lingers(core)
    }

    /// The server stops, or the export is detached: takes nothing more, and sees to it that the replies to come arrive.
    pub(super) fn stop(&mut self, core: &mut Core) {
        if self.farewell != Farewell::None {
            return;
        }
        if matches!(self.who.peer, Peer::Address(_)) {
            self.farewell = Farewell::Undecided;
        }
        self.end_input(core);
    }

    /// Takes nothing more from the client. What it asked for ends and is answered.
    pub(super) fn end_input(&mut self, core: &mut Core) {
        self.input_ended = true;
        if self.receiving.is_some() {
            core.queue.cancel(NetOp::Recv(self.id).token());
        } else {
            self.drop_pending(core);
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

    /// The lane of the export that it has chosen.
    pub(super) fn lane(&self) -> Option<usize> {
        match self.phase {
            Phase::Handshake(_) => None,
            Phase::Transmission(_, lane) => Some(lane),
        }
    }

    /// Forgets the command that will not be queued any more.
    pub(super) fn drop_pending(&mut self, core: &mut Core) {
        if let Some(pending) = self.pending.take() {
            core.memory.leave(self.id);
            if let Some(lane) = self.lane() {
                core.lanes[lane].leave(self.id);
            }
            if let Some(lease) = pending.lease {
                core.memory.free(&mut core.queue, self.id, lease);
            }
            self.in_flight -= 1;
        }
    }

    /// Since when it is the client's turn to move something: to send a payload whose room is there, or to take replies.
    pub(super) fn moving_since(&self) -> Option<Timestamp> {
        let payload = self
            .pending
            .as_ref()
            .filter(|write| write.missing > 0 && write.lease.is_some());
        let sending = self.is_sending.then_some(self.sending_since);
        payload.map(|write| write.since).into_iter().chain(sending).min()
    }

    /// What it is doing.
    pub(super) fn stats(&self, core: &Core) -> ConnectionStats {
        let session = match &self.phase {
            Phase::Handshake(_) => None,
            Phase::Transmission(machine, _) => Some(machine.session()),
        };
        ConnectionStats {
            id: self.who.serial,
            peer: self.who.peer.to_string(),
            export: self.lane().map(|lane| core.lanes[lane].export.name.clone()),
            structured: session.is_some_and(|session| session.structured),
            opened_for: core.now.since(self.who.opened),
            in_flight: self.in_flight,
            held_bytes: core.memory.held_bytes(self.id),
            figures: self.who.figures.clone(),
            last_active_ago: core.now.since(self.who.active),
        }
    }

    /// Waits for the client's end, if that must be; true while it does.
    fn lingers(&mut self, core: &mut Core) -> bool {
        if self.farewell == Farewell::None || self.broken {
            return false;
        }
        if self.farewell == Farewell::Due {
            self.farewell = Farewell::Said;
            if let Some(fd) = self.socket.fd() {
                // It fails where the peer is gone already, and the receive will say so.
                let _gone_already = rustix::net::shutdown(fd, Shutdown::Write);
            }
        }
        self.discard(core)
    }

    fn is_over(&self) -> bool {
        let quiet = self.receiving.is_none() && !self.is_sending && self.in_flight == 0;
        self.input_ended && quiet && self.kit.outbox.is_empty()
    }

    /// Closes the socket; what is left serves the next connection.
    pub(super) fn into_kit(mut self, core: &mut Core) -> Kit {
        if let Some(lane) = self.lane() {
            core.lanes[lane].leave(self.id);
        }
        core.memory.leave(self.id);
        core.queue.remove_file(self.file);
        self.kit.outbox.clear();
        self.kit.sending.clear();
        self.kit
    }
}
