//! What planning costs: 128 ops at a time, none of which, or all of which, can be merged.
//!
//! `cargo bench -p tqueue --features test-utils --bench plan`

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tqueue::PlanLimits;
use tqueue::test_utils::Planner;

const BATCH: u64 = 128;
const LEN: u64 = 4096;
const MERGING: PlanLimits = PlanLimits {
    max_bytes: 1 << 20,
    max_segments: 64,
};

fn benches(criterion: &mut Criterion) {
    let mut random = fastrand::Rng::with_seed(1);
    let mut shuffled: Vec<u64> = (0..BATCH).collect();
    random.shuffle(&mut shuffled);
    let cases = [
        (
            "unmergeable_random",
            (0..BATCH).map(|_| random.u64(..1 << 40) * 2 * LEN).collect(),
            BATCH,
        ),
        (
            "unmergeable_ascending",
            (0..BATCH).map(|at| at * 2 * LEN).collect(),
            BATCH,
        ),
        ("all_merge_ascending", (0..BATCH).map(|at| at * LEN).collect(), 2),
        ("all_merge_reverse", (0..BATCH).rev().map(|at| at * LEN).collect(), 2),
        ("all_merge_shuffled", shuffled.iter().map(|at| at * LEN).collect(), 2),
    ];
    let mut group = criterion.benchmark_group("plan_128");
    group.throughput(Throughput::Elements(BATCH));
    for (name, offsets, groups) in cases {
        let offsets: Vec<u64> = offsets;
        let mut planner = Planner::new(MERGING, LEN, &offsets);
        assert_eq!(planner.make() as u64, groups);
        group.bench_function(name, |bench| bench.iter(|| planner.make()));
    }
    group.finish();
}

criterion_group!(plan, benches);
criterion_main!(plan);
