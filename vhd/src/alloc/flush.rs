//! Which flushes there were, and what they made durable.
//!
//! A flush makes durable what was *completed* before it *started*. So every start gets a ticket, in order; a write that
//! ends now needs any flush with a later ticket.

/// Counts flushes: the guest's and the allocator's own.
#[derive(Debug, Default)]
pub(super) struct Flushes {
    started: u64,
    durable: u64,
}

impl Flushes {
    pub(super) fn start(&mut self) -> u64 {
        self.started += 1;
        self.started
    }

    /// The flush with `ticket` succeeded.
    pub(super) fn done(&mut self, ticket: u64) {
        self.durable = self.durable.max(ticket);
    }

    /// The ticket from which on a flush covers what is complete now.
    pub(super) fn need(&self) -> u64 {
        self.started + 1
    }

    pub(super) fn is_durable(&self, need: u64) -> bool {
        self.durable >= need
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_that_was_under_way_already_does_not_count() {
        let mut flushes = Flushes::default();
        let early = flushes.start();
        let need = flushes.need();
        flushes.done(early);
        assert!(!flushes.is_durable(need));
        let late = flushes.start();
        flushes.done(late);
        assert!(flushes.is_durable(need));
    }

    #[test]
    fn flushes_may_end_out_of_order() {
        let mut flushes = Flushes::default();
        let (first, second) = (flushes.start(), flushes.start());
        flushes.done(second);
        flushes.done(first);
        assert!(flushes.is_durable(second));
    }
}
