//! The way in: from received bytes to queued commands.

use iomgr_core::{Data, OpError, OpQueue, Operation};

use super::conn::{Collecting, Conn, Outcome, Phase, Reply, Target};
use super::core::Core;
use super::memory::Waiter;
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
                    tracing::warn!(connection = self.id, %violation, "connection_dropped");
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
        let (target, data) = match self.direct_target() {
            Some(data) => (Target::Payload, data),
            None => (Target::Staging, self.staging_target(core)),
        };
        match core.queue.recv(self.file, data, NetOp::Recv(self.id).token()) {
            Ok(()) => self.receiving = Some(target),
            Err(full) => {
                tracing::error!(connection = self.id, %full, "connection_dropped");
                self.break_off(core);
            }
        }
    }

    /// A receive ended.
    pub(super) fn received(&mut self, core: &mut Core, result: Result<u32, OpError>) {
        let target = self.receiving.take().expect("a receive ends after it began");
        match (result, target) {
            _ if self.input_ended => self.drop_collecting(core),
            (Ok(0), _) => self.end_input(core),
            (Ok(len), Target::Staging) => self.unread.end += len,
            (Ok(len), Target::Payload) => {
                if let Phase::Transmission(machine, _) = &mut self.phase {
                    machine.handle_payload(len);
                }
                self.collected(core, len);
            }
            (Err(error), _) => {
                tracing::debug!(connection = self.id, %error, "receive_failed");
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
                tracing::debug!(
                    connection = self.id,
                    export = %session.export,
                    structured = session.structured,
                    allocation = session.allocation,
                    "connection_negotiated"
                );
                self.phase = Phase::Transmission(Transmission::new(session), session.export.0);
                Step::Again
            }
            HandshakeOutcome::Abort => {
                self.end_input(core);
                Step::Wait
            }
        }
    }

    fn process_command(&mut self, core: &mut Core) -> Result<Step, Violation> {
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
            Some(Event::Command(command)) => self.begin(core, &command),
            Some(Event::Payload(_)) => self.collect(core, payload),
            Some(Event::Status(query)) => self.answer(query.cookie, Outcome::Status(query)),
            Some(Event::Refused(refusal)) => self.answer(refusal.cookie, Outcome::Failed(refusal.failure)),
            Some(Event::Disconnect) => self.end_input(core),
            None => {}
        }
        Ok(if taken > 0 { Step::Again } else { Step::Wait })
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
        let Phase::Transmission(machine, lane) = &self.phase else {
            return false;
        };
        match &mut self.collecting {
            Some(write) if write.lease.is_none() => {
                write.lease = core.memory.lease(&mut core.queue, Waiter::Conn(self.id), write.len);
                write.lease.is_some()
            }
            Some(_) => true,
            None if machine.at_header() => {
                // Only who has something to ask for waits in the line for slots.
                let asks = !self.unread.is_empty();
                self.in_flight < core.in_flight_max && (!asks || core.lanes[*lane].has_room(self.id))
            }
            None => true,
        }
    }

    fn begin(&mut self, core: &mut Core, command: &Command) {
        let Phase::Transmission(_, lane) = self.phase else {
            return;
        };
        let lane = &mut core.lanes[lane];
        let tag = lane.take_slot(self.id, core.now, command);
        self.in_flight += 1;
        self.who.active = core.now;
        match command.op {
            Operation::Write => {
                self.collecting = Some(Collecting {
                    tag,
                    len: command.data_len(),
                    have: 0,
                    lease: None,
                });
            }
            _ => lane.push(tag, None),
        }
    }

    /// Copies payload that lies in the staging buffer to its place.
    fn collect(&mut self, core: &mut Core, payload: Data) {
        let write = self.collecting.as_ref().expect("payload comes after its command");
        let lease = write.lease.as_ref().expect("payload is taken when it has a place");
        let copied = core.queue.copy(payload, lease.data().slice(write.have, payload.len));
        assert!(
            copied,
            "no op uses the staging buffer or the payload's while they are looked at"
        );
        self.collected(core, payload.len);
    }

    /// `len` more bytes of payload are in place.
    fn collected(&mut self, core: &mut Core, len: u32) {
        let Phase::Transmission(_, lane) = self.phase else {
            return;
        };
        let write = self.collecting.as_mut().expect("payload comes after its command");
        write.have += len;
        if write.have == write.len {
            let write = self.collecting.take().expect("it was there a moment ago");
            core.lanes[lane].push(write.tag, write.lease);
        }
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

    /// Would more bytes help? Not while what is there waits for something else.
    fn wants_bytes(&mut self, core: &mut Core) -> bool {
        match &self.phase {
            Phase::Handshake(_) => !self.is_sending,
            Phase::Transmission(..) => self.may_take(core),
        }
    }

    /// The rest of a long payload's place, if nothing of it is staged.
    fn direct_target(&self) -> Option<Data> {
        let write = self.collecting.as_ref()?;
        let missing = write.len - write.have;
        let lease = write.lease.as_ref()?;
        (self.unread.is_empty() && missing >= DIRECT_BYTES).then(|| lease.data().slice(write.have, missing))
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
