//! The way out: replies gathered into as few sends as possible.
//!
//! One send at a time is on its way. What ends meanwhile waits in the outbox and goes out together with the next one, so the
//! slower the client reads, the larger the batches. Headers are written side by side into one buffer: replies without data
//! share a part.
//!
//! ```text
//!  headers  | 16 | 16 | 16 | 16 |        parts:  [header][data a] [header][data b] [header header]
//!             a    b    c    d                    a               b                c      d
//! ```

use iomgr_core::{Data, OpError, OpQueue};
use tqueue::MAX_SEND_PARTS;

use super::conn::{Conn, Phase, Reply};
use super::core::Core;
use super::lane::Finished;
use super::token::NetOp;
use crate::config::{HEADER_BYTES, REPLIES_PER_SEND};
use crate::proto::{NbdError, SimpleReply};

impl Conn {
    /// A request of this connection ended.
    pub(super) fn finished(&mut self, core: &mut Core, finished: Finished) {
        let Finished {
            cookie,
            op,
            bytes,
            result,
            lease,
            ..
        } = finished;
        self.who.counts.add(op, bytes, result.is_ok());
        let carries_data = op == iomgr_core::Operation::Read && result.is_ok() && !self.broken;
        let data = match lease {
            Some(lease) if carries_data => Some(lease),
            Some(lease) => {
                core.memory.free(&mut core.queue, lease);
                None
            }
            None => None,
        };
        if self.broken {
            self.in_flight -= 1;
        } else {
            let result = result.map_err(NbdError::from);
            self.kit.outbox.push_back(Reply { cookie, result, data });
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
                core.memory.free(&mut core.queue, lease);
            }
        }
        if let Err(error) = result {
            tracing::debug!(connection = self.id, %error, "send_failed");
            self.break_off(core);
        }
    }

    /// Forgets the replies that nobody will read.
    pub(super) fn drop_outbox(&mut self, core: &mut Core) {
        for reply in self.kit.outbox.drain(..) {
            self.in_flight -= 1;
            if let Some(lease) = reply.data {
                core.memory.free(&mut core.queue, lease);
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
        if self.kit.outbox.is_empty() {
            return;
        }
        let mut parts = Parts::new();
        let headers = self.kit.headers.data();
        let out = core.queue.bytes_mut(headers).expect("no send uses the buffer now");
        let places = out.chunks_exact_mut(SimpleReply::BYTES).take(REPLIES_PER_SEND);
        for (place, offset) in places.zip((0..HEADER_BYTES).step_by(SimpleReply::BYTES)) {
            if !parts.has_room() {
                break;
            }
            let Some(reply) = self.kit.outbox.pop_front() else {
                break;
            };
            place.copy_from_slice(
                &SimpleReply {
                    cookie: reply.cookie,
                    result: reply.result,
                }
                .emit(),
            );
            parts.header(headers.slice(offset, HEADER_LEN));
            reply.data.iter().for_each(|lease| parts.data(lease.data()));
            self.kit.sending.push(reply);
        }
        self.send(core, &parts.parts[..parts.count]);
    }

    fn send(&mut self, core: &mut Core, parts: &[Data]) {
        self.is_sending = true;
        if let Err(full) = core.queue.send(self.file, parts, NetOp::Send(self.id).token()) {
            tracing::error!(connection = self.id, %full, "connection_dropped");
            self.sent(core, Err(OpError::NeverStarted));
        }
    }
}

const HEADER_LEN: u32 = 16;
const _: () = assert!(HEADER_LEN as usize == SimpleReply::BYTES);

/// The parts of one send.
struct Parts {
    parts: [Data; MAX_SEND_PARTS],
    count: usize,
}

impl Parts {
    fn new() -> Self {
        Self {
            parts: [Data::NONE; MAX_SEND_PARTS],
            count: 0,
        }
    }

    /// Room for one more reply with data?
    fn has_room(&self) -> bool {
        self.count + 2 <= MAX_SEND_PARTS
    }

    /// Adds a header, to the part before it where they touch.
    fn header(&mut self, header: Data) {
        match self.parts[..self.count].last_mut() {
            Some(last) if last.home == header.home && last.offset + last.len == header.offset => last.len += header.len,
            _ => self.data(header),
        }
    }

    fn data(&mut self, data: Data) {
        self.parts[self.count] = data;
        self.count += 1;
    }
}
