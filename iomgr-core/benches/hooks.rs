//! What the hooks cost a request: push, next, alloc and free, one thread, batches of 32 as at depth 32.
//!
//! Target: at most 25 ns a request under manager "none" (semantics.md, S0).

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use iomgr_core::epoch::EpochDomain;
use iomgr_core::manager::{Head, Intake, Manager, Registry, Ticket};
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

fn hooks(c: &mut Criterion) {
    let mut group = c.benchmark_group("hooks");
    for (name, manager) in [("none", None), ("always-go", Some(Arc::new(AlwaysGo)))] {
        for batch in [1, DEPTH] {
            let registry = Registry::new();
            if let Some(manager) = manager.clone() {
                registry.register(manager).expect("nothing else is registered");
            }
            let device = registry.attach("bench").expect("neither manager refuses a device");
            let mut intake = Intake::new(&device, DEPTH, Waker::none());
            let mut tickets = Vec::with_capacity(DEPTH as usize);
            group.throughput(Throughput::Elements(u64::from(batch)));
            group.bench_function(format!("{name}/batch-{batch}"), |b| {
                b.iter(|| pass(&mut intake, &mut tickets, batch));
            });
            assert_eq!(device.pending(), 0);
        }
    }
    group.finish();
}

/// One pass of a loop: requests come in, start, and end.
fn pass(intake: &mut Intake, tickets: &mut Vec<(Tag, Ticket)>, batch: u32) {
    let now = black_box(Timestamp::from_nanos(1));
    for tag in 0..batch {
        let range = SectorRange::new(Sector(u64::from(black_box(tag)) * 8), SectorCount(8)).expect("below 64 bits");
        intake
            .push(Head::new(Operation::Read, range, now), Tag(tag))
            .expect("the batch fits");
    }
    intake.begin_pass(now);
    while let Some(granted) = intake.next(now) {
        tickets.push((granted.tag, intake.alloc(granted.grant)));
    }
    for (tag, ticket) in tickets.drain(..) {
        black_box(tag);
        intake.free(ticket, now);
    }
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

criterion_group!(benches, hooks, epochs);
criterion_main!(benches);
