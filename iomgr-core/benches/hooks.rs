//! What the hooks cost a request: push, next, alloc and free, in batches as at depth 1 and 32.
//!
//! Targets, a request: 25 ns under "none", 150 ns under the policies that count every one of them. Two threads get at least
//! 1.9 times as much done as one, whether their queues are of one device or of two: nothing that one of them writes is on a
//! cache line of the other's. Rounds of one thread and of two take turns, and what counts is the median: hosts are noisy.

#![allow(clippy::print_stdout, reason = "a bench shows what it measures")]

use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use iomgr_core::epoch::EpochDomain;
use iomgr_core::manager::{Head, Intake, ManagedDevice, Manager, Registry, Ticket};
use iomgr_core::policy::{Governor, ManagerConfig, PolicyConfig, Rate, Rates, ThrottleConfig, WfqConfig};
use iomgr_core::{Operation, Sector, SectorCount, SectorRange, Tag, Timestamp, Waker};

const DEPTH: u32 = 32;

/// All hooks are there and say go.
#[derive(Debug)]
struct AlwaysGo;

impl Manager for AlwaysGo {
    fn name(&self) -> &str {
        "always-go"
    }
}

/// Under which manager.
#[derive(Clone, Debug)]
enum Under {
    None,
    AlwaysGo,
    Policy(PolicyConfig),
}

impl Under {
    fn registry(&self) -> Registry {
        let registry = Registry::new();
        match self.clone() {
            Self::None => {}
            Self::AlwaysGo => registry
                .register(Arc::new(AlwaysGo))
                .expect("nothing else is registered"),
            Self::Policy(policy) => Governor::new(registry.clone())
                .set(&ManagerConfig { policy, limit: None })
                .expect("the parameters are good"),
        }
        registry
    }
}

/// Rates that are never reached: every request is counted, none waits.
fn throttle() -> PolicyConfig {
    let rate = |average| {
        Some(Rate {
            average,
            max: None,
            max_length_ms: None,
        })
    };
    let rates = Rates {
        iops: rate(1_000_000_000),
        bps: rate(1_000_000_000_000),
        ..Rates::default()
    };
    let config = ThrottleConfig {
        default: rates,
        ..ThrottleConfig::default()
    };
    PolicyConfig::Throttle(Box::new(config))
}

fn wfq() -> PolicyConfig {
    PolicyConfig::Wfq(WfqConfig {
        depth: 4 * DEPTH,
        ..WfqConfig::default()
    })
}

fn managers() -> [(&'static str, Under); 4] {
    [
        ("none", Under::None),
        ("always-go", Under::AlwaysGo),
        ("throttle", Under::Policy(throttle())),
        ("wfq", Under::Policy(wfq())),
    ]
}

/// A queue and its thread's loop, apart from others as those of real threads are.
#[repr(align(128))]
struct Queue {
    intake: Intake,
    started: Vec<(Tag, Ticket)>,
    now: u64,
}

impl Queue {
    fn new(device: &Arc<ManagedDevice>) -> Self {
        Self {
            intake: Intake::new(device, DEPTH, Waker::none()),
            started: Vec::with_capacity(DEPTH as usize),
            now: 0,
        }
    }

    /// Who counts rates has nothing saved up at first.
    fn warm_up(&mut self) {
        self.pass(1);
        self.now += 1_000_000_000;
    }

    /// One pass of a loop: requests come in, start, and end.
    fn pass(&mut self, batch: u32) {
        self.now += u64::from(batch) * 1000;
        let now = black_box(Timestamp::from_nanos(self.now));
        self.intake.begin_pass(now);
        for tag in 0..batch {
            let range = SectorRange::new(Sector(u64::from(black_box(tag)) * 8), SectorCount(8));
            let head = Head::new(Operation::Read, range.expect("below 64 bits"), now);
            self.intake.push(head, Tag(tag)).expect("the batch fits");
        }
        while let Some(granted) = self.intake.next(now) {
            self.started.push((granted.tag, self.intake.alloc(granted.grant)));
        }
        assert_eq!(self.started.len(), batch as usize, "nothing waits here");
        for (tag, ticket) in self.started.drain(..) {
            black_box(tag);
            self.intake.free(ticket, now);
        }
    }
}

fn hooks(c: &mut Criterion) {
    let mut group = c.benchmark_group("hooks");
    for (name, manager) in managers() {
        for batch in [1, DEPTH] {
            let registry = manager.registry();
            let device = registry.attach("bench").expect("no manager here refuses a device");
            let mut queue = Queue::new(&device);
            queue.warm_up();
            group.throughput(Throughput::Elements(u64::from(batch)));
            group.bench_function(format!("{name}/batch-{batch}"), |b| b.iter(|| queue.pass(batch)));
            assert_eq!(device.pending(), 0);
        }
    }
    group.finish();
}

const ROUNDS: usize = 31;
const PASSES: u32 = 20_000;

/// How much more two threads get done than one.
fn two_threads(_: &mut Criterion) {
    for (name, manager) in managers().into_iter().take(2) {
        for devices in [2, 1] {
            let registry = manager.registry();
            let attach = |name| registry.attach(name).expect("no manager here refuses a device");
            let both: Vec<_> = ["a", "b"][..devices].iter().map(|name| attach(name)).collect();
            let mut queues = [Queue::new(&both[0]), Queue::new(both.last().expect("there is one"))];
            let mut ratios: Vec<f64> = (0..ROUNDS).map(|_| ratio(&mut queues)).collect();
            ratios.sort_by(f64::total_cmp);
            println!(
                "two-threads/{name}, queues of {devices} device(s): {:.3} times one thread's rate (best {:.3})",
                ratios[ROUNDS / 2],
                ratios[ROUNDS - 1]
            );
        }
    }
}

/// Two threads' rate by one's.
fn ratio(queues: &mut [Queue; 2]) -> f64 {
    let one = run(&mut queues[..1]);
    2.0 * one.as_secs_f64() / run(queues).as_secs_f64()
}

/// How long it takes until all have run their passes, each on a thread of its own.
fn run(queues: &mut [Queue]) -> Duration {
    let start = Barrier::new(queues.len());
    let run = |queue: &mut Queue| {
        start.wait();
        let began = Instant::now();
        (0..PASSES).for_each(|_| queue.pass(DEPTH));
        began.elapsed()
    };
    let run = &run;
    thread::scope(|scope| {
        let threads: Vec<_> = queues.iter_mut().map(|queue| scope.spawn(move || run(queue))).collect();
        let times = threads
            .into_iter()
            .map(|thread| thread.join().expect("a pass does not panic"));
        times.max().expect("there is a queue")
    })
}

fn epochs(c: &mut Criterion) {
    let domain = EpochDomain::new(2);
    let mut queue = domain.queue(0).expect("it is not out yet");
    let mut group = c.benchmark_group("epoch");
    group.bench_function("enter-exit/from-idle", |b| {
        b.iter(|| {
            let pin = black_box(queue.enter());
            queue.exit(pin);
        });
    });
    let held = queue.enter();
    group.bench_function("enter-exit/busy", |b| {
        b.iter(|| {
            let pin = black_box(queue.enter());
            queue.exit(pin);
        });
    });
    queue.exit(held);
    group.finish();
}

criterion_group!(benches, hooks, two_threads, epochs);
criterion_main!(benches);
