//! The listener, on the first worker: accepts clients and deals them to the workers.

use std::os::unix::net::UnixListener;
use std::time::Duration;

use iomgr_core::{Errno, FileHandle, FileSlot, OpQueue, Timestamp};
use rustix::net::{SocketFlags, accept_with};
use tqueue::{Interest, NetFull, Queue};

use super::control::{Control, Handle};
use super::token::NetOp;

/// How long to leave the listener alone when a client could not be accepted (no descriptors left, say).
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Clients accepted in one go, so that a crowd at the door does not keep those inside waiting.
const ACCEPTS_PER_PASS: usize = 16;

/// Where clients come in.
#[derive(Debug)]
pub(super) struct Door {
    listener: UnixListener,
    file: FileSlot,
    workers: Vec<Handle>,
    /// Connections that each worker has room for.
    room: u32,
    is_open: bool,
}

impl Door {
    pub(super) fn new(
        listener: UnixListener,
        workers: Vec<Handle>,
        room: u32,
        queue: &mut Queue,
    ) -> Result<Self, Errno> {
        let io = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
        listener.set_nonblocking(true).map_err(io)?;
        let file = queue.add_file(&FileHandle::new(listener.try_clone().map_err(io)?))?;
        Ok(Self {
            listener,
            file,
            workers,
            room,
            is_open: true,
        })
    }

    /// Waits for the next client.
    pub(super) fn watch(&self, queue: &mut Queue) -> Result<(), NetFull> {
        match self.is_open {
            true => queue.poll_fd(self.file, Interest::READ, NetOp::Accept.token()),
            false => Ok(()),
        }
    }

    /// Takes in who is at the door.
    pub(super) fn accept(&mut self, queue: &mut Queue, now: Timestamp) -> Result<(), NetFull> {
        for _ in 0..ACCEPTS_PER_PASS {
            if !self.is_open {
                return Ok(());
            }
            match accept_with(&self.listener, SocketFlags::CLOEXEC) {
                Ok(socket) => self.deal(socket),
                Err(Errno::AGAIN) => break,
                Err(Errno::CONNABORTED | Errno::INTR) => {}
                Err(error) => {
                    tracing::warn!(%error, "accept_failed");
                    return queue.timer(now + RETRY_AFTER, NetOp::AcceptRetry.token());
                }
            }
        }
        self.watch(queue)
    }

    /// Lets nobody in any more.
    pub(super) fn close(&mut self, queue: &mut Queue) {
        self.is_open = false;
        queue.cancel(NetOp::Accept.token());
        queue.cancel(NetOp::AcceptRetry.token());
    }

    /// Gives a client to the worker with the fewest; closes it if none has room.
    fn deal(&self, socket: std::os::fd::OwnedFd) {
        let worker = self.workers.iter().min_by_key(|worker| worker.gauges.load());
        match worker.filter(|worker| worker.gauges.load() < self.room) {
            Some(worker) => {
                worker
                    .gauges
                    .connections
                    .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                worker.say(Control::Connection(socket));
            }
            None => tracing::warn!(limit = self.room as usize * self.workers.len(), "connection_refused"),
        }
    }
}
