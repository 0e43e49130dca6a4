//! The way in: from received bytes to queued commands.

use iomgr_core::{Data, OpError, OpQueue, Operation};

use super::conn::{Conn, Farewell, Outcome, Pending, Phase, Reply, Target};
use super::core::Core;
use super::token::NetOp;
use crate::config::STAGING_BYTES;
use crate::proto::{Command, Event, HandshakeOutcome, Transmission, Violation};

/// From this many missing bytes on, a payload is received straight into its buffer. Below, a receive into the staging buffer
/// costs a copy, but brings the commands that follow.
const DIRECT_BYTES: u32 = 32 << 10;

/// Can more be done now?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Again,
    /// Not before bytes, memory, a slot or a reply's end come.
    Wait,
}

impl Conn {
    /// Takes what was received as far as it goes.
    pub(super) fn process(&mut self, core: &mut Core) {
        while !self.input_ended && self.receiving.is_none() {
            let step = match self.phase {
                Phase::Handshake(_) => self.process_handshake(core),
                Phase::Transmission(..) => self.process_command(core),
            };
            match step {
                Ok(Step::Again) => {}
                Ok(Step::Wait) => break,
                Err(violation) => {
                    tracing::warn!(connection = self.who.serial, %violation, "connection_dropped");
                    self.break_off(core);
                }
            }
        }
    }

    /// Receives more, if there is room for it and need of it.
    pub(super) fn receive(&mut self, core: &mut Core) {
        if self.input_ended || self.receiving.is_some() || !self.wants_bytes(core) {
            return;
        }
        if self.may_be_behind() && self.await_room(core) {
            return;
        }
        let (target, data) = match self.direct_target() {
            Some(data) => (Target::Payload, data),
            None => (Target::Staging, self.staging_target(core)),
        };
        match core.queue.recv(self.file, data, NetOp::Recv(self.id).token()) {
            Ok(()) => self.receiving = Some(target),
            Err(full) => {
                tracing::error!(connection = self.who.serial, %full, "connection_dropped");
                self.break_off(core);
            }
        }
    }

    /// Receives what nobody will look at; false if that cannot be.
    pub(super) fn discard(&mut self, core: &mut Core) -> bool {
        let data = self.kit.staging.data();
        let begun = core.queue.recv(self.file, data, NetOp::Recv(self.id).token());
        self.receiving = begun.is_ok().then_some(Target::Staging);
        begun.is_ok()
    }

    /// A receive ended.
    pub(super) fn received(&mut self, core: &mut Core, result: Result<u32, OpError>) {
        let target = self.receiving.take().expect("a receive ends after it began");
        core.paused -= u32::from(target == Target::Room);
        match (result, target) {
            (Ok(1..), _) if self.farewell == Farewell::Said => {}
            _ if self.farewell == Farewell::Said => self.farewell = Farewell::None,
            _ if self.input_ended => self.drop_pending(core),
            // Whatever it says of the socket, the receive that follows will say as well.
            (_, Target::Room) => {}
            (Ok(0), _) => self.end_input(core),
            (Ok(len), Target::Staging) => self.unread.end += len,
            (Ok(len), Target::Payload) => {
                if let Phase::Transmission(machine, _) = &mut self.phase {
                    machine.handle_payload(len);
                }
                self.collected(len);
            }
            (Err(error), _) => {
                tracing::debug!(connection = self.who.serial, %error, "receive_failed");
                self.break_off(core);
            }
        }
    }

    fn process_handshake(&mut self, core: &mut Core) -> Result<Step, Violation> {
        let staged = self.staged();
        let Phase::Handshake(machine) = &mut self.phase else {
            return Ok(Step::Wait);
        };
        if let Some(outcome) = machine.poll_outcome() {
            return Ok(self.end_handshake(core, outcome));
        }
        let Some(bytes) = core.queue.bytes(staged) else {
            return Ok(Step::Wait);
        };
        let taken = machine.handle_bytes(bytes, &*core.exports)?;
        self.take(taken);
        Ok(if taken > 0 { Step::Again } else { Step::Wait })
    }

    fn end_handshake(&mut self, core: &mut Core, outcome: HandshakeOutcome) -> Step {
        if self.is_sending {
            return Step::Wait;
        }
        match outcome {
            HandshakeOutcome::Go(session) => {
                let Some(lane) = core.exports.lane(session.export) else {
                    tracing::debug!(connection = self.who.serial, export = %session.export, "export_gone");
                    self.end_input(core);
                    return Step::Wait;
                };
                tracing::debug!(
                    connection = self.who.serial,
                    export = %session.export,
                    structured = session.structured,
                    allocation = session.allocation,
                    "connection_negotiated"
                );
                self.phase = Phase::Transmission(Transmission::new(session), lane);
                Step::Again
            }
            HandshakeOutcome::Abort => {
                self.end_input(core);
                Step::Wait
            }
        }
    }

    fn process_command(&mut self, core: &mut Core) -> Result<Step, Violation> {
        if self.pending.as_ref().is_some_and(|pending| pending.missing == 0) {
            return Ok(self.push_pending(core));
        }
        if !self.may_take(core) {
            return Ok(Step::Wait);
        }
        let staged = self.staged();
        let Phase::Transmission(machine, _) = &mut self.phase else {
            return Ok(Step::Wait);
        };
        let Some(bytes) = core.queue.bytes(staged) else {
            return Ok(Step::Wait);
        };
        let (taken, event) = machine.handle_bytes(bytes)?;
        let payload = staged.slice(0, len32(taken));
        self.take(taken);
        match event {
            Some(Event::Command(command)) => self.begin(core, command),
            Some(Event::Payload(_)) => self.collect(core, payload),
            Some(Event::Status(query)) => self.answer(query.cookie, Outcome::Status(query)),
            Some(Event::Refused(refusal)) => self.answer(refusal.cookie, Outcome::Failed(refusal.failure)),
            Some(Event::Disconnect) => self.end_input(core),
            None => {}
        }
        Ok(if taken > 0 { Step::Again } else { Step::Wait })
    }

    fn begin(&mut self, core: &mut Core, command: Command) {
        let Phase::Transmission(_, lane) = self.phase else {
            return;
        };
        let shape = core.lanes[lane].look(&command);
        if command.op == Operation::Write {
            self.backlog.wrote();
        }
        self.in_flight += 1;
        self.who.active = core.now;
        self.pending = Some(Pending::new(command, shape, core.now));
    }

    /// Replies to a command that needs no request.
    fn answer(&mut self, cookie: u64, outcome: Outcome) {
        self.in_flight += 1;
        self.kit.outbox.push_back(Reply {
            cookie,
            outcome,
            data: None,
        });
    }

    /// Is there what the next element needs: memory for a payload, or room for one more command?
    fn may_take(&mut self, core: &mut Core) -> bool {
        match (&self.phase, &self.pending) {
            (Phase::Handshake(_), _) => false,
            (_, Some(pending)) => pending.missing > 0 && self.has_memory(core),
            (Phase::Transmission(machine, _), None) => self.takes_element(machine, core),
        }
    }

    /// Is there room for one more command, if one comes next?
    fn takes_element(&self, machine: &Transmission, core: &Core) -> bool {
        !machine.at_header() || self.in_flight < core.in_flight_max
    }

    /// Has the pending command the memory that it needs? If not, it is asked for.
    fn has_memory(&mut self, core: &mut Core) -> bool {
        let Some(pending) = self.pending.as_mut().filter(|pending| pending.lacks_memory()) else {
            return true;
        };
        let len = pending.command.data_len();
        pending.lease = core.memory.lease(&mut core.queue, self.id, len, core.now);
        pending.since = core.now;
        pending.lease.is_some()
    }

    /// Queues the pending command, if there is memory and a slot for it.
    fn push_pending(&mut self, core: &mut Core) -> Step {
        let Phase::Transmission(_, lane) = self.phase else {
            return Step::Wait;
        };
        if !self.has_memory(core) {
            return Step::Wait;
        }
        let has_room = |pending: &mut Pending| core.lanes[lane].has_room(self.id, pending.command.op.class());
        match self.pending.take_if(has_room) {
            Some(pending) => core.lanes[lane].push(self.id, pending),
            None => return Step::Wait,
        }
        Step::Again
    }

    /// Copies payload that lies in the staging buffer to its place.
    fn collect(&mut self, core: &mut Core, payload: Data) {
        let place = self.payload_place().slice(0, payload.len);
        let copied = core.queue.copy(payload, place);
        assert!(
            copied,
            "no op uses the staging buffer or the payload's while they are looked at"
        );
        self.collected(payload.len);
    }

    /// `len` more bytes of payload are in place.
    fn collected(&mut self, len: u32) {
        let write = self.pending.as_mut().expect("payload comes after its command");
        write.missing -= len;
    }

    /// Where the rest of the pending write's payload goes.
    fn payload_place(&self) -> Data {
        let write = self.pending.as_ref().expect("payload comes after its command");
        let lease = write.lease.as_ref().expect("payload is taken when it has a place");
        lease.data().slice(lease.len_bytes() - write.missing, write.missing)
    }

    /// What was received and not taken yet.
    fn staged(&self) -> Data {
        let len = self.unread.end - self.unread.start;
        self.kit.staging.data().slice(self.unread.start, len)
    }

    fn take(&mut self, len: usize) {
        self.unread.start += len32(len);
        if self.unread.is_empty() {
            self.unread = 0..0;
        }
    }

    /// Would more bytes help? Not while what is there waits for something else. Nothing is leased here: the payload may be there
    /// already, and who waits for more bytes does not look.
    fn wants_bytes(&self, core: &Core) -> bool {
        match (&self.phase, &self.pending) {
            (Phase::Handshake(_), _) => !self.is_sending,
            (_, Some(pending)) => pending.missing > 0 && !pending.lacks_memory(),
            (Phase::Transmission(machine, _), None) => self.takes_element(machine, core),
        }
    }

    /// The rest of a long payload's place, if nothing of it is staged.
    fn direct_target(&self) -> Option<Data> {
        let missing = self.pending.as_ref()?.missing;
        (self.unread.is_empty() && missing >= DIRECT_BYTES).then(|| self.payload_place())
    }

    /// The room behind the unread bytes, which move to the front where it gets tight.
    fn staging_target(&mut self, core: &mut Core) -> Data {
        let unread = self.staged().len;
        if STAGING_BYTES - self.unread.end < STAGING_BYTES / 2 {
            let data = self.kit.staging.data().slice(0, self.unread.end);
            let bytes = core
                .queue
                .bytes_mut(data)
                .expect("no op uses the staging buffer between receives");
            bytes.copy_within(self.unread.start as usize.., 0);
            self.unread = 0..unread;
        }
        self.kit
            .staging
            .data()
            .slice(self.unread.end, STAGING_BYTES - self.unread.end)
    }
}

fn len32(len: usize) -> u32 {
    u32::try_from(len).expect("no more than the staging buffer holds")
}
