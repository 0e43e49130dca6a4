use std::fmt::Write;

use insta::assert_snapshot;
use proptest::prelude::*;

use super::*;

const WRITE: Kind = Kind::Write { durable: false };
const DURABLE: Kind = Kind::Write { durable: true };
const ZERO: Kind = Kind::Zero {
    unmap: false,
    fast: false,
};
const LIMITS: PlanLimits = PlanLimits {
    max_bytes: 1 << 20,
    max_segments: 64,
};

/// A batch, keyed by arrival, of (file, kind, offset, length).
fn batch(ops: &[(u32, Kind, u64, u64)]) -> Vec<PlanOp> {
    let op = |(index, &(file, kind, offset, len)): (u32, &(u32, Kind, u64, u64))| PlanOp {
        key: Key { index, generation: 0 },
        file: FileIndex(file),
        kind,
        offset,
        len,
        alone: false,
    };
    (0..).zip(ops).map(op).collect()
}

/// The groups, as arrivals.
fn plan(batch: &[PlanOp], limits: PlanLimits) -> Vec<Vec<usize>> {
    let mut plan = Plan::new(batch.len(), limits);
    plan.make(batch);
    let group = |at| plan.group(at).iter().map(|key| key.index as usize).collect();
    (0..plan.len()).map(group).collect()
}

/// One line for each group: arrivals, what, where.
fn show(batch: &[PlanOp], limits: PlanLimits) -> String {
    let mut text = String::new();
    for group in plan(batch, limits) {
        let part = |&at: &usize| {
            let op = &batch[at];
            format!("#{at} {}+{}", op.offset, op.len)
        };
        let parts: Vec<String> = group.iter().map(part).collect();
        let PlanOp { file, kind, .. } = batch[group[0]];
        writeln!(text, "{}: {kind:?} {}", file.0, parts.join(" & ")).unwrap();
    }
    text
}

#[test]
fn contiguous_ops_become_one_whatever_their_order() {
    let ops = batch(&[
        (0, WRITE, 8, 4),
        (0, Kind::Read, 40, 4),
        (0, WRITE, 0, 4),
        (0, WRITE, 12, 2),
        (0, WRITE, 4, 4),
        (0, Kind::Read, 36, 4),
        (0, WRITE, 20, 4),
    ]);
    assert_snapshot!(show(&ops, LIMITS), @r"
    0: Write { durable: false } #2 0+4 & #4 4+4 & #0 8+4 & #3 12+2
    0: Read #5 36+4 & #1 40+4
    0: Write { durable: false } #6 20+4
    ");
}

#[test]
fn what_differs_is_not_merged() {
    let ops = batch(&[
        (0, WRITE, 0, 4),
        (1, WRITE, 4, 4),
        (0, DURABLE, 4, 4),
        (0, Kind::Read, 8, 4),
        (0, ZERO, 12, 4),
        (0, ZERO, 16, 4),
        (0, Kind::Discard, 20, 4),
        (0, Kind::Discard, 24, 4),
        (0, Kind::Prefetch, 28, 4),
        (0, Kind::Prefetch, 32, 4),
        (0, DURABLE, 28, 4),
        (0, DURABLE, 32, 4),
    ]);
    assert_snapshot!(show(&ops, LIMITS), @r"
    0: Write { durable: false } #0 0+4
    1: Write { durable: false } #1 4+4
    0: Write { durable: true } #2 4+4
    0: Read #3 8+4
    0: Zero { unmap: false, fast: false } #4 12+4
    0: Zero { unmap: false, fast: false } #5 16+4
    0: Discard #6 20+4
    0: Discard #7 24+4
    0: Prefetch #8 28+4
    0: Prefetch #9 32+4
    0: Write { durable: true } #10 28+4 & #11 32+4
    ");
}

#[test]
fn nothing_is_merged_across_a_flush() {
    let ops = batch(&[
        (0, WRITE, 4, 4),
        (0, WRITE, 0, 4),
        (1, Kind::Flush, 0, 0),
        (0, WRITE, 12, 4),
        (0, WRITE, 8, 4),
    ]);
    assert_snapshot!(show(&ops, LIMITS), @r"
    0: Write { durable: false } #1 0+4 & #0 4+4
    1: Flush #2 0+0
    0: Write { durable: false } #4 8+4 & #3 12+4
    ");
}

#[test]
fn what_overlaps_goes_alone_and_in_its_order() {
    let ops = batch(&[
        (0, WRITE, 0, 4),
        (0, WRITE, 4, 4),
        (0, Kind::Read, 6, 1),
        (0, WRITE, 8, 4),
        (0, WRITE, 12, 4),
        (0, ZERO, 14, 100),
        (0, WRITE, 113, 4),
        (0, WRITE, 117, 4),
    ]);
    assert_snapshot!(show(&ops, LIMITS), @r"
    0: Write { durable: false } #0 0+4
    0: Write { durable: false } #1 4+4
    0: Read #2 6+1
    0: Write { durable: false } #3 8+4
    0: Write { durable: false } #4 12+4
    0: Zero { unmap: false, fast: false } #5 14+100
    0: Write { durable: false } #6 113+4
    0: Write { durable: false } #7 117+4
    ");
}

#[test]
fn groups_keep_to_the_limits() {
    let ops = batch(&[
        (0, WRITE, 0, 4),
        (0, WRITE, 4, 4),
        (0, WRITE, 8, 4),
        (0, WRITE, 12, 9),
        (0, WRITE, 21, 1),
        (0, WRITE, 22, 1),
        (0, WRITE, 23, 1),
    ]);
    let limits = PlanLimits {
        max_bytes: 8,
        max_segments: 2,
    };
    assert_snapshot!(show(&ops, limits), @r"
    0: Write { durable: false } #0 0+4 & #1 4+4
    0: Write { durable: false } #2 8+4
    0: Write { durable: false } #3 12+9
    0: Write { durable: false } #4 21+1 & #5 22+1
    0: Write { durable: false } #6 23+1
    ");
    let one = PlanLimits {
        max_segments: 1,
        ..LIMITS
    };
    assert_eq!(plan(&ops, one).len(), 7);
}

#[test]
fn what_failed_in_a_group_goes_alone() {
    let mut ops = batch(&[(0, WRITE, 0, 4), (0, WRITE, 4, 4), (0, WRITE, 8, 4), (0, WRITE, 12, 4)]);
    ops[1].alone = true;
    assert_eq!(plan(&ops, LIMITS), [vec![0], vec![1], vec![2, 3]]);
}

#[test]
fn the_end_of_all_offsets_is_no_trouble() {
    let ops = batch(&[
        (0, ZERO, 4, u64::MAX),
        (0, WRITE, u64::MAX - 1, 4),
        (0, WRITE, u64::MAX, 4),
        (1, WRITE, u64::MAX, 4),
    ]);
    assert_eq!(plan(&ops, LIMITS).len(), 4);
}

fn overlap(a: &PlanOp, b: &PlanOp) -> bool {
    let works = |op: &PlanOp| !matches!(op.kind, Kind::Flush | Kind::Prefetch);
    works(a) && works(b) && a.file == b.file && a.offset < b.end() && b.offset < a.end()
}

/// Flushes before an arrival: which section it is in.
fn section(batch: &[PlanOp], at: usize) -> usize {
    batch[..at].iter().filter(|op| op.kind == Kind::Flush).count()
}

/// May it be merged at all, by the words of the contract?
fn is_free(batch: &[PlanOp], at: usize) -> bool {
    let op = &batch[at];
    let meets = |other: usize| other != at && section(batch, other) == section(batch, at) && overlap(op, &batch[other]);
    let moves_bytes = matches!(op.kind, Kind::Read | Kind::Write { .. });
    moves_bytes && !op.alone && !(0..batch.len()).any(meets)
}

/// The same groups, by searching for each op's neighbours in all of the batch, again and again.
fn naive(batch: &[PlanOp], limits: PlanLimits) -> Vec<Vec<usize>> {
    let follows = |a: usize, b: usize| {
        let (x, y) = (&batch[a], &batch[b]);
        let alike = x.file == y.file && x.kind == y.kind && section(batch, a) == section(batch, b);
        alike && x.offset + x.len == y.offset && is_free(batch, a) && is_free(batch, b)
    };
    let begins = |at: &usize| !(0..batch.len()).any(|other| follows(other, *at));
    let mut groups = Vec::new();
    for first in (0..batch.len()).filter(begins) {
        let mut group = vec![first];
        while let Some(next) = (0..batch.len()).find(|&next| follows(*group.last().unwrap(), next)) {
            let bytes: u64 = group.iter().map(|&at| batch[at].len).sum();
            let fits = bytes + batch[next].len <= limits.max_bytes.into() && group.len() < limits.max_segments as usize;
            if fits {
                group.push(next);
            } else {
                groups.push(std::mem::replace(&mut group, vec![next]));
                continue;
            }
        }
        groups.push(group);
    }
    groups.sort_by_key(|group| *group.iter().min().unwrap());
    groups
}

fn any_kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        6 => Just(Kind::Read),
        10 => Just(WRITE),
        3 => Just(DURABLE),
        1 => Just(Kind::Flush),
        1 => Just(Kind::Discard),
        1 => Just(ZERO),
        1 => Just(Kind::Prefetch),
    ]
}

/// Sectors on a short file, so that much is contiguous and much overlaps; some batches disjoint, so that more is merged.
fn any_batch() -> impl Strategy<Value = Vec<PlanOp>> {
    let op = (0u32..2, any_kind(), 0u64..60, 1u64..4, prop::bool::weighted(0.05));
    (prop::collection::vec(op, 0..40), any::<bool>()).prop_map(|(ops, disjoint)| {
        let place = |offset, len| if disjoint { (offset * 4, 4) } else { (offset, len) };
        let tuples: Vec<_> = ops
            .iter()
            .map(|&(file, kind, offset, len, _)| {
                let (offset, len) = place(offset, len);
                (file, kind, offset, len)
            })
            .collect();
        let mut made = batch(&tuples);
        made.iter_mut().zip(ops).for_each(|(op, (.., alone))| op.alone = alone);
        made
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn it_finds_what_a_naive_search_finds(batch in any_batch(), max_bytes in 1u32..40, max_segments in 1u32..9) {
        let limits = PlanLimits { max_bytes, max_segments };
        let groups = plan(&batch, limits);
        prop_assert_eq!(&groups, &naive(&batch, limits));
        let turn = |at: usize| groups.iter().position(|group| group.contains(&at)).unwrap();
        for b in 0..batch.len() {
            for a in 0..b {
                let ordered = overlap(&batch[a], &batch[b]) || section(&batch, a) < section(&batch, b);
                prop_assert!(!ordered || turn(a) < turn(b), "{} and {} changed places", a, b);
            }
        }
    }
}
