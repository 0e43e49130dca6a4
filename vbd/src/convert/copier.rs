//! The machine that copies: lanes that read a chunk each and write what of it is not zeros, all on one queue of ops.
//!
//! ```text
//!  Work ─► idle lane ─► reading ─► writing a run ─► writing the next ─► idle
//!                └────► zeroing ─────────────────────────────────────────┘
//! ```
//!
//! # Contract
//! Everything before [`position`](Copier::position) is written. Every [`CHECKPOINT_BYTES`] the target is flushed, if the caller
//! keeps checkpoints, and the caller is told a position before which everything is durable; copying goes on meanwhile.

use std::ops::Range;

use iomgr_core::{Data, Device, Done, Errno, Lease, Operation, SECTOR_BYTES, Sector, SectorCount, SectorRange, Tag};

use super::Copied;
use super::work::{Piece, Work};
use crate::disk::Disk;
use crate::error::Error;
use crate::pair::{Fault, LANES, Pair, Side};
use crate::progress::{Phase, Progress, interrupted};
use crate::zeros::next_run;

/// How far the copy goes between two flushes of a target that is to be resumed.
const CHECKPOINT_BYTES: u64 = 64 << 20;
/// The tag of flushes, behind those of the lanes.
const FLUSH: Tag = Tag(LANES);

/// Is told the byte before which everything is durable.
pub(crate) type Keep<'a> = &'a mut dyn FnMut(u64) -> Result<(), Error>;

/// See the module.
pub(crate) struct Copier<'a> {
    disks: [&'a Disk; 2],
    pair: Pair,
    work: Work,
    lanes: Box<[Lane]>,
    /// Is everything to be written, zeros too?
    zeros_too: bool,
    keep: Option<Keep<'a>>,
    /// The last position that was kept, and the one that a flush is under way for.
    kept: u64,
    flushing: Option<u64>,
    /// The first sector of what was begun and failed.
    lost: Option<u64>,
    fault: Option<Error>,
    copied: Copied,
}

/// One piece on its way.
#[derive(Debug)]
struct Lane {
    lease: Lease,
    range: SectorRange,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Reading,
    /// A run is being written; bytes up to this one are dealt with.
    Writing(usize),
    Zeroing,
}

impl<'a> Copier<'a> {
    /// `keep` makes it flush as it goes.
    pub(crate) fn new(
        disks: [&'a Disk; 2],
        work: Work,
        zeros_too: bool,
        keep: Option<Keep<'a>>,
    ) -> Result<Self, Error> {
        let mut pair = Pair::open([disks[0], disks[1]], LANES + 1)?;
        let mut lane = || -> Result<Lane, Error> {
            Ok(Lane {
                lease: pair.lease()?,
                range: SectorRange::default(),
                state: State::Idle,
            })
        };
        let lanes = (0..LANES).map(|_| lane()).collect::<Result<_, _>>()?;
        let start = work.position();
        let copied = Copied {
            size_bytes: disks[0].limits().size.0 * SECTOR_BYTES,
            resumed_at_bytes: start * SECTOR_BYTES,
            means: work.means(),
            ..Copied::default()
        };
        Ok(Self {
            disks,
            pair,
            work,
            lanes,
            zeros_too,
            keep,
            kept: start,
            flushing: None,
            lost: None,
            fault: None,
            copied,
        })
    }

    /// Copies all there is, and flushes the target. After an error, what was copied so far is flushed and kept, if anything is.
    pub(crate) fn run(mut self, progress: &mut dyn FnMut(Progress) -> bool) -> Result<Copied, Error> {
        loop {
            self.fill_lanes();
            if !progress(self.progress()) {
                self.fault.get_or_insert_with(interrupted);
            }
            if !self.is_idle() {
                self.wait()?;
            } else if self.work.is_done() || self.fault.is_some() {
                break;
            }
            self.begin_checkpoint();
        }
        if self.fault.is_none() || self.keep.is_some() {
            self.flush_all()?;
        }
        match self.fault {
            None => Ok(self.copied),
            Some(fault) => Err(fault),
        }
    }

    fn is_idle(&self) -> bool {
        self.flushing.is_none() && self.lanes.iter().all(|lane| lane.state == State::Idle)
    }

    /// The sector before which everything is written.
    fn position(&self) -> u64 {
        let busy = self.lanes.iter().filter(|lane| lane.state != State::Idle);
        let first = busy.map(|lane| lane.range.start().0).chain(self.lost).min();
        first.unwrap_or(self.work.position())
    }

    fn progress(&self) -> Progress {
        Progress {
            phase: Phase::Copy,
            done_bytes: (self.position() * SECTOR_BYTES).min(self.copied.size_bytes),
            size_bytes: self.copied.size_bytes,
        }
    }

    fn fill_lanes(&mut self) {
        while self.fault.is_none()
            && let Some(index) = self.lanes.iter().position(|lane| lane.state == State::Idle)
        {
            match self.work.next() {
                Ok(Some(Piece::Copy(range))) => self.read(index, range),
                Ok(Some(Piece::Zero(range))) => self.zero(index, range),
                // Nothing is waited for: it is time to look whether to go on.
                Ok(Some(Piece::Offloaded(range))) => {
                    self.copied.offloaded_bytes += range.len_bytes();
                    return;
                }
                Ok(None) => return,
                Err(error) => self.fault = Some(error.at(&self.disks[0].info().path)),
            }
        }
    }

    fn read(&mut self, index: usize, range: SectorRange) {
        let lane = &mut self.lanes[index];
        (lane.range, lane.state) = (range, State::Reading);
        let data = lane.data(0..lane.len());
        self.pair.submit(Side::First, tag(index), Operation::Read, range, data);
    }

    fn zero(&mut self, index: usize, range: SectorRange) {
        let lane = &mut self.lanes[index];
        (lane.range, lane.state) = (range, State::Zeroing);
        let op = Operation::WriteZeroes;
        self.pair.submit(Side::Second, tag(index), op, range, Data::NONE);
    }

    /// Waits for something, and lets everything go on that has ended.
    fn wait(&mut self) -> Result<(), Error> {
        self.pair.wait().map_err(Fault::queue)?;
        while let Some((side, done)) = self.pair.next_done() {
            if done.tag == FLUSH {
                self.flush_done(done.result);
            } else {
                self.lane_done(side, done);
            }
        }
        Ok(())
    }

    fn lane_done(&mut self, side: Side, done: Done) {
        let index = done.tag.0 as usize;
        let lane = &mut self.lanes[index];
        if let Err(errno) = done.result {
            lane.state = State::Idle;
            let start = lane.range.start().0;
            self.lost = Some(self.lost.map_or(start, |lost| lost.min(start)));
            return self.fail(side, errno, index);
        }
        let dealt_with = match lane.state {
            State::Reading => 0,
            State::Writing(end) => end,
            State::Zeroing | State::Idle => lane.len(),
        };
        match self.run_from(index, dealt_with) {
            Some(run) => self.write(index, run),
            None => self.lanes[index].state = State::Idle,
        }
    }

    /// What of a lane's bytes is to be written next.
    fn run_from(&self, index: usize, from: usize) -> Option<Range<usize>> {
        let lane = &self.lanes[index];
        if from >= lane.len() {
            return None;
        }
        if self.zeros_too {
            return Some(from..lane.len());
        }
        next_run(self.pair.bytes(lane.data(0..lane.len())), from)
    }

    fn write(&mut self, index: usize, run: Range<usize>) {
        let lane = &mut self.lanes[index];
        lane.state = State::Writing(run.end);
        let (start, count) = (run.start as u64 / SECTOR_BYTES, run.len() as u64 / SECTOR_BYTES);
        let range = SectorRange::new(Sector(lane.range.start().0 + start), SectorCount(count));
        self.copied.written_bytes += run.len() as u64;
        let (range, data) = (range.expect("it lies on the lane"), lane.data(run));
        self.pair
            .submit(Side::Second, tag(index), Operation::Write, range, data);
    }

    /// Notes the first error: nothing new is begun, what is under way ends.
    fn fail(&mut self, side: Side, errno: Errno, index: usize) {
        let range = self.lanes[index].range;
        let error = match side {
            Side::First => Fault::read(errno, range),
            Side::Second => Fault::write(errno, range),
        };
        let path = &self.disks[side as usize].info().path;
        self.fault.get_or_insert_with(|| error.at(path));
    }

    /// Flushes for a checkpoint, if they are kept, none is under way, and the copy has gone on far enough.
    fn begin_checkpoint(&mut self) {
        let position = self.position();
        let due = position >= self.kept + CHECKPOINT_BYTES / SECTOR_BYTES;
        if self.keep.is_some() && self.flushing.is_none() && due && self.fault.is_none() {
            self.flush(position);
        }
    }

    fn flush(&mut self, position: u64) {
        self.flushing = Some(position);
        let nothing = SectorRange::default();
        self.pair
            .submit(Side::Second, FLUSH, Operation::Flush, nothing, Data::NONE);
    }

    fn flush_done(&mut self, result: Result<(), Errno>) {
        let position = self.flushing.take().expect("a flush was under way");
        let kept = match (result, &mut self.keep) {
            (Err(errno), _) => Err(Fault::flush(errno).at(&self.disks[1].info().path)),
            (Ok(()), Some(keep)) => keep(position * SECTOR_BYTES),
            (Ok(()), None) => Ok(()),
        };
        match kept {
            Ok(()) => self.kept = position,
            Err(error) => {
                self.fault.get_or_insert(error);
            }
        }
    }

    /// The last flush.
    fn flush_all(&mut self) -> Result<(), Error> {
        self.flush(self.position());
        while self.flushing.is_some() {
            self.wait()?;
        }
        Ok(())
    }
}

impl Lane {
    fn len(&self) -> usize {
        usize::try_from(self.range.len_bytes()).expect("a chunk's length, or that of zeros")
    }

    fn data(&self, part: Range<usize>) -> Data {
        let bytes = |at: usize| u32::try_from(at).expect("inside a chunk");
        self.lease.data().slice(bytes(part.start), bytes(part.len()))
    }
}

fn tag(index: usize) -> Tag {
    Tag(u32::try_from(index).expect("lanes are few"))
}
