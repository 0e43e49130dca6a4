//! What a swap of policies costs, all told: the governor's part, and the pass in which each queue follows.
//!
//! Four devices of two queues each, with requests that wait and requests on their way. Target: at most 50 µs of CPU.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use iomgr_core::manager::{Head, Intake, Registry, Ticket};
use iomgr_core::policy::{Governor, LimitConfig, ManagerConfig, PolicyConfig, Rate, Rates, ThrottleConfig, WfqConfig};
use iomgr_core::{Operation, SectorRange, Tag, Timestamp, Waker};

const DEVICES: usize = 4;
const QUEUES: usize = 2;
const DEPTH: u32 = 64;

fn policies() -> [ManagerConfig; 3] {
    let limit = LimitConfig {
        max: Some(16),
        max_total: None,
    };
    let rates = Rates {
        iops: Some(Rate::new(1000)),
        ..Rates::default()
    };
    let throttle = ThrottleConfig {
        default: rates,
        ..ThrottleConfig::default()
    };
    [
        PolicyConfig::Limit(limit),
        PolicyConfig::Throttle(Box::new(throttle)),
        PolicyConfig::Wfq(WfqConfig::default()),
    ]
    .map(|policy| ManagerConfig { policy, limit: None })
}

fn swap(c: &mut Criterion) {
    let governor = Governor::new(Registry::new());
    let devices: Vec<_> = (0..DEVICES)
        .map(|number| governor.registry().attach(&format!("disk{number}")))
        .collect::<Result<_, _>>()
        .expect("none refuses no device");
    let queues = devices.iter().flat_map(|device| [device; QUEUES]);
    let mut intakes: Vec<_> = queues.map(|device| Intake::new(device, DEPTH, Waker::none())).collect();
    let now = Timestamp::from_nanos(1);
    for intake in &mut intakes {
        let head = Head::new(Operation::Read, SectorRange::default(), now);
        (0..DEPTH).for_each(|tag| intake.push(head, Tag(tag)).expect("there is room"));
    }
    let running: Vec<Ticket> = intakes.iter_mut().map(|intake| start(intake, now)).collect();
    let mut next = policies().into_iter().cycle();
    c.bench_function("swap/4-devices-2-queues", |b| {
        b.iter(|| {
            let next = next.next().expect("it goes round");
            governor.set(&next).expect("all of them are good");
            intakes.iter_mut().for_each(|intake| follow(intake, black_box(now)));
        });
    });
    for (intake, ticket) in intakes.iter_mut().zip(running) {
        intake.free(ticket, now);
    }
}

/// A request is on its way, under the manager of the beginning.
fn start(intake: &mut Intake, now: Timestamp) -> Ticket {
    intake.begin_pass(now);
    let granted = intake.next(now).expect("none says go");
    intake.alloc(granted.grant)
}

/// What waits is judged by the new manager.
fn follow(intake: &mut Intake, now: Timestamp) {
    intake.begin_pass(now);
    if let Some(granted) = intake.next(now) {
        intake.oo_abort(granted.grant, granted.tag);
    }
}

criterion_group!(benches, swap);
criterion_main!(benches);
