//! What a seed means, for good: kept seeds of other crates' tests are worth nothing once a new fault, though off, draws a random
//! number more.

use iomgr_core::{Action, Lease, Op, OpQueue, Owner, Storage, Token};

use super::{SimConfig, SimDisk, SimHandle};
use crate::config::PlanLimits;
use crate::{Completion, Config, EngineKind, Queue};

#[test]
fn a_seed_is_the_run_that_it_always_was() {
    assert_eq!(
        [1, 2, 3].map(fingerprint),
        [
            14_827_649_637_455_378_664,
            10_895_595_606_069_729_157,
            16_503_623_772_899_186_751
        ]
    );
}

/// A number that stands for all that came of a seed: results, times, and content after a kill and two cuts.
fn fingerprint(seed: u64) -> u64 {
    let machine = SimHandle::new(SimConfig::new(seed));
    let disk = machine.create_file();
    let mut sum = Sum(0xcbf2_9ce4_8422_2325);
    for life in 0..3 {
        // It must live on: ops that are under way are what a cut is about.
        let queue = load(&machine, &disk, &mut sum);
        if life == 1 {
            machine.kill(seed);
        } else {
            machine.cut_power(seed);
        }
        std::mem::drop(queue);
        let mut bytes = vec![0; usize::try_from(disk.len_bytes().unwrap()).unwrap()];
        disk.read_at(&mut bytes, 0).unwrap();
        sum.add(&bytes);
    }
    sum.add(&machine.now().as_nanos().to_le_bytes());
    sum.0
}

/// Pushes ops of all kinds, each on its own so that no plan shows, and leaves some under way.
fn load(machine: &SimHandle, disk: &SimDisk, sum: &mut Sum) -> Queue {
    let config = Config {
        engine: EngineKind::Sim(machine.clone()),
        size: 16,
        arena_bytes: 1 << 20,
        plan: PlanLimits {
            max_segments: 1,
            ..PlanLimits::default()
        },
        ..Config::default()
    };
    let mut queue = Queue::new(&config).unwrap();
    let file = queue.add_file(&disk.handle()).unwrap();
    let lease = queue.alloc(8192).unwrap();
    queue.bytes_mut(lease.data()).unwrap().fill(7);
    for value in 0..120 {
        let token = Token::new(Owner(0), value);
        let action = action(value, &lease);
        queue.push(Op { token, file, action }).unwrap();
        queue.submit().unwrap();
        if value % 8 == 7 {
            queue.submit_and_wait(None).unwrap();
        }
        while let Some(completion) = queue.next_completion() {
            sum.completion(completion, &queue);
        }
    }
    queue
}

fn action(value: u64, lease: &Lease) -> Action {
    let (offset, len) = (value * 7919 % 64 * 1024, 1024 + value % 7 * 1000);
    let data = lease.data().slice(0, u32::try_from(len).unwrap());
    match value % 10 {
        0 => Action::Flush,
        1 => Action::Discard { offset, len },
        2 => Action::WriteZeroes {
            offset,
            len,
            unmap: value % 20 == 2,
            fast: false,
        },
        3 => Action::Read { offset, data },
        4 => Action::Prefetch { offset, len },
        _ => Action::Write {
            offset,
            data,
            durable: value % 10 == 9,
        },
    }
}

/// FNV-1a.
struct Sum(u64);

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }

    fn completion(&mut self, done: Completion, queue: &Queue) {
        self.add(&done.token.value().to_le_bytes());
        self.add(format!("{:?}", done.result).as_bytes());
        self.add(&queue.now().as_nanos().to_le_bytes());
    }
}
