//! The machine: its clock, its files, and the ops on their way.

use std::time::Duration;

use fastrand::Rng;
use iomgr_core::{SimFile, Timestamp};
use rustix::io::Errno;

use super::fault::{Failure, Mishap, mishap, one_in};
use super::file::File;
use super::op::{Act, Ended, NO_FILE, Pending, Ticket, failed};
use super::trace::{Happened, Recorder, SimCall};
use super::{START, SimConfig};
use crate::inflight::Key;

/// The end of time: what is stalled until then waits for its release.
const NEVER: Timestamp = Timestamp::from_nanos(u64::MAX);

/// A queue, from the machine's side.
#[derive(Debug, Default)]
struct Side {
    ended: Vec<Ended>,
    /// Disk ops.
    in_flight: u32,
    most_in_flight: u32,
}

/// The machine.
#[derive(Debug)]
pub(crate) struct World {
    config: SimConfig,
    rng: Rng,
    now: Timestamp,
    files: Vec<File>,
    pending: Vec<Pending>,
    queues: Vec<Side>,
    /// Ops issued so far.
    issued: u64,
    /// Nothing completes before.
    stalled_until: Timestamp,
    refuse: bool,
    recorder: Recorder,
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
            now: START,
            files: Vec::new(),
            pending: Vec::new(),
            queues: Vec::new(),
            issued: 0,
            stalled_until: Timestamp::ZERO,
            refuse: false,
            recorder: Recorder::default(),
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
        self.queues.push(Side::default());
        Ticket {
            queue: self.queues.len() - 1,
            boot: self.boot,
        }
    }

    pub(crate) fn fail_after(&mut self, steps: u64) {
        self.fail_at = self.steps + steps;
        self.count_steps(0);
    }

    /// Is there no room for an op just now?
    pub(crate) fn refuses(&mut self, ticket: Ticket) -> bool {
        let refused = self.refuse || one_in(&mut self.rng, self.config.refuse_every);
        if refused {
            self.note(Happened::Refused { queue: ticket.queue });
        }
        refused
    }

    /// Does a write that is issued now take its bytes when it is done?
    pub(crate) fn takes_late(&mut self) -> bool {
        one_in(&mut self.rng, self.config.take_late_every)
    }

    /// What a write will write that is on its way still, as its memory is now.
    pub(crate) fn retake(&mut self, ticket: Ticket, key: Key, memory: Vec<u8>) {
        let is_meant = |p: &&mut Pending| p.queue == ticket.queue && p.key == key;
        if let Some(Act::Write { bytes, .. }) = self.pending.iter_mut().find(is_meant).map(|p| &mut p.act) {
            *bytes = memory;
        }
    }

    pub(crate) fn refuse_submissions(&mut self, refuse: bool) {
        self.refuse = refuse;
    }

    pub(crate) fn most_in_flight(&self) -> u32 {
        self.queues.iter().map(|side| side.most_in_flight).max().unwrap_or(0)
    }

    pub(crate) fn in_flight(&self, file: SimFile) -> usize {
        let is_meant = |pending: &&Pending| pending.file == file && pending.is_disk();
        self.pending.iter().filter(is_meant).count()
    }

    pub(crate) fn recorder(&mut self) -> &mut Recorder {
        &mut self.recorder
    }

    fn note(&mut self, what: Happened) {
        self.recorder.add(self.now, what);
    }

    /// Lets a file, or all, complete nothing for a time, or until it is released.
    pub(crate) fn stall(&mut self, file: Option<SimFile>, time: Option<Duration>) {
        let until = time.map_or(NEVER, |time| self.now + time);
        match file {
            Some(file) => self.file(file).stalled_until = until,
            None => self.stalled_until = until,
        }
        self.note(Happened::Stalled {
            file: file.map(|file| file.0),
        });
    }

    /// Ends the stall of a file, or all, and what is held there.
    pub(crate) fn release(&mut self, file: Option<SimFile>) {
        match file {
            Some(file) => self.file(file).stalled_until = Timestamp::ZERO,
            None => self.end_stalls(),
        }
        let is_meant = |pending: &&mut Pending| file.is_none_or(|file| pending.file == file);
        for pending in self.pending.iter_mut().filter(is_meant) {
            pending.mishap.held = false;
        }
        self.note(Happened::Released {
            file: file.map(|file| file.0),
        });
    }

    fn end_stalls(&mut self) {
        self.stalled_until = Timestamp::ZERO;
        for file in &mut self.files {
            file.stalled_until = Timestamp::ZERO;
        }
    }

    /// Why a blocking call fails, if a fault says so.
    pub(crate) fn blocking_failure(&mut self, file: SimFile, call: SimCall) -> Option<Errno> {
        self.mishap(file, call).failure.map(|failure| failure.errno)
    }

    /// Takes note of a blocking call.
    pub(crate) fn blocking_done(&mut self, file: SimFile, call: SimCall, result: Result<(), Errno>) {
        let file = file.0;
        self.note(Happened::Blocking { file, call, result });
        self.count_steps(1);
    }

    fn mishap(&mut self, file: SimFile, call: SimCall) -> Mishap {
        let Self { files, rng, .. } = self;
        let faults = &mut files[file.0 as usize].faults;
        match call.touches() {
            Some((kind, bytes)) => mishap(faults, kind, &bytes, rng),
            None => Mishap::default(),
        }
    }

    fn count_steps(&mut self, more: u64) {
        self.steps += more;
        if !self.off && self.steps >= self.fail_at {
            self.spill();
            self.off = true;
            self.end_stalls();
            self.note(Happened::PowerFailed);
        }
    }

    pub(crate) fn cut_power(&mut self, seed: u64) {
        if !self.off {
            self.spill();
        }
        let mut rng = Rng::with_seed(seed);
        self.files.iter_mut().for_each(|file| file.cut_power(&mut rng));
        self.note(Happened::Cut { seed });
        self.reboot();
    }

    pub(crate) fn kill(&mut self, seed: u64) {
        let mut rng = Rng::with_seed(seed);
        rng.shuffle(&mut self.pending);
        for pending in self.pending.iter().filter(|pending| pending.is_disk()) {
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
        self.note(Happened::Killed { seed });
        self.reboot();
    }

    /// Puts what is on its way to the disk: the power cut decides which of it arrived.
    fn spill(&mut self) {
        for pending in self.pending.iter().filter(|pending| pending.is_disk()) {
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
            self.queues[queue].ended.push(failed(key));
        }
        self.queues.iter_mut().for_each(|side| side.in_flight = 0);
        self.end_stalls();
        self.boot += 1;
        self.off = false;
        self.fail_at = u64::MAX;
    }

    /// Starts an op.
    pub(crate) fn start(&mut self, ticket: Ticket, key: Key, file: SimFile, act: Act) {
        if ticket.boot != self.boot || self.off {
            return self.queues[ticket.queue].ended.push(failed(key));
        }
        let (call, due) = (act.call(), self.now + self.latency());
        let act = if one_in(&mut self.rng, self.config.interrupt_every) {
            Act::Fail(Errno::INTR)
        } else {
            act
        };
        let mishap = self.mishap(file, call);
        let side = &mut self.queues[ticket.queue];
        side.in_flight += 1;
        side.most_in_flight = side.most_in_flight.max(side.in_flight);
        let number = self.number(ticket, Some(file), call);
        self.pending.push(Pending {
            queue: ticket.queue,
            key,
            number,
            file,
            act,
            due: due + mishap.delay,
            mishap,
        });
    }

    /// Starts a timer.
    pub(crate) fn start_timer(&mut self, ticket: Ticket, key: Key, due: Timestamp) {
        if ticket.boot != self.boot {
            return self.queues[ticket.queue].ended.push(failed(key));
        }
        let number = self.number(ticket, None, SimCall::Timer(due));
        self.pending.push(Pending {
            queue: ticket.queue,
            key,
            number,
            file: NO_FILE,
            act: Act::Timer,
            due,
            mishap: Mishap::default(),
        });
    }

    /// The next op's number.
    fn number(&mut self, ticket: Ticket, file: Option<SimFile>, call: SimCall) -> u64 {
        let op = self.issued;
        self.issued += 1;
        self.note(Happened::Issued {
            op,
            queue: ticket.queue,
            file: file.map(|file| file.0),
            call,
        });
        op
    }

    /// Ends a timer early.
    pub(crate) fn cancel(&mut self, ticket: Ticket, key: Key) {
        let is_meant = |p: &Pending| p.queue == ticket.queue && p.key == key && matches!(p.act, Act::Timer);
        if let Some(at) = self.pending.iter().position(is_meant) {
            let pending = self.pending.swap_remove(at);
            self.tell(&pending, Err(Errno::CANCELED), Vec::new());
        }
    }

    /// Lets time pass until an op of the queue has ended, but not beyond `limit`.
    pub(crate) fn wait(&mut self, ticket: Ticket, limit: Timestamp) {
        while self.queues[ticket.queue].ended.is_empty() && self.next_by(limit) {}
        if self.queues[ticket.queue].ended.is_empty() && limit < NEVER {
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
        self.queues[ticket.queue].ended.drain(..)
    }

    /// Lets happen what is due first, if it is due by `limit`.
    fn next_by(&mut self, limit: Timestamp) -> bool {
        let when = self.pending.iter().map(|pending| self.when(pending));
        let first = when.enumerate().min_by_key(|(_, when)| *when);
        let Some((at, when)) = first.filter(|&(_, when)| when <= limit && when < NEVER) else {
            return false;
        };
        let pending = self.pending.swap_remove(at);
        self.now = self.now.max(when);
        self.happen(pending);
        true
    }

    /// When it happens, as things are.
    fn when(&self, pending: &Pending) -> Timestamp {
        if !pending.is_disk() || self.off {
            return pending.due;
        }
        let stalled_until = self.files[pending.file.0 as usize].stalled_until;
        let held_until = if pending.mishap.held { NEVER } else { Timestamp::ZERO };
        pending.due.max(stalled_until).max(self.stalled_until).max(held_until)
    }

    fn happen(&mut self, mut pending: Pending) {
        let is_step = !matches!(pending.act, Act::Timer | Act::Fail(_) | Act::Tell { .. });
        let (result, bytes) = match std::mem::replace(&mut pending.act, Act::Timer) {
            Act::Timer => (Err(Errno::TIME), Vec::new()),
            _ if self.off => (Err(Errno::IO), Vec::new()),
            Act::Tell { result, bytes } => (result, bytes),
            act => self.finish(&pending, &act),
        };
        let late = std::mem::take(&mut pending.mishap.late);
        if late.is_zero() || self.off {
            self.tell(&pending, result, bytes);
        } else {
            self.note(Happened::Done { op: pending.number });
            pending.act = Act::Tell { result, bytes };
            pending.due = self.now + late;
            self.pending.push(pending);
        }
        if is_step {
            self.count_steps(1);
        }
    }

    /// Completes an op.
    fn tell(&mut self, pending: &Pending, result: Result<u32, Errno>, bytes: Vec<u8>) {
        let op = pending.number;
        self.note(Happened::Completed { op, result });
        let side = &mut self.queues[pending.queue];
        side.in_flight -= u32::from(pending.is_disk());
        let key = pending.key;
        side.ended.push(Ended { key, result, bytes });
    }

    fn finish(&mut self, pending: &Pending, act: &Act) -> (Result<u32, Errno>, Vec<u8>) {
        let mut bytes = Vec::new();
        let result = match pending.mishap.failure {
            Some(failure) if !matches!(act, Act::Fail(_)) => Err(self.fail(pending.file, act, failure)),
            _ => self.execute(pending.file, act, &mut bytes),
        };
        (result, bytes)
    }

    /// Does what an op has done that fails.
    fn fail(&mut self, file: SimFile, act: &Act, failure: Failure) -> Errno {
        let Self { files, rng, .. } = self;
        let file = &mut files[file.0 as usize];
        match act {
            Act::Write { offset, bytes, .. } if failure.partly => file.write_partly(*offset, bytes, rng),
            Act::Flush { covered } if !failure.is_refusal() => drop(file.flush(*covered, true, rng)),
            _ => {}
        }
        failure.errno
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
            Act::Flush { covered } => file.flush(*covered, file.fail_flushes, rng).map(|()| 0)?,
            Act::Zero { .. } if file.no_holes => return Err(Errno::OPNOTSUPP),
            Act::Zero { offset, len } => {
                file.zero(*offset, *len);
                0
            }
            Act::Fail(errno) => return Err(*errno),
            Act::Timer | Act::Tell { .. } => unreachable!("it needs no file"),
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

/// How much of a transfer of `len` is done in one go.
fn shortened(len: usize, config: &SimConfig, rng: &mut Rng) -> usize {
    if len > 512 && one_in(rng, config.short_every) {
        rng.usize(1..len.div_ceil(512)) * 512
    } else {
        len
    }
}
