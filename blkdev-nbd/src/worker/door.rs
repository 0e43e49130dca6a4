//! The listeners, on the first worker: accepts clients and deals them to the workers.

use std::sync::atomic::Ordering;
use std::time::Duration;

use iomgr_core::{Errno, FileHandle, FileSlot, OpQueue, Timestamp};
use rustix::io::{fcntl_dupfd_cloexec, ioctl_fionbio};
use tqueue::{Interest, NetFull, Queue};

use super::control::{Arrival, Control, Handle};
use super::token::NetOp;
use crate::Listener;
use crate::listener::Client;

/// How long to leave a listener alone when a client could not be accepted (no descriptors left, say).
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Clients accepted in one go, so that a crowd at the door does not keep those inside waiting.
const ACCEPTS_PER_PASS: usize = 16;

/// At most one line in the log for each of these, whatever the number of clients turned away.
const COMPLAIN_EVERY: Duration = Duration::from_secs(1);

/// Where clients come in. Workers without listeners have one that nobody comes through.
#[derive(Debug)]
pub(super) struct Door {
    entrances: Vec<Entrance>,
    workers: Vec<Handle>,
    /// Connections at the same time. Each worker has room for its share of them, rounded up.
    limit: u32,
    /// Clients let in so far.
    admitted: u64,
    is_open: bool,
    refused: Complaint,
    failed: Complaint,
}

#[derive(Debug)]
struct Entrance {
    listener: Listener,
    file: FileSlot,
}

impl Door {
    pub(super) fn new(
        listeners: Vec<Listener>,
        workers: Vec<Handle>,
        limit: u32,
        queue: &mut Queue,
    ) -> Result<Self, Errno> {
        let entrances = listeners.into_iter().map(|listener| Entrance::new(listener, queue));
        Ok(Self {
            entrances: entrances.collect::<Result<_, _>>()?,
            workers,
            limit,
            admitted: 0,
            is_open: true,
            refused: Complaint::default(),
            failed: Complaint::default(),
        })
    }

    /// Waits for the next client, everywhere.
    pub(super) fn watch(&self, queue: &mut Queue) -> Result<(), NetFull> {
        (0..self.entrances.len()).try_for_each(|at| self.watch_one(at, queue))
    }

    /// Takes in who is at an entrance.
    pub(super) fn accept(&mut self, at: u32, queue: &mut Queue, now: Timestamp) -> Result<(), NetFull> {
        let token = NetOp::AcceptRetry(at).token();
        let at = at as usize;
        for _ in 0..ACCEPTS_PER_PASS {
            if !self.is_open {
                return Ok(());
            }
            match self.entrances[at].listener.accept() {
                Ok(client) => self.deal(client, now),
                Err(Errno::AGAIN) => break,
                Err(Errno::CONNABORTED | Errno::INTR) => {}
                Err(error) => {
                    if let Some(times) = self.failed.due(now) {
                        tracing::warn!(%error, times, "accept_failed");
                    }
                    return queue.timer(now + RETRY_AFTER, token);
                }
            }
        }
        self.watch_one(at, queue)
    }

    /// Lets nobody in any more.
    pub(super) fn close(&mut self, queue: &mut Queue) {
        self.is_open = false;
        for at in 0..index(self.entrances.len()) {
            queue.cancel(NetOp::Accept(at).token());
            queue.cancel(NetOp::AcceptRetry(at).token());
        }
    }

    fn watch_one(&self, at: usize, queue: &mut Queue) -> Result<(), NetFull> {
        match self.is_open {
            true => queue.poll_fd(
                self.entrances[at].file,
                Interest::READ,
                NetOp::Accept(index(at)).token(),
            ),
            false => Ok(()),
        }
    }

    /// Gives a client to the worker with the fewest; closes it if there are too many.
    fn deal(&mut self, client: Client, now: Timestamp) {
        let loads = self.workers.iter().map(|worker| worker.gauges.load());
        let has_room = loads.sum::<u32>() < self.limit;
        let worker = self.workers.iter().min_by_key(|worker| worker.gauges.load());
        if let Some(worker) = worker.filter(|_| has_room) {
            self.admitted += 1;
            worker.gauges.connections.fetch_add(1, Ordering::Relaxed);
            worker.say(Control::Connection(Arrival {
                client,
                serial: self.admitted,
            }));
        } else if let Some(times) = self.refused.due(now) {
            tracing::warn!(peer = %client.peer, limit = self.limit, times, "connection_refused");
        }
    }
}

impl Entrance {
    fn new(listener: Listener, queue: &mut Queue) -> Result<Self, Errno> {
        ioctl_fionbio(&listener, true)?;
        let file = queue.add_file(&FileHandle::new(fcntl_dupfd_cloexec(&listener, 0)?))?;
        Ok(Self { listener, file })
    }
}

/// Something that may happen any number of times and is logged now and then.
#[derive(Debug, Default)]
struct Complaint {
    /// Times since it was last logged.
    times: u64,
    next: Timestamp,
}

impl Complaint {
    /// It happened. `Some`: log it, it happened that often since the last time.
    fn due(&mut self, now: Timestamp) -> Option<u64> {
        self.times += 1;
        if now < self.next {
            return None;
        }
        self.next = now + COMPLAIN_EVERY;
        Some(std::mem::take(&mut self.times))
    }
}

fn index(at: usize) -> u32 {
    u32::try_from(at).expect("there are few listeners")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_often_is_logged_now_and_then_and_counted() {
        let mut complaint = Complaint::default();
        let at = |millis| Timestamp::ZERO + Duration::from_millis(millis);
        let told = [0, 1, 999, 1000, 1001, 5000].map(|millis| complaint.due(at(millis)));
        assert_eq!(told, [Some(1), None, None, Some(3), None, Some(2)]);
    }
}
