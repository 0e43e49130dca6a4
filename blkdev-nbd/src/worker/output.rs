//! The way out: replies gathered into as few sends as possible.
//!
//! One send at a time is on its way. What ends meanwhile waits in the outbox and goes out together with the next one, so the
//! slower the client reads, the larger the batches.

use iomgr_core::stats::Direction;
use iomgr_core::{Data, OpError, OpQueue, Operation};

use super::batch::{Batch, Parts};
use super::conn::{Conn, Outcome, Phase, Reply};
use super::core::Core;
use super::lane::{Finished, Shape};
use super::token::NetOp;
use crate::proto::{Command, Failure};

impl Conn {
    /// A request of this connection ended.
    pub(super) fn finished(&mut self, core: &mut Core, finished: Finished) {
        let outcome = outcome(&finished);
        let Finished {
            command,
            result,
            lease,
            latency,
            ..
        } = finished;
        let bytes = command.range.len_bytes();
        self.who.figures[Direction::from(command.op) as usize].record(bytes, result.is_ok(), latency);
        let carries_data = matches!(outcome, Outcome::Read(_) | Outcome::ReadSparse(_)) && !self.broken;
        let data = match lease {
            Some(lease) if carries_data => Some(lease),
            Some(lease) => {
                core.memory.free(&mut core.queue, self.id, lease);
                None
            }
            None => None,
        };
        if self.broken {
            self.in_flight -= 1;
        } else {
            self.kit.outbox.push_back(Reply {
                cookie: command.cookie,
                outcome,
                data,
            });
        }
    }

    /// Sends what waits, unless a send is on its way.
    pub(super) fn transmit(&mut self, core: &mut Core) {
        if self.is_sending || self.broken {
            return;
        }
        match &self.phase {
            Phase::Handshake(_) => self.transmit_handshake(core),
            Phase::Transmission(..) => self.transmit_replies(core),
        }
    }

    /// A send ended.
    pub(super) fn sent(&mut self, core: &mut Core, result: Result<u32, OpError>) {
        self.is_sending = false;
        self.who.active = core.now;
        for reply in self.kit.sending.drain(..) {
            self.in_flight -= 1;
            if let Some(lease) = reply.data {
                core.memory.free(&mut core.queue, self.id, lease);
            }
        }
        if let Err(error) = result {
            tracing::debug!(connection = self.who.serial, %error, "send_failed");
            self.break_off(core);
        }
    }

    /// Forgets the replies that nobody will read.
    pub(super) fn drop_outbox(&mut self, core: &mut Core) {
        for reply in self.kit.outbox.drain(..) {
            self.in_flight -= 1;
            if let Some(lease) = reply.data {
                core.memory.free(&mut core.queue, self.id, lease);
            }
        }
    }

    fn transmit_handshake(&mut self, core: &mut Core) {
        let Phase::Handshake(machine) = &mut self.phase else {
            return;
        };
        let buffer = self.kit.headers.data();
        let out = core.queue.bytes_mut(buffer).expect("no send uses the buffer now");
        let len = machine.poll_transmit(out, &*core.exports);
        if len > 0 {
            let len = u32::try_from(len).expect("no longer than the buffer");
            self.send(core, &[buffer.slice(0, len)]);
        }
    }

    fn transmit_replies(&mut self, core: &mut Core) {
        let Phase::Transmission(machine, lane) = &self.phase else {
            return;
        };
        if self.kit.outbox.is_empty() {
            return;
        }
        let session = *machine.session();
        let (lane, headers) = (&mut core.lanes[*lane].requests, self.kit.headers.data());
        let out = core.queue.bytes_mut(headers).expect("no send uses the buffer now");
        let mut parts = Parts::new();
        let mut batch = Batch::new(headers, out, &mut parts);
        while let Some(reply) = self.kit.outbox.front()
            && batch.has_room(&reply.outcome)
        {
            if session.structured {
                batch.chunks(reply, &session, |range| lane.block_status(range));
            } else {
                batch.simple(reply);
            }
            self.kit.sending.extend(self.kit.outbox.pop_front());
        }
        self.send(core, parts.as_slice());
    }

    fn send(&mut self, core: &mut Core, parts: &[Data]) {
        self.is_sending = true;
        self.sending_since = core.now;
        self.backlog.sent(parts.iter().map(|part| part.len).sum());
        if let Err(full) = core.queue.send(self.file, parts, NetOp::Send(self.id).token()) {
            tracing::error!(connection = self.who.serial, %full, "connection_dropped");
            self.sent(core, Err(OpError::NeverStarted));
        }
    }
}

/// How a request's end is told.
fn outcome(finished: &Finished) -> Outcome {
    let Command { op, flags, range, .. } = finished.command;
    match (finished.result, finished.shape) {
        (Err(errno), _) => Outcome::Failed(Failure::of_device(errno, flags)),
        (Ok(()), _) if op != Operation::Read => Outcome::Done,
        (Ok(()), Shape::Plain) => Outcome::Read(range),
        (Ok(()), Shape::Sparse) => Outcome::ReadSparse(range),
        (Ok(()), Shape::Zeros) => Outcome::ReadZeros(range),
    }
}
