//! Clients that are busier than we are: their commands are taken in batches.
//!
//! A client whose replies pile up unread gains nothing from hearing sooner of more. If its commands were taken as they come,
//! each would cost a pass of its own: a wake-up, a receive, a send. So after every [`CHECK_BYTES`] of replies the socket
//! is asked whether it takes more, and not received from until it does:
//!
//! ```text
//!  receive ─► serve ─► send, 64 KiB since the last look ─► room? ─ yes, at once ─────────────► receive
//!                                                            └── no ─► the client reads ──────► receive a batch
//! ```
//!
//! Linux calls a unix stream socket writable when at most a quarter of its buffer is unread; with
//! [`SEND_BUFFER_BYTES`](crate::config::SEND_BUFFER_BYTES) that is work for a client for as long as a batch takes to serve, so it does not run dry.
//!
//! A client that writes on and on before it reads anything would wait for us, and we for it. So who writes is not left unheard;
//! and since a client may begin to at any time, nobody is for much longer than [`PAUSE_MAX`].

use std::time::Duration;

use iomgr_core::Timestamp;
use tqueue::Interest;

use super::conn::{Conn, Target};
use super::core::Core;
use super::token::NetOp;
use crate::listener::Peer;

/// Bytes of replies after which the socket is asked. Asking costs one entry and one system call: so little of each reply that
/// clients which keep up do not notice.
const CHECK_BYTES: u32 = 64 << 10;

/// How long a client is left unheard, before somebody looks.
pub(super) const PAUSE_MAX: Duration = Duration::from_millis(10);

/// What is known of the replies that a client has not read.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// Bytes sent since the socket was asked.
    unchecked: u32,
    /// When it was asked.
    since: Timestamp,
    /// The client has written since.
    wrote: bool,
}

impl Backlog {
    pub(super) fn sent(&mut self, bytes: u32) {
        self.unchecked = self.unchecked.saturating_add(bytes);
    }

    pub(super) fn wrote(&mut self) {
        self.wrote = true;
    }
}

impl Conn {
    /// Is it time to ask the socket? Not in the middle of a command, whose rest may be what keeps the client from reading. And
    /// not over a network, where what is unread is mostly what is on its way.
    pub(super) fn may_be_behind(&self) -> bool {
        let between_commands = self.pending.is_none() && self.unread.is_empty();
        between_commands && self.backlog.unchecked >= CHECK_BYTES && !matches!(self.who.peer, Peer::Address(_))
    }

    /// Waits until the socket takes more. False if it need not, or that cannot be.
    pub(super) fn await_room(&mut self, core: &mut Core) -> bool {
        let before = std::mem::replace(
            &mut self.backlog,
            Backlog {
                since: core.now,
                ..Backlog::default()
            },
        );
        if before.wrote {
            return false;
        }
        let asked = core
            .queue
            .poll_fd(self.file, Interest::WRITE, NetOp::Recv(self.id).token());
        if asked.is_err() {
            return false;
        }
        self.receiving = Some(Target::Room);
        core.paused += 1;
        true
    }

    /// Listens again to a client that was left unheard for too long.
    pub(super) fn resume_overdue(&mut self, core: &mut Core) {
        if self.receiving == Some(Target::Room) && self.backlog.since + PAUSE_MAX <= core.now {
            core.queue.cancel(NetOp::Recv(self.id).token());
        }
    }
}
