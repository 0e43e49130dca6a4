//! How long clients may take: to choose an export, between two commands, and to move what others wait for.
//!
//! The clock is looked at by one timer per thread: several times per timeout while somebody is in the handshake or waits for
//! memory, and otherwise when the first idle client has had its time, if there is such a limit. Idle clients cost no wake-ups
//! until then. On the data path two timestamps are stored.

use std::time::Duration;

use iomgr_core::Timestamp;

use super::conn::{Conn, Phase};
use super::memory::{Class, Memory};
use crate::ConnectionLimits;

/// The timeouts of a thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    handshake: Duration,
    idle: Option<Duration>,
    stall: Duration,
}

/// Why a client is not waited for any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    Handshake,
    Idle,
    Stalled,
}

impl Patience {
    pub(super) fn new(limits: &ConnectionLimits) -> Self {
        Self {
            handshake: limits.handshake_timeout,
            idle: limits.idle_timeout,
            stall: limits.stall_timeout,
        }
    }

    /// How often to look while things move: eight times per timeout, but no more often than every 5 ms and no less than every second.
    pub(super) fn tick(&self) -> Duration {
        let shortest = self
            .idle
            .into_iter()
            .fold(self.handshake.min(self.stall), Duration::min);
        (shortest / 8).clamp(Duration::from_millis(5), Duration::from_secs(1))
    }

    /// When to look at this connection, as it is now and nobody waiting for memory.
    pub(super) fn due(&self, conn: &Conn, now: Timestamp) -> Option<Timestamp> {
        if let Phase::Handshake(_) = conn.phase {
            return Some(now + self.tick());
        }
        // What it has asked for will end, and then its time begins.
        let since = if conn.in_flight > 0 { now } else { conn.who.active };
        self.idle.map(|idle| (since + idle).max(now + self.tick()))
    }

    /// Should this connection be dropped?
    pub(super) fn verdict(&self, conn: &Conn, memory: &Memory, now: Timestamp) -> Option<Overdue> {
        let is_over = |since: Timestamp, most: Duration| since + most <= now;
        if matches!(conn.phase, Phase::Handshake(_)) {
            return is_over(conn.who.opened, self.handshake).then_some(Overdue::Handshake);
        }
        let stalled = conn.moving_since().is_some_and(|since| is_over(since, self.stall));
        let in_the_way = |class| memory.held(conn.id, class) > 0 && memory.is_overdue(class, self.stall, now);
        if stalled && Class::ALL.into_iter().any(in_the_way) {
            return Some(Overdue::Stalled);
        }
        let idle = self.idle.filter(|_| conn.in_flight == 0)?;
        is_over(conn.who.active, idle).then_some(Overdue::Idle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_looked_at_often_enough_and_not_too_often() {
        let tick = |handshake, idle: Option<u64>, stall| {
            let limits = ConnectionLimits {
                handshake_timeout: Duration::from_millis(handshake),
                idle_timeout: idle.map(Duration::from_millis),
                stall_timeout: Duration::from_millis(stall),
                ..ConnectionLimits::default()
            };
            Patience::new(&limits).tick().as_millis()
        };
        assert_eq!(tick(10_000, None, 30_000), 1000);
        assert_eq!(tick(10_000, Some(800), 30_000), 100);
        assert_eq!(tick(10_000, None, 1), 5);
    }
}
