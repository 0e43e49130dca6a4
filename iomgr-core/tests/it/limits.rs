//! `limit` on real threads: bounds hold at every instant, and no wake-up is lost on the way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Instant;

use iomgr_core::manager::{Granted, Intake, ManagedDevice, Registry, Ticket};
use iomgr_core::policy::{Governor, LimitConfig, ManagerConfig, PolicyConfig, Rate, Rates, ThrottleConfig};
use iomgr_core::{Operation, Tag, Timestamp, Wake, Waker};

use crate::support::{Bed, head};

const DEPTH: u32 = 4;

/// What is in flight now, and the most there ever was.
#[derive(Default)]
struct Gauge {
    now: AtomicU32,
    most: AtomicU32,
}

impl Gauge {
    fn enter(&self) {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
    }

    fn leave(&self) {
        self.now.fetch_sub(1, Ordering::SeqCst);
    }
}

/// One queue's loop: keeps `DEPTH` requests about, and ends those that started in the next pass.
struct Frontend<'a> {
    intake: Intake,
    bed: Arc<Bed>,
    running: Vec<(Tag, Ticket)>,
    gauges: [&'a Gauge; 2],
    started: Instant,
}

impl<'a> Frontend<'a> {
    fn new(device: &Arc<ManagedDevice>, gauges: [&'a Gauge; 2]) -> Self {
        let bed = Arc::new(Bed::default());
        Self {
            intake: Intake::new(device, DEPTH, Waker::new(Arc::clone(&bed) as Arc<dyn Wake>)),
            bed,
            running: Vec::new(),
            gauges,
            started: Instant::now(),
        }
    }

    fn run(&mut self, requests: u32) {
        let mut ended = 0;
        (0..DEPTH).for_each(|tag| self.push(Tag(tag)));
        while ended < requests {
            let now = self.now();
            for (tag, ticket) in std::mem::take(&mut self.running) {
                self.gauges.iter().for_each(|gauge| gauge.leave());
                self.intake.free(ticket, now);
                self.push(tag);
                ended += 1;
            }
            self.admit(now);
            if self.running.is_empty() {
                let time = self.intake.wake_at().map(|at| at.since(self.now()));
                self.bed.sleep(time);
            }
        }
        for (_, ticket) in std::mem::take(&mut self.running) {
            self.gauges.iter().for_each(|gauge| gauge.leave());
            self.intake.free(ticket, self.now());
        }
        assert!(self.intake.close().count() <= DEPTH as usize);
    }

    fn push(&mut self, tag: Tag) {
        let op = [Operation::Read, Operation::Write, Operation::Flush][tag.0 as usize % 3];
        self.intake.push(head(op, self.now()), tag).unwrap();
    }

    fn admit(&mut self, now: Timestamp) {
        self.intake.begin_pass(now);
        while let Some(Granted { tag, grant }) = self.intake.next(now) {
            self.gauges.iter().for_each(|gauge| gauge.enter());
            self.running.push((tag, self.intake.alloc(grant)));
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(u64::try_from(self.started.elapsed().as_nanos()).unwrap())
    }
}

/// Three devices of two queues each, on six threads.
fn stays_within(config: &ManagerConfig, limit: &LimitConfig) {
    let governor = Governor::new(Registry::new());
    governor.set(config).unwrap();
    let devices = ["a", "b", "c"].map(|name| governor.registry().attach(name).unwrap());
    let (own, total) = ([(); 3].map(|()| Gauge::default()), Gauge::default());
    thread::scope(|scope| {
        for (device, own) in devices.iter().zip(&own).cycle().take(6) {
            let gauges = [own, &total];
            scope.spawn(move || Frontend::new(device, gauges).run(3000));
        }
    });
    let most = own.iter().map(|own| own.most.load(Ordering::SeqCst)).max().unwrap();
    assert!(most <= limit.max.unwrap_or(u32::MAX), "{most} of {config:?}");
    assert!(total.most.load(Ordering::SeqCst) <= limit.max_total.unwrap_or(u32::MAX));
    assert_eq!(governor.registry().pending_total(), 0);
}

const LIMITS: [(Option<u32>, Option<u32>); 4] = [(Some(1), None), (None, Some(1)), (None, Some(3)), (Some(2), Some(5))];

#[test]
fn no_number_of_threads_gets_past_a_limit() {
    for (max, max_total) in LIMITS {
        let limit = LimitConfig { max, max_total };
        let config = ManagerConfig {
            policy: PolicyConfig::Limit(limit.clone()),
            limit: None,
        };
        stays_within(&config, &limit);
    }
}

#[test]
fn nor_past_one_below_another_policy() {
    let rates = Rates {
        iops: Some(Rate::new(100_000)),
        ..Rates::default()
    };
    let throttle = ThrottleConfig {
        default: rates,
        ..ThrottleConfig::default()
    };
    for (max, max_total) in LIMITS {
        let limit = LimitConfig { max, max_total };
        let config = ManagerConfig {
            policy: PolicyConfig::Throttle(Box::new(throttle.clone())),
            limit: Some(limit.clone()),
        };
        stays_within(&config, &limit);
    }
}
