//! When a swap takes hold: at the next pass of every queue, whatever its thread is at.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use iomgr_core::manager::{DeviceId, DeviceInfo, Head, Intake, Manager, Registry, Verdict};
use iomgr_core::{Operation, Tag, Timestamp, Waker};

use crate::support::*;

const QUEUES: usize = 2;
const SWAPS: u64 = 100;

/// Passes that each device's queue has begun.
type Passes = Arc<[AtomicU64; QUEUES]>;

/// Writes down in which pass of which queue it was last asked.
#[derive(Debug)]
struct Witness {
    passes: Passes,
    last: [AtomicU64; QUEUES],
}

impl Witness {
    fn new(passes: &Passes) -> Arc<Self> {
        Arc::new(Self {
            passes: Arc::clone(passes),
            last: Default::default(),
        })
    }

    fn asked(&self, DeviceId(device): DeviceId) -> Verdict {
        let device = device as usize;
        self.last[device].store(self.passes[device].load(Ordering::Relaxed), Ordering::Relaxed);
        Verdict::Go
    }
}

impl Manager for Witness {
    fn name(&self) -> &str {
        "witness"
    }

    fn waiting_request(&self, device: &DeviceInfo, _: Timestamp) -> Verdict {
        self.asked(device.id())
    }

    fn allow_request(&self, device: &DeviceInfo, _: &Head, _: Timestamp) -> Verdict {
        self.asked(device.id())
    }
}

/// A loop that never sleeps, with requests in every pass; they end one pass later.
fn run(mut intake: Intake, passes: &AtomicU64, is_over: &AtomicBool) {
    let mut running = Vec::new();
    while !is_over.load(Ordering::Relaxed) {
        // What was swapped in before another thread has looked at the count is current from here on.
        let now = Timestamp::from_nanos(passes.fetch_add(1, Ordering::AcqRel));
        let ended = std::mem::take(&mut running);
        free_all(&mut intake, ended, now);
        (0..4).for_each(|tag| intake.push(head(Operation::Read, now), Tag(tag)).unwrap());
        running = start_all(&mut intake, now);
        assert_eq!(running.len(), 4);
    }
    free_all(&mut intake, running, Timestamp::ZERO);
}

#[test]
fn no_pass_that_begins_after_a_swap_is_under_the_old_manager() {
    let registry = Registry::new();
    let (passes, is_over): (Passes, _) = (Arc::default(), AtomicBool::new(false));
    let devices = ["a", "b"].map(|name| registry.attach(name).unwrap());
    let witnesses: Vec<_> = thread::scope(|scope| {
        for (device, passes) in devices.iter().zip(&*passes) {
            let (intake, is_over) = (Intake::new(device, 8, Waker::none()), &is_over);
            scope.spawn(move || run(intake, passes, is_over));
        }
        let mut current = Witness::new(&passes);
        registry.register(current.clone()).unwrap();
        let swap = |_| {
            let next = Witness::new(&passes);
            registry.replace(next.clone()).unwrap();
            let begun = passes.each_ref().map(|begun| begun.fetch_add(0, Ordering::AcqRel));
            // The next manager is asked as well before it is swapped out: a busy machine may let neither queue run for long.
            while passes
                .iter()
                .zip(begun)
                .all(|(now, begun)| now.load(Ordering::Relaxed) < begun + 2)
            {
                thread::yield_now();
            }
            (std::mem::replace(&mut current, next), begun)
        };
        let witnesses = (0..SWAPS).map(swap).collect();
        is_over.store(true, Ordering::Relaxed);
        witnesses
    });
    let mut asked = 0;
    for (witness, begun) in &witnesses {
        for (last, begun) in witness.last.iter().zip(begun) {
            let last = last.load(Ordering::Relaxed);
            assert!(
                last <= *begun,
                "asked in pass {last}, {begun} had begun when another was set"
            );
            asked += u64::from(last != 0);
        }
    }
    assert!(asked > 0, "the queues ran meanwhile");
    assert_eq!(registry.pending_total(), 0);
}
