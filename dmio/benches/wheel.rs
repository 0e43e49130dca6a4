//! What a timeout costs: arming and disarming, with as many others armed as a busy client has. Target: 50 ns for both.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use dmio::Wheel;
use iomgr_core::Timestamp;

const KEYS: u32 = 1024;

fn arm_and_disarm(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("arm_and_disarm");
    for (name, timeout) in [("10ms", 10), ("200ms", 200), ("30s", 30_000), ("a_day", 86_400_000)] {
        group.bench_function(name, |bencher| {
            let timeout = Duration::from_millis(timeout);
            let mut wheel = Wheel::new(KEYS);
            let mut now = Timestamp::ZERO;
            for key in 1..KEYS {
                wheel.arm(key, now + timeout + Duration::from_micros(u64::from(key) * 37));
            }
            bencher.iter(|| {
                // Time goes on, but no deadline comes.
                now = now + Duration::from_nanos(1);
                wheel.arm(0, black_box(now + timeout));
                wheel.disarm(black_box(0));
            });
        });
    }
    group.finish();
}

fn arm_and_expire(criterion: &mut Criterion) {
    criterion.bench_function("arm_and_expire/200ms", |bencher| {
        let mut wheel = Wheel::new(KEYS);
        let mut now = Timestamp::ZERO;
        let mut keys = (0..KEYS).cycle();
        bencher.iter(|| {
            now = now + Duration::from_micros(200);
            let key = keys.next().expect("it goes round");
            wheel.arm(key, now + Duration::from_millis(200));
            while let Some(key) = wheel.expire(now) {
                black_box(key);
            }
        });
    });
}

criterion_group!(benches, arm_and_disarm, arm_and_expire);
criterion_main!(benches);
