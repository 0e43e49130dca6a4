//! The io_uring engine: puts calls into the submission ring, takes results from the completion ring.
//!
//! ```text
//!  issue ─► SQ ─┐                            ┌─► CQ ─► next_outcome
//!               └─ io_uring_enter ─► kernel ─┘
//! ```
//!
//! A send that is to go through at once is issued *quietly*: `MSG_DONTWAIT | MSG_WAITALL` with `CQE_SKIP_SUCCESS`. Such a
//! send ends inside the enter that submits it, and leaves an entry only if it did not send everything. So once the kernel
//! has consumed it and the completion ring is empty, it went through. That is what lets a frontend send its replies and
//! wait for the next requests in one enter, without waiting for completions that might not come.
//!
//! # Contract
//! - A call is either refused or yields one outcome.
//! - The completion ring has room for every call and every cancel, so it never overflows.
#![allow(
    unsafe_code,
    reason = "submission entries carry addresses that the kernel will follow; they are made here, and only here"
)]

use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use io_uring::types::{Fd, FsyncFlags, SubmitArgs, TimeoutFlags, Timespec};
use io_uring::{IoUring, opcode, squeue};
use iomgr_core::Timestamp;
use rustix::io::Errno;

use crate::buf::Arena;
use crate::config::{Config, Features};
use crate::counters::Counters;
use crate::engine::{ALL_SENT, Call, Issued, Outcome, Surroundings, UNBEGUN, Wait};
use crate::files::{File, FileIndex, Files};
use crate::inflight::{Attempt, Key};
use crate::raw::{Place, RawCommand};
use crate::run::Run;
use crate::{Error, setup};

mod header;
mod plain;
mod registered;
mod vectors;

use header::Header;
use registered::make_table;
use vectors::Vector;
pub(crate) use vectors::Vectors;

/// In the `user_data` of a cancel, besides the key that it is about: no slab is that large.
const CANCEL: u64 = 1 << 31;
/// `user_data` of the alarm.
const ALARM: u64 = u64::MAX;
/// A ring, and the memory that its entries point to besides the arena.
pub(crate) struct Ring {
    uring: ManuallyDrop<IoUring>,
    features: Features,
    /// When each timer fires, by the index of its op.
    times: Box<[Timespec]>,
    /// What each send of several parts gathers, by its slot.
    headers: Box<[Header]>,
    /// What each merged op reads to or writes from.
    vectors: Vectors,
    /// Places in the table of registered buffers that nothing was put into.
    places: Range<u16>,
    /// Quiet sends in order of submission: position in the submission ring, and which.
    quiet: VecDeque<(u32, Key)>,
    /// Results of plain calls.
    ready: VecDeque<Outcome>,
    /// Entries put into the submission ring so far, modulo 2^32.
    position: u32,
    /// For so many more there is room in it, and maybe for others that the kernel has consumed since this was looked up.
    room: u32,
    /// When the alarm goes off.
    alarm: Box<Timespec>,
    alarm_is_set: bool,
    leaked: bool,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring")
            .field("features", &self.features)
            .finish_non_exhaustive()
    }
}

/// The file of an entry: its place in the ring's table, or its descriptor.
#[derive(Clone, Copy)]
struct Target {
    fd: Fd,
    /// Says which of the two.
    flags: squeue::Flags,
}

impl Target {
    #[inline]
    fn of(known: Option<(FileIndex, &File)>) -> Self {
        let (fd, flags) = match known {
            Some((index, file)) if file.registered => (index.0.cast_signed(), squeue::Flags::FIXED_FILE),
            Some((_, file)) => (file.raw_fd(), squeue::Flags::empty()),
            None => (-1, squeue::Flags::empty()),
        };
        Self { fd: Fd(fd), flags }
    }
}

impl Ring {
    /// Sets a ring up, with what the kernel has of the features that are not masked. What it lacks is added to `notes`.
    pub(crate) fn new(config: &Config, arena: &Arena, notes: &mut Vec<String>) -> Result<Self, Error> {
        let (uring, mut features) = setup::ring(config)?;
        let mut places = None;
        if config.driver_buffers > 0 {
            setup::driver_buffers(&uring, config.driver_buffers)?;
        } else if !config.mask.contains(Features::REGISTERED_BUFFERS) {
            places = make_table(&uring, config, arena, notes);
            features.set(Features::REGISTERED_BUFFERS, places.is_some());
        }
        setup::workers(&uring, config.workers, notes);
        if !config.mask.contains(Features::REGISTERED_FILES) && setup::file_table(&uring, config.files, notes) {
            features |= Features::REGISTERED_FILES;
        }
        if features.contains(Features::REGISTERED_BUFFERS) && setup::has_registered_vectors(&uring) {
            features |= Features::REGISTERED_VECTORS.difference(config.mask);
        }
        features |= Features::PLAIN_MEMORY_FILES.difference(config.mask);
        let ops = config.max_ops + config.net_ops;
        Ok(Self {
            uring: ManuallyDrop::new(uring),
            features,
            times: vec![Timespec::new(); ops as usize].into(),
            headers: (0..config.sends).map(|_| Header::new()).collect(),
            vectors: Vectors::new(config.max_ops + config.plan.max_segments, config.plan.max_segments),
            places: places.unwrap_or_default(),
            quiet: VecDeque::with_capacity(config.net_ops as usize),
            ready: VecDeque::with_capacity(config.size as usize),
            position: 0,
            room: 0,
            alarm: Box::new(Timespec::new()),
            alarm_is_set: false,
            leaked: false,
        })
    }

    /// What is in use.
    pub(crate) fn features(&self) -> Features {
        self.features
    }

    pub(crate) fn issue(&mut self, key: Key, file: Option<FileIndex>, call: Call, on: &mut Surroundings<'_>) -> Issued {
        let known = file.map(|index| (index, &on.files[index]));
        if let Some((_, file)) = known
            && file.plain
            && let Some(result) = self.plain_call(file.raw_fd(), call, on)
        {
            self.ready.push_back(Outcome { key, result });
            on.counters.plain_calls += 1;
            return Issued::Taken;
        }
        if !self.make_room() || !self.make_vector_room(call, on.runs.len()) {
            return Issued::NoRoom;
        }
        let target = Target::of(known);
        let quiet = self.is_quiet(call);
        let entry = self.entry(key, target.fd, call, on).user_data(key.to_bits());
        self.put(entry.flags(match quiet {
            true => target.flags | squeue::Flags::SKIP_SUCCESS,
            false => target.flags,
        }));
        on.counters.sqes += 1;
        if quiet {
            self.quiet.push_back((self.position.wrapping_sub(1), key));
            return Issued::Quiet;
        }
        Issued::Taken
    }

    #[inline]
    pub(crate) fn command(&mut self, key: Key, place: &Place, command: RawCommand, files: &Files) -> bool {
        let room = self.make_room();
        if room {
            let RawCommand { op, payload } = command;
            let target = Target::of(Some((place.file, &files[place.file])));
            let entry = opcode::UringCmd16::new(target.fd, op)
                .cmd(payload)
                .addr(Some(place.address))
                .build();
            self.put(entry.flags(target.flags).user_data(key.to_bits()));
        }
        room
    }

    pub(crate) fn cancel(&mut self, key: Key) -> bool {
        let room = self.make_room();
        if room {
            let bits = key.to_bits();
            self.put(opcode::AsyncCancel::new(bits).build().user_data(bits | CANCEL));
        }
        room
    }

    /// Posts an entry at `at`, unless one is to be posted anyway: that one will do.
    pub(crate) fn set_alarm(&mut self, at: Timestamp) {
        // Plain calls have results already, so nothing sleeps.
        if self.alarm_is_set || !self.ready.is_empty() || !self.make_room() {
            return;
        }
        *self.alarm = timespec(at.since(Timestamp::ZERO));
        let entry = opcode::Timeout::new(&raw const *self.alarm).flags(TimeoutFlags::ABS);
        self.put(entry.build().user_data(ALARM));
        self.alarm_is_set = true;
    }

    pub(crate) fn enter(&mut self, wait: Wait, on: &mut Surroundings<'_>) -> Result<(), Error> {
        let (submitter, submission, completion) = self.uring.split();
        let idle = submission.is_empty() && !submission.taskrun() && !submission.cq_overflow();
        let ready = !completion.is_empty() || !self.ready.is_empty();
        drop((submission, completion));
        if idle && (ready || wait == Wait::No) {
            return Ok(());
        }
        on.counters.enters += 1;
        let entered = match wait {
            Wait::No => submitter.submit(),
            _ if ready => submitter.submit(),
            Wait::Forever => submitter.submit_and_wait(1),
            Wait::AtMost(time) => submitter.submit_with_args(1, &SubmitArgs::new().timespec(&timespec(time))),
        };
        match entered {
            Ok(_) => Ok(()),
            Err(error) => may_go_on(&error),
        }
    }

    pub(crate) fn next_outcome(&mut self, counters: &mut Counters) -> Option<Outcome> {
        // Before the completions: what is consumed by now has left its completion, if any, in the ring by now.
        let consumed = self.consumed();
        while let Some(entry) = self.uring.completion().next() {
            counters.cqes += 1;
            let (bits, result) = (entry.user_data(), entry.result());
            let is_cancel = bits & CANCEL != 0;
            if bits == ALARM {
                self.alarm_is_set = false;
            } else if !is_cancel || result == 0 {
                return Some(Outcome {
                    key: Key::from_bits(bits & !CANCEL),
                    result: if is_cancel { UNBEGUN } else { result },
                });
            }
        }
        self.ready.pop_front().or_else(|| self.next_sent(consumed?))
    }

    /// The next quiet send that the kernel has consumed, and that left no completion.
    fn next_sent(&mut self, consumed: u32) -> Option<Outcome> {
        let is_consumed = |&mut (position, _): &mut (u32, Key)| position.wrapping_sub(consumed) >= u32::MAX / 2;
        let (_, key) = self.quiet.pop_front_if(is_consumed)?;
        Some(Outcome { key, result: ALL_SENT })
    }

    /// Up to which position the kernel has consumed entries; only quiet sends ask.
    fn consumed(&mut self) -> Option<u32> {
        if self.quiet.is_empty() {
            return None;
        }
        let unconsumed = u32::try_from(self.uring.submission().len()).expect("a ring is small");
        Some(self.position.wrapping_sub(unconsumed))
    }

    /// Puts a descriptor into the table of registered files, or -1 for none.
    pub(crate) fn register_file(&mut self, index: FileIndex, fd: RawFd) -> bool {
        self.features.contains(Features::REGISTERED_FILES)
            && self.uring.submitter().register_files_update(index.0, &[fd]).is_ok()
    }

    /// The ring's descriptor: readable when there are entries to be reaped, or work to be done for some.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the ring, which outlives the borrow.
        unsafe { BorrowedFd::borrow_raw(self.uring.as_raw_fd()) }
    }

    /// From now on dropping the ring does nothing: the kernel may be at work on it.
    pub(crate) fn leak(&mut self) {
        self.leaked = true;
    }

    fn is_quiet(&self, call: Call) -> bool {
        let at_once = matches!(
            call,
            Call::Send {
                attempt: Attempt::NoWait,
                ..
            } | Call::SendMany {
                attempt: Attempt::NoWait,
                ..
            }
        );
        at_once && self.features.contains(Features::QUIET_SENDS)
    }

    /// Is there room for an entry? A full ring is submitted first.
    #[inline]
    fn make_room(&mut self) -> bool {
        if self.room == 0 {
            self.find_room();
        }
        self.room > 0
    }

    #[cold]
    fn find_room(&mut self) {
        if self.uring.submission().is_full() {
            // Whatever goes wrong here shows as a ring that is still full, and again at the next enter.
            let _ = self.uring.submit();
        }
        let submission = self.uring.submission();
        self.room = u32::try_from(submission.capacity() - submission.len()).expect("a ring is small");
    }

    /// Is there room for a merged op's vector? The kernel needs none of those whose entries it has consumed.
    fn make_vector_room(&mut self, call: Call, count: usize) -> bool {
        if !matches!(call, Call::ReadMany { .. } | Call::WriteMany { .. }) {
            return true;
        }
        if !self.vectors.has_room(count) {
            // As for `make_room`.
            let _ = self.uring.submit();
        }
        if self.uring.submission().is_empty() {
            self.vectors.clear();
        }
        self.vectors.has_room(count)
    }

    fn put(&mut self, entry: squeue::Entry) {
        // SAFETY: every address in an entry points into the arena at a run that its op holds until the result is reaped; or
        // into `times`, `headers` or `alarm`, which live as long as the ring and change only when their op is issued anew; or
        // into `vectors`, which live as long and change only when the kernel has consumed the entry. An address in a driver's
        // buffer is an offset that the kernel holds against that buffer, which is no memory of ours.
        unsafe { self.uring.submission().push(&entry) }.expect("room was made");
        self.position = self.position.wrapping_add(1);
        self.room -= 1;
    }

    #[inline]
    fn entry(&mut self, key: Key, fd: Fd, call: Call, on: &Surroundings<'_>) -> squeue::Entry {
        match call {
            Call::Read { offset, run } => self.read(fd, offset, run, on.arena),
            Call::Write { offset, run, durable } => self.write(fd, offset, run, durable, on.arena),
            _ => self.other_entry(key, fd, call, on),
        }
    }

    #[inline(never)]
    fn other_entry(&mut self, key: Key, fd: Fd, call: Call, on: &Surroundings<'_>) -> squeue::Entry {
        match call {
            Call::Read { .. } | Call::Write { .. } => unreachable!("they are made by themselves"),
            Call::ReadMany { offset } => self.read_many(fd, offset, on),
            Call::WriteMany { offset, durable } => self.write_many(fd, offset, durable, on),
            Call::Sync => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
            Call::Punch { offset, len } => allocate(fd, offset, len, libc::FALLOC_FL_PUNCH_HOLE),
            Call::ZeroRange { offset, len } => allocate(fd, offset, len, libc::FALLOC_FL_ZERO_RANGE),
            // A kernel that cannot do it answers with an error, which is none for a hint.
            Call::WillNeed { offset, len } => opcode::Fadvise::new(fd, len.into(), libc::POSIX_FADV_WILLNEED)
                .offset(offset)
                .build(),
            Call::Recv { run } => opcode::Recv::new(fd, on.arena.address(run), run.len()).build(),
            Call::Send { run, attempt } => {
                let (address, flags) = (on.arena.address(run), self.send_flags(attempt));
                opcode::Send::new(fd, address, run.len()).flags(flags).build()
            }
            Call::SendMany { slot, skip, attempt } => {
                let flags = self.send_flags(attempt);
                let message = self.headers[slot as usize].fill(on.sends.left(slot, skip), on.arena);
                opcode::SendMsg::new(fd, message).flags(flags as u32).build()
            }
            Call::Poll { interest } => opcode::PollAdd::new(fd, u32::from(interest.bits())).build(),
            Call::Timer { at } => {
                let time = &mut self.times[key.index as usize];
                *time = timespec(at.since(Timestamp::ZERO));
                opcode::Timeout::new(time).flags(TimeoutFlags::ABS).build()
            }
        }
    }

    #[inline]
    fn read(&self, fd: Fd, offset: u64, run: Run, arena: &Arena) -> squeue::Entry {
        let (address, len) = (place(run, arena), run.len());
        if let Some(index) = self.registered(run, arena) {
            return opcode::ReadFixed::new(fd, address, len, index).offset(offset).build();
        }
        opcode::Read::new(fd, address, len).offset(offset).build()
    }

    #[inline]
    fn write(&self, fd: Fd, offset: u64, run: Run, durable: bool, arena: &Arena) -> squeue::Entry {
        let (address, len) = (place(run, arena), run.len());
        let flags = if durable { libc::RWF_DSYNC } else { 0 };
        if let Some(index) = self.registered(run, arena) {
            return opcode::WriteFixed::new(fd, address, len, index)
                .offset(offset)
                .rw_flags(flags)
                .build();
        }
        opcode::Write::new(fd, address, len)
            .offset(offset)
            .rw_flags(flags)
            .build()
    }

    fn read_many(&mut self, fd: Fd, offset: u64, on: &Surroundings<'_>) -> squeue::Entry {
        let registered = self.are_registered(on);
        let Vector { parts, count } = self.vectors.keep(on.runs, on.arena);
        if registered {
            return opcode::ReadvFixed::new(fd, parts, count, 0).offset(offset).build();
        }
        opcode::Readv::new(fd, parts, count).offset(offset).build()
    }

    fn write_many(&mut self, fd: Fd, offset: u64, durable: bool, on: &Surroundings<'_>) -> squeue::Entry {
        let flags = if durable { libc::RWF_DSYNC } else { 0 };
        let registered = self.are_registered(on);
        let Vector { parts, count } = self.vectors.keep(on.runs, on.arena);
        if registered {
            return opcode::WritevFixed::new(fd, parts, count, 0)
                .offset(offset)
                .rw_flags(flags)
                .build();
        }
        opcode::Writev::new(fd, parts, count)
            .offset(offset)
            .rw_flags(flags)
            .build()
    }

    fn send_flags(&self, attempt: Attempt) -> i32 {
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let at_once = attempt == Attempt::NoWait && self.features.contains(Features::QUIET_SENDS);
        if at_once { flags | libc::MSG_DONTWAIT } else { flags }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.leaked {
            return;
        }
        // The ring itself ends some time after its descriptor is closed; files must not stay open (and locked) with it.
        let _ = self.uring.submitter().unregister_files();
        // SAFETY: dropped once, here, and never used again. The queue drops the ring only when every op has ended.
        unsafe { ManuallyDrop::drop(&mut self.uring) };
    }
}

/// Where an entry finds a run: in a buffer that a driver has registered, addresses begin at 0.
fn place(run: Run, arena: &Arena) -> *mut u8 {
    match run.driver() {
        Some(_) => std::ptr::without_provenance_mut(usize::try_from(run.start()).expect("requests are short")),
        None => arena.address(run),
    }
}

fn allocate(fd: Fd, offset: u64, len: u64, mode: i32) -> squeue::Entry {
    let mode = mode | libc::FALLOC_FL_KEEP_SIZE;
    opcode::Fallocate::new(fd, len).offset(offset).mode(mode).build()
}

fn timespec(time: Duration) -> Timespec {
    Timespec::new().sec(time.as_secs()).nsec(time.subsec_nanos())
}

/// Sorts out what an enter can fail with: what was not submitted stays in the ring and goes with the next enter.
fn may_go_on(error: &io::Error) -> Result<(), Error> {
    match Errno::from_io_error(error) {
        // A signal; the time is over; no memory for entries just now; completions to be reaped first.
        Some(Errno::INTR | Errno::TIME | Errno::AGAIN | Errno::BUSY) => Ok(()),
        errno => Err(setup::enter_failed(errno.unwrap_or(Errno::IO))),
    }
}
