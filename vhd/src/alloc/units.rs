//! The BAT's units: what is queued for one is written together, one write at a time, and published after it.

use iomgr_core::Errno;

use super::step::{Job, StepAction};
use super::task::{Stage, Task};
use super::{Allocator, SUSPECTS_MAX};
use crate::map::Slot;

impl Allocator {
    /// The write of a unit that has changes and none under way. All its changes go with it.
    pub(super) fn unit_action(&mut self) -> Option<(Job, StepAction)> {
        let (units, steps) = (self.units, &self.steps);
        let free = |unit: u64| !steps.any(|job| job == Job::Bat { unit });
        let queued = |task: &&Task| matches!(task.stage, Stage::BatQueued(_)) && free(units.of(task.block));
        let unit = units.of(self.tasks.iter().find(queued)?.block);
        for task in self.tasks.iter_mut().filter(|task| units.of(task.block) == unit) {
            if let Stage::BatQueued(slot) = task.stage {
                task.stage = Stage::BatWriting(slot);
            }
        }
        Some((
            Job::Bat { unit },
            StepAction::Write {
                offset: units.offset(unit),
                len: units.len(unit),
            },
        ))
    }

    /// The unit's bytes: what is published, changed by what this write is for.
    pub(super) fn fill_unit(&self, unit: u64, bytes: &mut [u8]) {
        self.published_unit(unit, bytes);
        let first = self.units.first_block(unit);
        for task in self.tasks.iter().filter(|task| self.units.of(task.block) == unit) {
            if let Stage::BatWriting(slot) = task.stage {
                let at = usize::try_from(task.block - first).expect("within a unit") * 4;
                bytes[at..at + 4].copy_from_slice(&slot.entry().to_be_bytes());
            }
        }
    }

    pub(super) fn published_unit(&self, unit: u64, bytes: &mut [u8]) {
        let first = self.units.first_block(unit);
        let used = (self.frame.shape.blocks() - first).min(bytes.len() as u64 / 4);
        let (entries, tail) = bytes.split_at_mut(usize::try_from(used * 4).expect("within a unit"));
        for (block, entry) in (first..).zip(entries.chunks_exact_mut(4)) {
            entry.copy_from_slice(&self.map.slot(block).entry().to_be_bytes());
        }
        tail.copy_from_slice(&self.table_tail[..tail.len()]);
    }

    pub(super) fn unit_done(&mut self, unit: u64, result: Result<(), Errno>) {
        let units = self.units;
        match result {
            Ok(()) => self.suspects.retain(|&suspect| suspect != unit),
            Err(_) => self.suspect(unit),
        }
        let written = |task: &Task| units.of(task.block) == unit && matches!(task.stage, Stage::BatWriting(_));
        while let Some(at) = self.tasks.position(written) {
            let Task {
                block,
                stage: Stage::BatWriting(slot),
                ..
            } = *self.tasks.task(at)
            else {
                unreachable!()
            };
            self.entry_done(block, slot, result);
            match (slot, result) {
                (Slot::Partial(_), Ok(())) => self.tasks.task(at).stage = Stage::New, // to be filled next
                _ => self.tasks.end(at, result),
            }
        }
    }

    /// Publishes what was written. After a failed write nobody knows what the disk holds: a new slot is not used, and
    /// an old one is not written to in place, for data flushed into it could be lost with its entry.
    fn entry_done(&mut self, block: u64, slot: Slot, result: Result<(), Errno>) {
        self.map.count_meta_write();
        let old = self.map.slot(block);
        match (slot, result) {
            (Slot::Unallocated, Ok(())) => {
                self.map.publish(block, slot);
                let epoch = self.fence.advance();
                self.limbo.push(old.entry(), self.flushes.need(), epoch);
            }
            (_, Ok(())) => self.map.publish(block, slot),
            (Slot::Unallocated, Err(_)) => {
                let full = matches!(old, Slot::Full(_) | Slot::Held { full: true, .. });
                self.map.publish(
                    block,
                    Slot::Held {
                        entry: old.entry(),
                        full,
                    },
                );
            }
            (_, Err(_)) => {}
        }
    }

    fn suspect(&mut self, unit: u64) {
        if self.suspects.contains(&unit) {
            return;
        }
        if self.suspects.len() == SUSPECTS_MAX {
            self.suspects_lost = true;
        } else {
            self.suspects.push(unit);
        }
    }
}
