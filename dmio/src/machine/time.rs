//! Timeouts.

use iomgr_core::Timestamp;

use super::Machine;
use super::request::bits;
use crate::{IoFlags, Reason};

impl Machine {
    /// When to call [`handle_timeout`](Self::handle_timeout), if nothing happens before.
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.wheel.next()
    }

    /// It is now. Calling it too early, or too often, does nothing.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        while let Some(index) = self.wheel.expire(now) {
            self.time_is_up(now, index);
        }
    }

    fn time_is_up(&mut self, now: Timestamp, index: u32) {
        let request = &mut self.requests[index];
        let had_turn = if request.choice {
            request.active()
        } else {
            request.running
        };
        let regions = had_turn & !request.timed_out;
        request.timed_out |= regions;
        if request.flags.contains(IoFlags::CANCEL_ON_TIMEOUT) {
            for region in bits(regions) {
                self.give_up(now, self.leg_of(index, region), Reason::Timeout);
            }
        } else {
            self.tell_timeouts(now, index, regions);
        }
        if self.requests[index].choice {
            self.advance(now, index);
        }
    }

    fn tell_timeouts(&mut self, now: Timestamp, index: u32, regions: u64) {
        self.requests[index].timeouts |= regions;
        self.counters.timeouts += u64::from(regions.count_ones());
        for region in bits(regions) {
            let leg = self.leg_of(index, region);
            self.legs[leg].timed_out = now;
        }
        if regions != 0 {
            self.tell(index);
        }
    }
}
