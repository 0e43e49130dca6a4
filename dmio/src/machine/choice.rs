//! Choices: reads of which one good answer is enough.
//!
//! Candidates have their turns in order. The next one's has come when each before it has ended badly, or its time is up: then both
//! are read, each into memory of its own (a hedge), if there is memory at once. A hedge never waits; when no other candidate is left
//! that runs, the next one does, as any request does.

use iomgr_core::{Errno, Timestamp};

use super::{Machine, MemoryKind};
use crate::{Cancelled, IoFlags, Reason, RegionState};

/// What the next candidate can do.
enum Turn {
    Go,
    /// Not now; it is asked again when the last one that runs has ended.
    Later,
    /// Its device takes nothing.
    Refused(Errno),
    /// Its end, before it began.
    Over(RegionState),
}

impl Machine {
    /// The next candidate's turn has come, if there is one left.
    pub(crate) fn advance(&mut self, now: Timestamp, index: u32) {
        while let Some(region) = self.next_candidate(index) {
            let leg = self.leg_of(index, region);
            match self.turn(index, leg) {
                Turn::Later => return,
                Turn::Refused(errno) => self.fail_fast(now, leg, errno),
                Turn::Over(state) => self.end(now, leg, state),
                Turn::Go => {
                    self.counters.hedged += u64::from(self.requests[index].active() != 0);
                    self.requests[index].next += 1;
                    self.arm(now, index);
                    return self.admit(leg);
                }
            }
        }
    }

    /// Sets choices going of which no candidate runs any more, but some are left.
    pub(crate) fn advance_all(&mut self, now: Timestamp) {
        for index in 0..self.requests.capacity() {
            let request = &self.requests[index];
            if request.choice && request.running != 0 && request.active() == 0 {
                self.advance(now, index);
            }
        }
    }

    /// The first candidate that is not over and had no turn.
    fn next_candidate(&mut self, index: u32) -> Option<u8> {
        let request = &mut self.requests[index];
        while request.next < request.regions && request.running >> request.next & 1 == 0 {
            request.next += 1;
        }
        (request.next < request.regions).then_some(request.next)
    }

    fn turn(&mut self, index: u32, leg: u32) -> Turn {
        if let Some(errno) = self.devices[usize::from(self.legs[leg].device.0)].refusal() {
            return Turn::Refused(errno);
        }
        let request = &self.requests[index];
        let is_alone = request.active() == 0;
        let has_memory = match request.memory {
            MemoryKind::None => true,
            MemoryKind::Lent { .. } => request.admitted == 0,
            MemoryKind::Bounce => self.is_room_for(leg),
        };
        match request.memory {
            _ if has_memory => Turn::Go,
            _ if !is_alone => Turn::Later,
            // An orphan has it.
            MemoryKind::Lent { .. } => Turn::Over(self.without_memory(index)),
            _ if request.flags.contains(IoFlags::NOWAIT) => Turn::Over(RegionState::Error(Errno::AGAIN)),
            _ => Turn::Go,
        }
    }

    /// The end of a candidate whose memory went with an earlier one: for the same reason.
    fn without_memory(&self, index: u32) -> RegionState {
        let before = (0..self.requests[index].next).rev();
        let mut ends = before.filter_map(|region| self.legs[self.leg_of(index, region)].state);
        let reason = ends.find_map(|state| match state {
            RegionState::Cancelled(Cancelled { reason, .. }) => Some(reason),
            _ => None,
        });
        RegionState::Cancelled(Cancelled {
            reason: reason.unwrap_or(Reason::Unneeded),
            never_started: true,
        })
    }
}
