//! What several tests need.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use iomgr_core::manager::{Granted, Head, Intake, ManagedDevice, Manager, Ticket};
use iomgr_core::{Operation, Sector, SectorCount, SectorRange, Tag, Timestamp, Wake, Waker};

/// A waker that counts.
#[derive(Default)]
pub(crate) struct Bell(AtomicU64);

impl Bell {
    pub(crate) fn waker(self: &Arc<Self>) -> Waker {
        Waker::new(Arc::clone(self) as Arc<dyn Wake>)
    }

    pub(crate) fn rings(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl Wake for Bell {
    fn wake(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Where a loop sleeps, as on an eventfd.
#[derive(Default)]
pub(crate) struct Bed {
    rung: Mutex<bool>,
    ring: Condvar,
}

impl Wake for Bed {
    fn wake(&self) {
        *self.rung.lock().unwrap() = true;
        self.ring.notify_one();
    }
}

impl Bed {
    /// Until it rings, or for so long.
    pub(crate) fn sleep(&self, time: Option<Duration>) {
        let rung = self.rung.lock().unwrap();
        let still = |rung: &mut bool| !*rung;
        *match time {
            Some(time) => self.ring.wait_timeout_while(rung, time, still).unwrap().0,
            None => self.ring.wait_while(rung, still).unwrap(),
        } = false;
    }
}

pub(crate) fn at(ms: u64) -> Timestamp {
    Timestamp::from_nanos(ms * 1_000_000)
}

pub(crate) fn head(op: Operation, arrival: Timestamp) -> Head {
    Head::new(op, SectorRange::new(Sector(8), SectorCount(8)).unwrap(), arrival)
}

/// An intake on a thread that never sleeps.
pub(crate) fn intake(device: &Arc<ManagedDevice>) -> Intake {
    Intake::new(device, 8, Waker::none())
}

/// Pushes one request per op, with tags from 0, all received at the start of time.
pub(crate) fn push_all(intake: &mut Intake, ops: &[Operation]) {
    for (tag, op) in (0..).zip(ops) {
        intake.push(head(*op, Timestamp::ZERO), Tag(tag)).unwrap();
    }
}

/// A pass in which everything starts that may.
pub(crate) fn start_all(intake: &mut Intake, now: Timestamp) -> Vec<(Tag, Ticket)> {
    intake.begin_pass(now);
    std::iter::from_fn(|| {
        let Granted { tag, grant } = intake.next(now)?;
        Some((tag, intake.alloc(grant)))
    })
    .collect()
}

pub(crate) fn tags(started: &[(Tag, Ticket)]) -> Vec<u32> {
    started.iter().map(|(tag, _)| tag.0).collect()
}

pub(crate) fn free_all(intake: &mut Intake, started: Vec<(Tag, Ticket)>, now: Timestamp) {
    for (_, ticket) in started {
        intake.free(ticket, now);
    }
}

/// A manager as the registry takes it.
pub(crate) fn dynamic<M: Manager + 'static>(manager: &Arc<M>) -> Arc<dyn Manager> {
    Arc::clone(manager) as Arc<dyn Manager>
}
