//! A disk's queue as the thread that owns it sees it.

use iomgr_core::{
    BlockStatus, Busy, CancelOutcome, DeviceQueue, Done, Errno, OpDone, OpQueue, Pass, Request, SectorRange, Tag,
    Timestamp,
};

use crate::layout::Layout;
use crate::queue::slot::State;
use crate::queue::token::OpKind;
use crate::queue::{Backing, DiskQueue};

impl DeviceQueue for DiskQueue {
    fn submit(&mut self, pass: &mut Pass<'_>, request: Request) -> Result<(), Busy> {
        if let Some(errno) = self.refusal(&request) {
            self.complete(pass, &request, Err(errno));
            return Ok(());
        }
        let tag = request.tag;
        self.slot(tag).start(request);
        self.in_flight += 1;
        self.drive(pass, tag);
        self.pump(pass);
        self.start_flush(pass);
        Ok(())
    }

    fn op_done(&mut self, pass: &mut Pass<'_>, done: OpDone) {
        let result = done.result.map_err(|error| error.errno());
        match OpKind::parse(done.token) {
            (OpKind::Part, tag) => self.part_done(pass, Tag(tag), result),
            (OpKind::Flush, _) => self.flush_done(result),
            (kind, index) => {
                let Backing::Blocks(blocks) = &mut self.backing else {
                    unreachable!("a plain disk has no {kind:?}")
                };
                match kind {
                    OpKind::Bitmap => {
                        let result = blocks.bitmap_done(pass, Tag(index), result);
                        self.resume(pass, Tag(index), result);
                    }
                    _ => blocks.step_done(pass, index, result),
                }
            }
        }
        self.go_on(pass);
    }

    fn kick(&mut self, pass: &mut Pass<'_>) {
        if let Backing::Blocks(blocks) = &mut self.backing {
            blocks.stir();
        }
        self.room_at = None;
        self.retry_delayed(pass);
        self.go_on(pass);
    }

    fn wake_at(&self) -> Option<Timestamp> {
        let steps = match &self.backing {
            Backing::Plain { .. } => None,
            Backing::Blocks(blocks) => blocks.wake_at(),
        };
        Timestamp::first(Timestamp::first(self.delayed.due(), steps), self.room_at)
    }

    fn poll_done(&mut self) -> Option<Done> {
        self.done.pop_front()
    }

    fn busy(&self) -> bool {
        false
    }

    fn block_status(&mut self, range: SectorRange) -> BlockStatus {
        let known = match &mut self.backing {
            _ if !range.fits(self.shared.size()) => None,
            Backing::Plain { offset, found } => {
                let from = *offset + range.offset_bytes();
                found.status(&self.shared, range, from).ok()
            }
            Backing::Blocks(blocks) => Some(blocks.block_status(range)),
        };
        known.unwrap_or(BlockStatus::data(range.count()))
    }

    fn cancel(&mut self, pass: &mut Pass<'_>, tag: Tag) -> CancelOutcome {
        let Some(slot) = self.slots.get_mut(tag.0 as usize).filter(|slot| slot.request.is_some()) else {
            return CancelOutcome::Unknown;
        };
        if slot.state == State::Delayed {
            // Its ops have ended; so does it, with the error that it has.
            self.delayed.forget(tag);
            self.shared.retries.end_delay();
            self.finish(pass, tag);
            return CancelOutcome::Detached;
        }
        if slot.state != State::Stalled || slot.outstanding > 0 || slot.cursor > 0 || slot.attempts().again > 0 {
            return CancelOutcome::Detached;
        }
        slot.state = State::Ready;
        slot.fail(Errno::CANCELED);
        self.stalled.retain(|&stalled| stalled != tag);
        self.finish(pass, tag);
        CancelOutcome::NeverStarted
    }

    fn is_idle(&self) -> bool {
        let is_working = matches!(&self.backing, Backing::Blocks(blocks) if blocks.is_working());
        self.in_flight == 0 && !is_working
    }

    fn close(self: Box<Self>, io: &mut dyn OpQueue) {
        debug_assert!(self.is_idle(), "a queue closes when it is idle");
        let Self {
            backing,
            shared,
            file,
            flushes,
            ..
        } = *self;
        flushes.close(&shared.flush_board);
        if let (Backing::Blocks(blocks), Layout::Blocks(layout)) = (backing, &shared.layout) {
            blocks.close(layout, io);
        }
        io.remove_file(file);
    }
}
