//! Random ops against the naive model: a vector of bytes.

use std::os::unix::fs::FileExt;

use iomgr_core::{Action, Lease, OpError, OpQueue};
use proptest::prelude::*;
use tqueue::{Config, PlanLimits, Queue};

use super::rig::{filled, finish, on_each_engine, push, small, temp_file};

/// Bytes of the file at most.
const SPACE: u64 = 96 << 10;

/// An op to be pushed. Ops of one batch get disjoint parts of the file, so that their order does not matter.
#[derive(Clone, Debug)]
enum Step {
    Read,
    Write { durable: bool },
    Zero { unmap: bool },
    Flush,
    Prefetch,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Read),
        3 => any::<bool>().prop_map(|durable| Step::Write { durable }),
        1 => any::<bool>().prop_map(|unmap| Step::Zero { unmap }),
        1 => Just(Step::Flush),
        1 => Just(Step::Prefetch),
    ]
}

/// How much of a part is left out before; nothing where all of it is taken.
fn some_of_it() -> impl Strategy<Value = u64> {
    prop_oneof![2 => Just(0), 1 => 1u64..2000]
}

/// Cuts the space into one part per step, and takes all or some of each part.
fn batch() -> impl Strategy<Value = Vec<(Step, u64, u64)>> {
    prop::collection::vec((step(), some_of_it(), 1u64..3000), 1..30)
        .prop_shuffle()
        .prop_map(|steps| {
            let part = SPACE / steps.len() as u64;
            let place = |(i, (step, skip, len)): (u64, (Step, u64, u64))| {
                let len = if skip == 0 { part } else { len };
                (step, i * part + skip.min(part - 1), len.min(part - skip.min(part - 1)))
            };
            (0..).zip(steps).map(place).collect()
        })
}

fn run(queue: &mut Queue, batches: &[Vec<(Step, u64, u64)>]) {
    let (file, real) = temp_file(queue);
    let mut model: Vec<u8> = Vec::new();
    for (round, batch) in (1u8..).zip(batches) {
        let before = model.clone();
        let mut leases: Vec<Lease> = Vec::new();
        for (value, (step, offset, len)) in (0..).zip(batch) {
            let (offset, len) = (*offset, *len);
            let range = offset as usize..(offset + len) as usize;
            let byte = round.wrapping_mul(31).wrapping_add(value as u8);
            let lease = filled(queue, &vec![byte; len as usize]);
            let data = lease.data();
            let action = match *step {
                Step::Read => Action::Read { offset, data },
                Step::Write { durable } => {
                    model.resize(model.len().max(range.end), 0);
                    model[range].fill(byte);
                    Action::Write { offset, data, durable }
                }
                Step::Zero { unmap } => {
                    // The size before the batch counts: the writes of the batch may come first or last.
                    let end = before.len().min(range.end);
                    if range.start < end && range.end > end {
                        Action::Flush
                    } else {
                        model.get_mut(range).into_iter().for_each(|part| part.fill(0));
                        let fast = false;
                        Action::WriteZeroes {
                            offset,
                            len,
                            unmap,
                            fast,
                        }
                    }
                }
                Step::Flush => Action::Flush,
                Step::Prefetch => Action::Prefetch { offset, len },
            };
            push(queue, value, file, action);
            leases.push(lease);
        }
        let results = finish(queue);
        for ((value, (step, offset, len)), lease) in (0..).zip(batch).zip(leases) {
            let range = *offset as usize..(offset + len) as usize;
            match (step, results[&value]) {
                (Step::Read, Ok(_)) => {
                    let expected = model.get(range).expect("a read within the file");
                    assert_eq!(queue.bytes(lease.data()), Some(expected));
                }
                (Step::Read, Err(error)) => {
                    assert_eq!(error, OpError::EndOfFile);
                    assert!(
                        range.end > before.len(),
                        "a read of what was there before cannot meet the end"
                    );
                }
                (_, result) => assert!(result.is_ok(), "{step:?}: {result:?}"),
            }
            queue.free(lease);
        }
        let mut content = vec![0; model.len()];
        real.read_exact_at(&mut content, 0).unwrap();
        assert!(content == model && real.metadata().unwrap().len() == model.len() as u64);
    }
    queue.remove_file(file);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn random_ops_do_what_the_model_does(
        batches in prop::collection::vec(batch(), 1..6),
        size in 1u32..30,
        max_segments in 1u32..9,
        max_bytes in 1u32..40_000,
    ) {
        let plan = PlanLimits { max_bytes, max_segments };
        let config = Config { size, plan, ..small() };
        on_each_engine(&config, |queue| run(queue, &batches));
    }
}
