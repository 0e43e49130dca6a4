//! What the machine takes of a request: start, submit, complete, event and release. Target: well below 150 ns for one region.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use dmio::{DeviceConfig, DeviceIndex, Io, IoFlags, LegId, Machine, MachineConfig, MemoryKind, Region, RequestId};
use iomgr_core::{Operation, RequestFlags, Sector, SectorCount, SectorRange, Timestamp};

const DEPTH: usize = 32;
const NOW: Timestamp = Timestamp::from_nanos(1 << 30);

fn machine() -> Machine {
    let device = DeviceConfig {
        size: SectorCount(1 << 30),
        logical_block_bytes: 512,
        read_only: false,
    };
    Machine::new(MachineConfig {
        requests: 256,
        legs: 512,
        devices: vec![device; 2],
        min_ios: 64,
        orphans_max: 64,
        max_size: SectorCount(2048),
    })
    .expect("the configuration is good")
}

/// One kind of request.
struct Kind {
    op: Operation,
    devices: u16,
    memory: MemoryKind,
    timeout: Option<Duration>,
}

impl Kind {
    fn start(&self, machine: &mut Machine, place: u64) -> RequestId {
        let range = SectorRange::new(Sector(place * 8), SectorCount(8)).expect("far below 64 bits");
        let region = |device| Region {
            device: DeviceIndex(device),
            range,
        };
        let regions = [region(0), region(1)];
        let io = Io {
            op: self.op,
            request_flags: RequestFlags::empty(),
            regions: &regions[..usize::from(self.devices)],
            choice: false,
            timeout: self.timeout,
            flags: IoFlags::empty(),
            memory: self.memory,
        };
        machine.start(NOW, &io).expect("there is room")
    }
}

/// One after the other.
fn alone(machine: &mut Machine, kind: &Kind) {
    let id = kind.start(machine, 77);
    let mut legs = [LegId(0); 2];
    let mut count = 0;
    while let Some(submission) = machine.poll_submit() {
        legs[count] = submission.leg;
        count += 1;
    }
    for leg in &legs[..count] {
        black_box(machine.handle_completion(NOW, *leg, Ok(())));
    }
    while let Some(event) = machine.poll_event() {
        black_box(event);
    }
    machine.release(id);
}

/// A batch at different places, in an order of no order, as a loop's pass has it.
fn batch(machine: &mut Machine, kind: &Kind) {
    let mut legs = [LegId(0); 2 * DEPTH];
    let mut ids = [None; DEPTH];
    for (place, id) in (0..).zip(&mut ids) {
        *id = Some(kind.start(machine, place * 7 % DEPTH as u64));
    }
    let mut count = 0;
    while let Some(submission) = machine.poll_submit() {
        legs[count] = submission.leg;
        count += 1;
    }
    for place in 0..count {
        black_box(machine.handle_completion(NOW, legs[place * 5 % count], Ok(())));
    }
    while let Some(event) = machine.poll_event() {
        black_box(event);
    }
    for id in ids.into_iter().flatten() {
        machine.release(id);
    }
}

fn requests(criterion: &mut Criterion) {
    let lent = MemoryKind::Lent { cancellable: true };
    let kind = |op, devices, memory, timeout: Option<u64>| Kind {
        op,
        devices,
        memory,
        timeout: timeout.map(Duration::from_millis),
    };
    let kinds = [
        ("read_pool", kind(Operation::Read, 1, lent, None)),
        ("write_pool", kind(Operation::Write, 1, lent, None)),
        ("write_pool_timeout", kind(Operation::Write, 1, lent, Some(200))),
        ("write_bounce", kind(Operation::Write, 1, MemoryKind::Bounce, None)),
        ("write_pool_2_regions", kind(Operation::Write, 2, lent, None)),
    ];
    for (name, kind) in &kinds {
        let mut machine = machine();
        criterion.bench_function(&format!("alone/{name}"), |bencher| {
            bencher.iter(|| alone(&mut machine, kind))
        });
        let mut group = criterion.benchmark_group("batch_of_32");
        group.throughput(criterion::Throughput::Elements(DEPTH as u64));
        group.bench_function(*name, |bencher| {
            bencher.iter(|| batch(&mut machine, kind));
        });
        group.finish();
        machine.self_check();
    }
}

criterion_group!(benches, requests);
criterion_main!(benches);
