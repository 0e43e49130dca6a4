//! Making an allocated, partly written block full: what its bitmap calls zeros becomes zeros on the disk.
//!
//! ```text
//!  read bitmap ──► zero each clear run ──► flush ──► write a bitmap of ones ──► publish
//! ```
//! The flush in between is what a power cut needs: a durable bitmap of ones over data that are still somebody's old
//! bytes would change sectors that nobody wrote.

use iomgr_core::SECTOR_BYTES;

use super::flush::Flushes;
use super::step::{Job, StepAction};
use crate::bitmap::{self, Run};
use crate::map::{BitmapRef, Map};

/// How many blocks are filled at the same time.
const FILLS_MAX: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Free,
    Read,
    Zero { from: u64 },
    Durable { need: u64 },
    Write,
}

#[derive(Debug)]
struct Fill {
    of: BitmapRef,
    stage: Stage,
    /// A step of this stage is under way.
    busy: bool,
    bits: Box<[u8]>,
}

/// The fills under way.
#[derive(Debug)]
pub(super) struct Fills {
    fills: Box<[Fill]>,
}

impl Fills {
    pub(super) fn new(map: &Map) -> Self {
        let len = map.shape().bitmap_bytes();
        let fill = || Fill {
            of: map.bitmap_of(0),
            stage: Stage::Free,
            busy: false,
            bits: vec![0; len].into(),
        };
        Self {
            fills: (0..FILLS_MAX).map(|_| fill()).collect(),
        }
    }

    /// Begins to fill a block; false if too many are under way.
    pub(super) fn begin(&mut self, of: BitmapRef) -> bool {
        let Some(fill) = self.fills.iter_mut().find(|fill| fill.stage == Stage::Free) else {
            return false;
        };
        (fill.of, fill.stage, fill.busy) = (of, Stage::Read, false);
        true
    }

    /// The next step that any fill can take.
    pub(super) fn next_step(&mut self, map: &Map, flushes: &Flushes) -> Option<(Job, StepAction)> {
        (0..self.fills.len()).find_map(|at| {
            let action = self.fills[at].next_action(map, flushes)?;
            self.fills[at].busy = true;
            let job = match action {
                StepAction::Read { .. } => Job::FillRead { fill: at },
                StepAction::Zero { .. } => Job::FillZero { fill: at },
                _ => Job::FillWrite { fill: at },
            };
            Some((job, action))
        })
    }

    /// The earliest flush that a fill waits for.
    pub(super) fn waits_for_flush(&self, flushes: &Flushes) -> Option<u64> {
        let need = |fill: &Fill| match fill.stage {
            Stage::Durable { need } if !flushes.is_durable(need) => Some(need),
            _ => None,
        };
        self.fills.iter().filter_map(need).min()
    }

    pub(super) fn take_bitmap(&mut self, at: usize, bytes: &[u8]) {
        self.fills[at].bits.copy_from_slice(bytes);
    }

    /// A step of fill `at` succeeded. The block, if that was the last one.
    pub(super) fn advance(&mut self, at: usize, map: &Map, flushes: &Flushes) -> Option<u64> {
        let fill = &mut self.fills[at];
        fill.busy = false;
        fill.stage = match fill.stage {
            Stage::Read => fill.zero_from(0, map, flushes),
            Stage::Zero { from } => {
                let zeroed = fill.run_from(from, map).count;
                fill.zero_from(from + zeroed, map, flushes)
            }
            Stage::Write => Stage::Free,
            stage @ (Stage::Free | Stage::Durable { .. }) => stage,
        };
        (fill.stage == Stage::Free).then_some(fill.of.block)
    }

    /// Gives fill `at` up; the block that it was for.
    pub(super) fn abandon(&mut self, at: usize) -> u64 {
        self.fills[at].stage = Stage::Free;
        self.fills[at].of.block
    }

    pub(super) fn abandon_all(&mut self) {
        for fill in &mut self.fills {
            fill.stage = Stage::Free;
        }
    }
}

impl Fill {
    fn next_action(&mut self, map: &Map, flushes: &Flushes) -> Option<StepAction> {
        if self.busy {
            return None;
        }
        if let Stage::Durable { need } = self.stage
            && flushes.is_durable(need)
        {
            self.stage = Stage::Write;
        }
        let BitmapRef { offset, len, .. } = self.of;
        match self.stage {
            Stage::Free | Stage::Durable { .. } => None,
            Stage::Read => Some(StepAction::Read { offset, len }),
            Stage::Zero { from } => {
                let data_at = offset + len as u64 + from * SECTOR_BYTES;
                let bytes = self.run_from(from, map).count * SECTOR_BYTES;
                Some(StepAction::Zero {
                    offset: data_at,
                    len: bytes,
                    unmap: false,
                })
            }
            Stage::Write => Some(StepAction::Write { offset, len }),
        }
    }

    fn run_from(&self, from: u64, map: &Map) -> Run {
        bitmap::run_at(&self.bits, from, map.shape().sectors_in(self.of.block))
    }

    /// The stage with the first clear run at or behind sector `from`; what follows if there is none.
    fn zero_from(&self, from: u64, map: &Map, flushes: &Flushes) -> Stage {
        let end = map.shape().sectors_in(self.of.block);
        let skip = if from < end {
            self.run_from(from, map)
        } else {
            Run { set: false, count: 0 }
        };
        let at = if skip.set { from + skip.count } else { from };
        match at < end {
            true => Stage::Zero { from: at },
            false if from == 0 => Stage::Free, // every bit was set already: nothing to do
            false => Stage::Durable { need: flushes.need() },
        }
    }
}
