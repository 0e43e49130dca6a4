//! The machine: its clock, its files, and the ops on their way.

use std::time::Duration;

use fastrand::Rng;
use iomgr_core::{SimFile, Timestamp};
use rustix::io::Errno;

use super::SimConfig;
use super::file::File;
use crate::inflight::Key;

/// What an op on its way will do.
#[derive(Debug)]
pub(crate) enum Act {
    Read {
        offset: u64,
        len: u32,
    },
    Write {
        offset: u64,
        bytes: Vec<u8>,
        durable: bool,
    },
    Flush {
        covered: u64,
    },
    Zero {
        offset: u64,
        len: u64,
    },
    /// Nothing but take time.
    Timer,
    /// Fail with this, and do nothing.
    Fail(Errno),
}

/// An op on its way.
#[derive(Debug)]
struct Pending {
    queue: usize,
    key: Key,
    file: SimFile,
    act: Act,
    due: Timestamp,
}

/// An op that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) key: Key,
    pub(crate) result: Result<u32, Errno>,
    /// What a read has read.
    pub(crate) bytes: Vec<u8>,
}

/// A queue's ticket: which queue of which boot. Tickets of earlier boots get nothing done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    queue: usize,
    boot: u32,
}

/// The machine.
#[derive(Debug)]
pub(crate) struct World {
    config: SimConfig,
    rng: Rng,
    now: Timestamp,
    files: Vec<File>,
    pending: Vec<Pending>,
    /// By queue.
    ended: Vec<Vec<Ended>>,
    boot: u32,
    steps: u64,
    fail_at: u64,
    off: bool,
}

impl World {
    pub(crate) fn new(config: SimConfig) -> Self {
        Self {
            rng: Rng::with_seed(config.seed),
            config,
            now: Timestamp::from_nanos(1_000_000_000),
            files: Vec::new(),
            pending: Vec::new(),
            ended: Vec::new(),
            boot: 0,
            steps: 0,
            fail_at: u64::MAX,
            off: false,
        }
    }

    pub(crate) fn create(&mut self, len: u64, is_block_device: bool) -> SimFile {
        self.files.push(File::new(len, is_block_device));
        SimFile(u32::try_from(self.files.len() - 1).expect("few files"))
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.now
    }

    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    pub(crate) fn is_off(&self) -> bool {
        self.off
    }

    /// # Panics
    /// If the file belongs to another machine.
    pub(crate) fn file(&mut self, file: SimFile) -> &mut File {
        &mut self.files[file.0 as usize]
    }

    pub(crate) fn has_file(&self, file: SimFile) -> bool {
        (file.0 as usize) < self.files.len()
    }

    pub(crate) fn new_queue(&mut self) -> Ticket {
        self.ended.push(Vec::new());
        Ticket {
            queue: self.ended.len() - 1,
            boot: self.boot,
        }
    }

    pub(crate) fn fail_after(&mut self, steps: u64) {
        self.fail_at = self.steps + steps;
        self.count_steps(0);
    }

    pub(crate) fn count_step(&mut self) {
        self.count_steps(1);
    }

    fn count_steps(&mut self, more: u64) {
        self.steps += more;
        if !self.off && self.steps >= self.fail_at {
            self.spill();
            self.off = true;
        }
    }

    pub(crate) fn cut_power(&mut self, seed: u64) {
        if !self.off {
            self.spill();
        }
        let mut rng = Rng::with_seed(seed);
        self.files.iter_mut().for_each(|file| file.cut_power(&mut rng));
        self.reboot();
    }

    pub(crate) fn kill(&mut self, seed: u64) {
        let mut rng = Rng::with_seed(seed);
        rng.shuffle(&mut self.pending);
        for pending in &self.pending {
            let file = &mut self.files[pending.file.0 as usize];
            match &pending.act {
                Act::Write { offset, bytes, .. } => {
                    let most = match rng.u8(..3) {
                        0 => 0,
                        1 => bytes.len(),
                        _ => rng.usize(..=bytes.len()) / 512 * 512,
                    };
                    // An error would have gone to a process that is no more.
                    let _ = file.write(*offset, &bytes[..most], false);
                }
                Act::Zero { offset, len } if rng.bool() => file.zero(*offset, *len),
                _ => {}
            }
        }
        self.reboot();
    }

    /// Puts what is on its way to the disk: the power cut decides which of it arrived.
    fn spill(&mut self) {
        for pending in &self.pending {
            let file = &mut self.files[pending.file.0 as usize];
            match &pending.act {
                Act::Write { offset, bytes, .. } => drop(file.write(*offset, bytes, false)),
                Act::Zero { offset, len } => file.zero(*offset, *len),
                _ => {}
            }
        }
    }

    fn reboot(&mut self) {
        for Pending { queue, key, .. } in self.pending.drain(..) {
            self.ended[queue].push(failed(key));
        }
        self.boot += 1;
        self.off = false;
        self.fail_at = u64::MAX;
    }

    /// Starts an op.
    pub(crate) fn start(&mut self, ticket: Ticket, key: Key, file: SimFile, act: Act) {
        if ticket.boot != self.boot || self.off {
            return self.ended[ticket.queue].push(failed(key));
        }
        let due = self.now + self.latency();
        let act = if one_in(&mut self.rng, self.config.interrupt_every) {
            Act::Fail(Errno::INTR)
        } else {
            act
        };
        self.pending.push(Pending {
            queue: ticket.queue,
            key,
            file,
            act,
            due,
        });
    }

    /// Starts a timer.
    pub(crate) fn start_timer(&mut self, ticket: Ticket, key: Key, due: Timestamp) {
        if ticket.boot != self.boot {
            return self.ended[ticket.queue].push(failed(key));
        }
        self.pending.push(Pending {
            queue: ticket.queue,
            key,
            file: SimFile(0),
            act: Act::Timer,
            due,
        });
    }

    /// Ends a timer early.
    pub(crate) fn cancel(&mut self, ticket: Ticket, key: Key) {
        let is_meant = |p: &Pending| p.queue == ticket.queue && p.key == key && matches!(p.act, Act::Timer);
        if let Some(at) = self.pending.iter().position(is_meant) {
            self.pending.swap_remove(at);
            let result = Err(Errno::CANCELED);
            self.ended[ticket.queue].push(Ended {
                key,
                result,
                bytes: Vec::new(),
            });
        }
    }

    /// Lets time pass until an op of the queue has ended, but not beyond `limit`.
    pub(crate) fn wait(&mut self, ticket: Ticket, limit: Timestamp) {
        while self.ended[ticket.queue].is_empty() && self.next_by(limit) {}
        if self.ended[ticket.queue].is_empty() && limit < Timestamp::from_nanos(u64::MAX) {
            self.now = self.now.max(limit);
        }
    }

    /// Lets a moment pass.
    pub(crate) fn tick(&mut self) {
        let soon = self.now + Duration::from_micros(1);
        while self.next_by(soon) {}
        self.now = soon;
    }

    /// What has ended for a queue.
    pub(crate) fn take_ended(&mut self, ticket: Ticket) -> impl Iterator<Item = Ended> {
        self.ended[ticket.queue].drain(..)
    }

    /// Ends the op that is due first, if it is due by `limit`.
    fn next_by(&mut self, limit: Timestamp) -> bool {
        let first = self.pending.iter().enumerate().min_by_key(|(_, pending)| pending.due);
        let Some(at) = first.filter(|(_, pending)| pending.due <= limit).map(|(at, _)| at) else {
            return false;
        };
        let pending = self.pending.swap_remove(at);
        self.now = self.now.max(pending.due);
        let ended = self.finish(&pending);
        self.ended[pending.queue].push(ended);
        if !matches!(pending.act, Act::Timer | Act::Fail(_)) {
            self.count_step();
        }
        true
    }

    fn finish(&mut self, pending: &Pending) -> Ended {
        let mut bytes = Vec::new();
        let result = match &pending.act {
            Act::Timer => Err(Errno::TIME),
            _ if self.off => Err(Errno::IO),
            act => self.execute(pending.file, act, &mut bytes),
        };
        Ended {
            key: pending.key,
            result,
            bytes,
        }
    }

    fn execute(&mut self, file: SimFile, act: &Act, into: &mut Vec<u8>) -> Result<u32, Errno> {
        let Self { files, rng, config, .. } = self;
        let file = &mut files[file.0 as usize];
        let moved = match act {
            Act::Read { offset, len } => {
                into.resize(shortened(*len as usize, config, rng), 0);
                let read = file.read(*offset, into)?;
                into.truncate(read);
                read
            }
            Act::Write { offset, bytes, durable } => {
                let len = shortened(bytes.len(), config, rng);
                file.write(*offset, &bytes[..len], *durable)?
            }
            Act::Flush { covered } => file.flush(*covered, rng).map(|()| 0)?,
            Act::Zero { .. } if file.no_holes => return Err(Errno::OPNOTSUPP),
            Act::Zero { offset, len } => {
                file.zero(*offset, *len);
                0
            }
            Act::Timer => return Err(Errno::TIME),
            Act::Fail(errno) => return Err(*errno),
        };
        Ok(u32::try_from(moved).expect("ops are shorter than 4 GiB"))
    }

    fn latency(&mut self) -> Duration {
        let range = &self.config.latency;
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let time = self.rng.u64(nanos(range.start)..=nanos(range.end));
        let stalled = one_in(&mut self.rng, self.config.stall_every);
        Duration::from_nanos(if stalled { time.saturating_mul(100) } else { time })
    }
}

/// What ops come to when the power is off, or their process gone.
fn failed(key: Key) -> Ended {
    Ended {
        key,
        result: Err(Errno::IO),
        bytes: Vec::new(),
    }
}

fn one_in(rng: &mut Rng, n: u32) -> bool {
    n > 0 && rng.u32(..n) == 0
}

/// How much of a transfer of `len` is done in one go.
fn shortened(len: usize, config: &SimConfig, rng: &mut Rng) -> usize {
    if len > 512 && one_in(rng, config.short_every) {
        rng.usize(1..len.div_ceil(512)) * 512
    } else {
        len
    }
}
