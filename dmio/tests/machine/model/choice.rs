//! Candidates and their turns.

use dmio::{Cancelled, IoFlags, MemoryKind, Reason, RegionState};
use iomgr_core::{Errno, Timestamp};

use super::{Key, Model, Place};

impl Model {
    /// The next candidate's turn has come.
    pub(crate) fn advance(&mut self, now: Timestamp, request: usize) {
        while let Some(key) = self.next_candidate(request) {
            self.requests[request].next = key.1 + 1;
            let device = self.device_of(key);
            let is_alone = self.active(request).is_empty();
            let Some(errno) = self.refusal(device) else {
                if self.has_memory(key) {
                    self.counters.hedged += u64::from(!is_alone);
                    return self.go(now, key);
                }
                if !is_alone {
                    // It waits for its turn.
                    self.requests[request].next = key.1;
                    return;
                }
                match self.requests[request].memory {
                    MemoryKind::Bounce if !self.requests[request].flags.contains(IoFlags::NOWAIT) => {
                        return self.go(now, key);
                    }
                    MemoryKind::Bounce => self.end(now, key, RegionState::Error(Errno::AGAIN)),
                    _ => self.end(now, key, self.like_the_one_before(key)),
                }
                continue;
            };
            self.fail_fast(now, key, errno);
        }
    }

    fn go(&mut self, now: Timestamp, key: Key) {
        self.arm(now, key.0);
        self.ask_for_memory(key);
    }

    fn next_candidate(&self, request: usize) -> Option<Key> {
        let next = self.requests[request].next;
        self.running(request).into_iter().find(|key| key.1 >= next)
    }

    fn has_memory(&self, key: Key) -> bool {
        match self.requests[key.0].memory {
            MemoryKind::Bounce => self.has_room(self.device_of(key)),
            _ => self.requests[key.0].parts.iter().all(|part| !part.place.is_admitted()),
        }
    }

    /// Its memory went with an orphan.
    fn like_the_one_before(&self, key: Key) -> RegionState {
        let mut reasons = self.requests[key.0].parts[..key.1]
            .iter()
            .rev()
            .filter_map(|part| match part.state {
                Some(RegionState::Cancelled(how)) => Some(how.reason),
                _ => None,
            });
        RegionState::Cancelled(Cancelled {
            reason: reasons.next().unwrap_or(Reason::Unneeded),
            never_started: true,
        })
    }

    /// Choices go on of which only candidates without a turn are left.
    pub(crate) fn advance_all(&mut self, now: Timestamp) {
        let mut choices: Vec<_> = (0..self.requests.len())
            .filter(|&request| self.requests[request].choice)
            .collect();
        choices.sort_by_key(|&request| self.requests[request].id.index());
        for request in choices {
            let is_left = |&key: &Key| self.part(key).place == Place::Idle;
            if self.running(request).iter().any(is_left) && self.active(request).is_empty() {
                self.advance(now, request);
            }
        }
    }

    /// A candidate has answered.
    pub(crate) fn chosen(&mut self, now: Timestamp, request: usize, is_read: bool) {
        if !is_read {
            let is_in_time = |&key: &Key| !self.part(key).is_timed_out;
            if !self.active(request).iter().any(is_in_time) {
                self.advance(now, request);
            }
            return;
        }
        for key in self.running(request) {
            self.give_up(now, key, Reason::Unneeded);
        }
    }
}
