//! The end of a simulation, and what must hold then.

use std::time::Duration;

use super::{Dev, Sim};

impl Sim {
    /// Stops all work, and lets end what was begun.
    pub(crate) fn finish(&mut self) -> u64 {
        for device in 0..self.devices.len() {
            self.turn(Dev(device), false);
            self.devices[device].is_over = true;
        }
        let end = self.now + self.rules.patience;
        let step = Duration::from_secs(1);
        while self.outstanding().next().is_some() {
            assert!(
                self.now < end,
                "waits for ever: {:?}",
                self.outstanding().collect::<Vec<_>>()
            );
            self.run_for(step);
        }
        self.run_for(step);
        self.check_end();
        self.seen
    }

    /// Devices with requests that have not ended, and how many.
    fn outstanding(&self) -> impl Iterator<Item = (&str, usize)> {
        let queues = self.queues.iter().filter(|queue| queue.outstanding() > 0);
        queues.map(|queue| (self.devices[queue.device].name.as_str(), queue.outstanding()))
    }

    pub(super) fn check_counts(&self) {
        for device in &self.devices {
            assert_eq!(device.managed.pending(), device.log.in_flight, "{}", device.name);
        }
        let in_flight = self.devices.iter().map(|device| device.log.in_flight).sum();
        assert_eq!(self.governor.registry().pending_total(), in_flight);
    }

    fn check_end(&self) {
        let counters = self.governor.registry().counters();
        assert_eq!(counters.pending(), 0);
        assert_eq!(counters.grants, counters.aborts + counters.allocs);
        let asks = 4 * (self.passes + counters.frees + counters.aborts);
        assert!(counters.ngs.total() <= asks, "{counters:?} in {} passes", self.passes);
        let mut awake = self.threads.iter().filter(|thread| thread.due.is_some());
        assert!(awake.next().is_none(), "somebody wakes up for nothing");
    }
}
