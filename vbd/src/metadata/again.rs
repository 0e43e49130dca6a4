//! The allocator's part of the [retry policy](crate::retry): steps whose error may pass are done again below it, so that it never
//! hears of them. A failed write of metadata costs it more than time: a slot that the table may or may not name is not used again.
//!
//! Two are its own matter all the same. A flush is not done again. And for want of space it has better means than to wait: freed
//! slots, a smaller batch; the request that finds none is [delayed](crate::queue) itself.

use iomgr_core::{Action, Errno, Pass, Timestamp};
use vhd::StepAction;

use super::{Metadata, Op, Running, step_token};
use crate::retry::Attempts;

/// A step that waits to be done again.
#[derive(Clone, Copy, Debug)]
pub(super) struct DelayedStep {
    due: Timestamp,
    errno: Errno,
}

impl Running {
    fn attempts(&self, index: usize) -> Attempts {
        Attempts {
            since: self.since,
            again: self.again,
            salt: u32::try_from(index).expect("few steps run at once"),
        }
    }

    /// The step in the log.
    fn name(&self) -> &'static str {
        match self.step.action {
            StepAction::Read { .. } => "read of metadata",
            StepAction::Write { .. } => "write of metadata",
            StepAction::Zero { .. } => "zeroing of a block",
            StepAction::Flush => "flush",
        }
    }
}

impl Metadata {
    /// Delays a step that has met `errno`, if that may pass. False: the allocator is to be told.
    pub(super) fn put_off(&mut self, now: Timestamp, index: usize, errno: Errno) -> bool {
        let Self { shared, steps, .. } = self;
        let running = &mut steps[index];
        let attempts = running.attempts(index);
        if matches!(running.action, Action::Flush) || errno == Errno::NOSPC {
            return false;
        }
        let may_go_on = !shared.retries.are_over() && !shared.has_failed();
        let Some(due) = shared.retry.next_try(errno, attempts, now).filter(|_| may_go_on) else {
            if attempts.again > 0 {
                let what = format_args!("{}", running.name());
                shared.retries.give_up(&shared.name, what, errno, attempts, now);
            }
            return false;
        };
        shared
            .retries
            .delay(&shared.name, format_args!("{}", running.name()), errno, now);
        running.delayed = Some(DelayedStep { due, errno });
        self.delayed += 1;
        true
    }

    /// When the first delayed step is due.
    pub(crate) fn wake_at(&self) -> Option<Timestamp> {
        if self.delayed == 0 {
            return None;
        }
        let delayed = self.steps.iter().filter_map(|(_, running)| running.delayed);
        delayed.map(|delayed| delayed.due).min()
    }

    /// Does those steps again that are due; ends all that wait when nothing is tried again any more.
    pub(super) fn retry_delayed(&mut self, pass: &mut Pass<'_>) {
        if self.delayed == 0 {
            return;
        }
        if self.shared.retries.are_over() || self.shared.has_failed() {
            self.end_delayed();
            return;
        }
        while let Some(index) = self.next_due(pass.now) {
            self.redo(pass, index);
        }
    }

    fn next_due(&self, now: Timestamp) -> Option<usize> {
        let is_due = |running: &Running| running.delayed.is_some_and(|delayed| delayed.due <= now);
        let mut steps = self.steps.iter();
        steps.find_map(|(index, running)| is_due(running).then_some(index))
    }

    fn redo(&mut self, pass: &mut Pass<'_>, index: usize) {
        let running = &mut self.steps[index];
        running.delayed = None;
        running.again += 1;
        self.delayed -= 1;
        self.shared.retries.retry();
        let op = Op {
            token: step_token(self.owner, u32::try_from(index).expect("few steps run at once")),
            file: self.file,
            action: self.steps[index].action,
        };
        if pass.io.push(op).is_err() && !self.put_off(pass.now, index, Errno::AGAIN) {
            self.end_step(index, Err(Errno::AGAIN));
        }
    }

    /// Ends all steps that wait, with their errors; says whether there were any.
    pub(crate) fn end_delayed(&mut self) -> bool {
        let next = |this: &Self| {
            let mut steps = this.steps.iter();
            steps.find_map(|(index, running)| Some((index, running.delayed?.errno)))
        };
        let any = self.delayed > 0;
        while let Some((index, errno)) = next(self) {
            self.steps[index].delayed = None;
            self.delayed -= 1;
            self.shared.retries.end_delay();
            self.end_step(index, Err(errno));
        }
        any
    }
}
