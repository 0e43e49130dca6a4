//! What a policy that holds nothing costs a request: push, next, alloc and free, one thread, batches of 32 as at depth 32.
//!
//! Target: at most 150 ns a request under `throttle` and `wfq` (semantics.md, S0). Two threads with a device each must not
//! get in each other's way where the policy does not tie the devices together.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use iomgr_core::manager::{Head, Intake, Registry, Ticket};
use iomgr_core::policy::{
    DeadlineConfig, Governor, LatencyConfig, LimitConfig, ManagerConfig, PolicyConfig, Rate, Rates, ThrottleConfig,
    ThrottleGroup, TurnConfig, WfqConfig,
};
use iomgr_core::{Operation, Sector, SectorCount, SectorRange, Tag, Timestamp, Waker};

const DEPTH: u32 = 32;
/// Far above what a thread can do.
const PLENTY: Rate = Rate::new(Rate::MAX);

fn limit() -> LimitConfig {
    LimitConfig {
        max: Some(1000),
        max_total: Some(1000),
    }
}

fn alone(policy: PolicyConfig) -> ManagerConfig {
    ManagerConfig { policy, limit: None }
}

fn throttle(default: Rates, group: Option<Rates>) -> PolicyConfig {
    let group = group.map(|rates| ThrottleGroup {
        rates,
        members: ["bench0", "bench1"].map(String::from).into(),
    });
    let groups: BTreeMap<_, _> = group.map(|group| ("group".to_owned(), group)).into_iter().collect();
    let devices = ["bench0", "bench1"].map(|name| (name.to_owned(), default));
    PolicyConfig::Throttle(Box::new(ThrottleConfig {
        default,
        devices: devices.into(),
        groups,
    }))
}

fn iops() -> Rates {
    Rates {
        iops: Some(PLENTY),
        ..Rates::default()
    }
}

/// Six bounds, of which four count a request, each with a burst.
fn everything() -> Rates {
    let rate = Some(Rate::new(Rate::MAX / 2).with_burst(Rate::MAX, 1000));
    Rates {
        iops: rate,
        iops_read: rate,
        iops_write: rate,
        bps: rate,
        bps_read: rate,
        bps_write: rate,
        iops_size: Some(65536),
    }
}

fn wfq() -> PolicyConfig {
    PolicyConfig::Wfq(WfqConfig {
        depth: 1000,
        ..WfqConfig::default()
    })
}

fn latency(protect: [&str; 2]) -> PolicyConfig {
    PolicyConfig::Latency(LatencyConfig {
        protect: protect.map(String::from).into(),
        ..LatencyConfig::default()
    })
}

fn deadline() -> PolicyConfig {
    PolicyConfig::Deadline(DeadlineConfig {
        depth: 1000,
        ..DeadlineConfig::default()
    })
}

fn cases() -> Vec<(&'static str, ManagerConfig)> {
    vec![
        ("none", ManagerConfig::default()),
        ("limit", alone(PolicyConfig::Limit(limit()))),
        ("throttle/iops", alone(throttle(iops(), None))),
        ("throttle/everything", alone(throttle(everything(), None))),
        ("throttle/group", alone(throttle(iops(), Some(iops())))),
        ("turn", alone(PolicyConfig::Turn(TurnConfig::default()))),
        ("wfq", alone(wfq())),
        ("latency/protected", alone(latency(["bench0", "bench1"]))),
        ("latency/other", alone(latency(["bench1", "bench2"]))),
        ("deadline", alone(deadline())),
        (
            "throttle/iops-limit",
            ManagerConfig {
                policy: throttle(iops(), None),
                limit: Some(limit()),
            },
        ),
    ]
}

fn policies(c: &mut Criterion) {
    let mut group = c.benchmark_group("policies");
    group.throughput(Throughput::Elements(DEPTH.into()));
    for (name, config) in cases() {
        let governor = governor(&config);
        let mut frontend = Frontend::new(&governor, 0);
        group.bench_function(name, |b| b.iter(|| frontend.pass()));
        assert_eq!(governor.registry().pending_total(), 0);
        assert_eq!(governor.registry().counters().ngs.total(), 0, "nothing is held");
    }
    group.finish();
}

/// Two threads with a device each; the time is what a request takes on each of them.
fn threads(c: &mut Criterion) {
    let mut group = c.benchmark_group("policies-2-threads");
    group.throughput(Throughput::Elements(DEPTH.into()));
    for (name, config) in cases() {
        let governor = governor(&config);
        group.bench_function(name, |b| b.iter_custom(|passes| together(&governor, passes)));
    }
    group.finish();
}

fn together(governor: &Governor, passes: u64) -> Duration {
    let frontends = [0, 1].map(|number| Frontend::new(governor, number));
    thread::scope(|scope| {
        let threads = frontends.map(|mut frontend| {
            scope.spawn(move || {
                let started = Instant::now();
                (0..passes).for_each(|_| frontend.pass());
                started.elapsed()
            })
        });
        let times = threads.map(|thread| thread.join().expect("a pass does not panic"));
        times.into_iter().max().expect("there are two")
    })
}

fn governor(config: &ManagerConfig) -> Governor {
    let governor = Governor::new(Registry::new());
    governor.set(config).expect("the parameters are good");
    governor
}

struct Frontend {
    intake: Intake,
    tickets: Vec<Ticket>,
    now: Timestamp,
}

impl Frontend {
    fn new(governor: &Governor, number: u32) -> Self {
        let device = governor.registry().attach(&format!("bench{number}"));
        let mut frontend = Self {
            intake: Intake::new(&device.expect("no policy refuses a device"), DEPTH, Waker::none()),
            tickets: Vec::with_capacity(DEPTH as usize),
            // The first look starts the clock of what saves up: one after the other.
            now: Timestamp::from_nanos(u64::from(number) * 1000),
        };
        frontend.pass_with(1);
        frontend.now = frontend.now + Duration::from_secs(1);
        frontend
    }

    /// One pass of a loop, a microsecond after the one before.
    fn pass(&mut self) {
        self.now = black_box(self.now + Duration::from_micros(1));
        self.pass_with(DEPTH);
    }

    /// So many requests come in, start, and end.
    fn pass_with(&mut self, requests: u32) {
        for tag in 0..requests {
            let range = SectorRange::new(Sector(u64::from(black_box(tag)) * 8), SectorCount(8)).expect("below 64 bits");
            let head = Head::new(Operation::Read, range, self.now);
            self.intake.push(head, Tag(tag)).expect("the batch fits");
        }
        self.intake.begin_pass(self.now);
        while let Some(granted) = self.intake.next(self.now) {
            self.tickets.push(self.intake.alloc(granted.grant));
        }
        for ticket in self.tickets.drain(..) {
            self.intake.free(ticket, self.now);
        }
    }
}

criterion_group!(benches, policies, threads);
criterion_main!(benches);
