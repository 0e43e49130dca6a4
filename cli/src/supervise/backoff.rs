//! How soon a server that died is started again, and when that has no sense any more.

use std::time::Duration;

/// In a row: one that dies so often dies of something that the next one meets as well.
pub(super) const RESTARTS_MAX: u32 = 5;
/// Before the second restart in a row, and twice as long before each that follows; the first is at once.
const PAUSE: Duration = Duration::from_millis(100);
/// Whoever lasted so long did not die of what the one before died of.
const STEADY: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    in_a_row: u32,
}

impl Backoff {
    /// One has died after so long: how long to wait before the next; `None`, when there is to be none.
    pub(super) fn next(&mut self, lasted: Duration) -> Option<Duration> {
        if lasted >= STEADY {
            self.in_a_row = 0;
        }
        let pause = match self.in_a_row {
            RESTARTS_MAX => return None,
            0 => Duration::ZERO,
            restarts => PAUSE * 2_u32.pow(restarts - 1),
        };
        self.in_a_row += 1;
        Some(pause)
    }

    /// Which restart in a row that was.
    pub(super) fn in_a_row(&self) -> u32 {
        self.in_a_row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_at_once_and_each_next_later_and_there_are_few() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = std::iter::from_fn(|| backoff.next(Duration::ZERO)).collect();
        assert_eq!(
            pauses,
            [0, 100, 200, 400, 800].map(Duration::from_millis),
            "and then none"
        );
    }

    #[test]
    fn who_lasted_begins_a_new_row() {
        let mut backoff = Backoff::default();
        while backoff.next(Duration::ZERO).is_some() {}
        assert_eq!(backoff.next(STEADY), Some(Duration::ZERO));
        assert_eq!(backoff.in_a_row(), 1);
        assert_eq!(backoff.next(Duration::ZERO), Some(Duration::from_millis(100)));
    }
}
