use std::collections::HashMap;
use std::time::Duration;

use iomgr_core::{Action, Data, Errno, FileHandle, FileSlot, Lease, Op, OpError, OpQueue, Owner, Storage, Token};

use crate::engine::{Outcome, UNBEGUN};
use crate::sim::{SimConfig, SimDisk, SimHandle};
use crate::{Config, EngineKind, PlanLimits, Queue};

const PART: u32 = 1024;
const PARTS: u8 = 12;
const ALL: u64 = PART as u64 * PARTS as u64;

/// A queue that merges, a file, and a part's memory for each part.
struct Rig {
    queue: Queue,
    file: FileSlot,
    leases: Vec<Lease>,
}

impl Rig {
    fn new(engine: EngineKind, file: &FileHandle) -> Self {
        let config = Config {
            engine,
            arena_bytes: 1 << 20,
            plan: PlanLimits {
                max_bytes: 1 << 20,
                max_segments: 64,
            },
            ..Config::default()
        };
        let mut queue = Queue::new(&config).unwrap();
        let file = queue.add_file(file).unwrap();
        let leases = (0..PARTS).map(|_| queue.alloc(PART).unwrap()).collect();
        let mut rig = Self { queue, file, leases };
        rig.fill(|at| at + 1);
        rig
    }

    /// On a simulated disk that does only what a test asks of it.
    fn simulated(seed: u64, short_every: u32, interrupt_every: u32) -> (Self, SimDisk) {
        let machine = SimHandle::new(SimConfig {
            short_every,
            interrupt_every,
            ..SimConfig::new(seed)
        });
        let disk = machine.create_file();
        (Self::new(EngineKind::Sim(machine), &disk.handle()), disk)
    }

    /// By plain calls, whose results a test may change.
    fn on_calls() -> Self {
        Self::new(EngineKind::Sync, &FileHandle::new(tempfile::tempfile().unwrap()))
    }

    /// One round of the synchronous engine, with the results that `answer` makes of those that there are.
    fn answer(&mut self, answer: impl Fn(u32, i32) -> i32) {
        self.queue.fill();
        let mut counters = self.queue.counters();
        let reaped: Vec<_> = std::iter::from_fn(|| self.queue.engine.next_outcome(&mut counters)).collect();
        for Outcome { key, result } in reaped {
            let result = answer(key.index, result);
            self.queue.settle(Outcome { key, result });
        }
    }

    fn fill(&mut self, byte: impl Fn(u8) -> u8) {
        for (at, lease) in (0..).zip(&self.leases) {
            self.queue.bytes_mut(lease.data()).unwrap().fill(byte(at));
        }
    }

    fn push(&mut self, action: impl Fn(u64, Data) -> Action) {
        for (at, lease) in (0..).zip(&self.leases) {
            let (token, file) = (Token::new(Owner(1), at), self.file);
            let action = action(at * u64::from(PART), lease.data());
            self.queue.push(Op { token, file, action }).unwrap();
        }
    }

    fn push_writes(&mut self, durable: bool) {
        self.push(|offset, data| Action::Write { offset, data, durable });
    }

    /// Runs everything to its end: results by part.
    fn finish(&mut self) -> HashMap<u64, Result<u32, OpError>> {
        let mut results = HashMap::new();
        while !self.queue.is_idle() {
            self.queue.submit_and_wait(Some(Duration::from_secs(60))).unwrap();
            while let Some(done) = self.queue.next_completion() {
                let again = results.insert(done.token.value(), done.result);
                assert_eq!(again, None, "each op completes once");
            }
        }
        results
    }

    fn write(&mut self) -> HashMap<u64, Result<u32, OpError>> {
        self.push_writes(false);
        self.finish()
    }

    fn read(&mut self) -> HashMap<u64, Result<u32, OpError>> {
        self.push(|offset, data| Action::Read { offset, data });
        self.finish()
    }
}

/// The first byte of each part on the disk.
fn content(disk: &SimDisk) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(disk.len_bytes().unwrap()).unwrap()];
    disk.read_at(&mut bytes, 0).unwrap();
    bytes.iter().step_by(PART as usize).copied().collect()
}

fn part(at: u64) -> std::ops::Range<u64> {
    at * u64::from(PART)..(at + 1) * u64::from(PART)
}

#[test]
fn what_a_short_transfer_leaves_goes_on() {
    for seed in 0..50 {
        let (mut rig, disk) = Rig::simulated(seed, 1, 0);
        assert!(rig.write().values().all(|result| *result == Ok(PART)));
        assert_eq!(content(&disk), (1..=PARTS).collect::<Vec<_>>());
        rig.fill(|_| 0xff);
        assert!(rig.read().values().all(|result| *result == Ok(PART)));
        for (value, lease) in (1..).zip(&rig.leases) {
            assert!(rig.queue.bytes(lease.data()).unwrap().iter().all(|&byte| byte == value));
        }
        let counters = rig.queue.counters();
        assert!(counters.continued >= 2 && counters.splits == 0, "{counters:?}");
    }
}

#[test]
fn only_the_parts_that_touch_a_bad_place_fail() {
    let (mut rig, disk) = Rig::simulated(1, 0, 0);
    disk.set_len(ALL).unwrap();
    disk.fail_range(part(3).end - 1..part(5).start + 1);
    for write in [true, false] {
        let results = if write { rig.write() } else { rig.read() };
        for at in 0..u64::from(PARTS) {
            let bad = (3..=5).contains(&at);
            assert_eq!(results[&at], if bad { Err(OpError::Os(Errno::IO)) } else { Ok(PART) });
        }
    }
    let counters = rig.queue.counters();
    assert_eq!((counters.merges, counters.splits), (2 * 11, 2));
    assert_eq!(counters.resubmissions, 2 * u64::from(PARTS), "each part alone, once");
    disk.fail_range(0..0);
    assert_eq!(content(&disk), [1, 2, 3, 0, 0, 0, 7, 8, 9, 10, 11, 12]);
}

#[test]
fn what_finds_no_space_fails_alone() {
    let (mut rig, disk) = Rig::simulated(1, 0, 0);
    disk.limit_len(Some(part(7).start + 512));
    let results = rig.write();
    for at in 0..u64::from(PARTS) {
        let expected = if at < 7 {
            Ok(PART)
        } else {
            Err(OpError::Os(Errno::NOSPC))
        };
        assert_eq!(results[&at], expected, "part {at}");
    }
}

#[test]
fn the_end_of_the_file_is_told_to_each() {
    let (mut rig, disk) = Rig::simulated(1, 0, 0);
    disk.set_len(part(4).start + 512).unwrap();
    let results = rig.read();
    for at in 0..u64::from(PARTS) {
        let expected = if at < 4 { Ok(PART) } else { Err(OpError::EndOfFile) };
        assert_eq!(results[&at], expected, "part {at}");
    }
    let counters = rig.queue.counters();
    assert_eq!((counters.sqes, counters.continued, counters.splits), (2, 1, 0));
}

#[test]
fn an_interrupted_op_goes_again_as_it_was() {
    let (mut rig, _) = Rig::simulated(3, 0, 2);
    for _ in 0..20 {
        assert!(rig.write().values().all(|result| *result == Ok(PART)));
    }
    let counters = rig.queue.counters();
    assert!(counters.retried > 0 && counters.splits == 0, "{counters:?}");
    assert_eq!(
        counters.merges,
        counters.sqes * u64::from(PARTS - 1),
        "always all in one"
    );
}

#[test]
fn without_resources_it_is_tried_again_and_then_part_by_part() {
    let mut rig = Rig::on_calls();
    rig.push_writes(false);
    for refused in 1..=4 {
        rig.answer(|_, _| -Errno::AGAIN.raw_os_error());
        let counters = rig.queue.counters();
        assert_eq!((counters.retried, counters.splits), (refused.min(3), refused / 4));
    }
    assert!(rig.finish().values().all(|result| *result == Ok(PART)));
    assert_eq!(rig.queue.counters().resubmissions, 4 * u64::from(PARTS));
}

/// A sync's error is told once, and may be about what was written before.
#[test]
fn the_error_of_a_durable_write_is_not_lost_when_its_parts_go_well() {
    for guilty in [None, Some(4)] {
        let mut rig = Rig::on_calls();
        rig.push_writes(true);
        rig.answer(|_, _| -Errno::NOLINK.raw_os_error());
        rig.answer(|index, result| {
            if Some(index) == guilty {
                -Errno::IO.raw_os_error()
            } else {
                result
            }
        });
        let results = rig.finish();
        let failed: Vec<_> = results.values().filter(|result| result.is_err()).collect();
        let expected = if guilty.is_none() { Errno::NOLINK } else { Errno::IO };
        assert_eq!(
            failed,
            [&Err(OpError::Os(expected))],
            "the guilty part's own, where there is one"
        );
        assert_eq!(results.len(), usize::from(PARTS));
    }
}

#[test]
fn the_dump_shows_what_goes_as_one() {
    let (mut rig, _) = Rig::simulated(1, 0, 0);
    rig.leases.truncate(3);
    rig.push_writes(false);
    rig.queue.submit().unwrap();
    let dump = rig.queue.dump();
    let lines: Vec<&str> = dump.lines().filter(|line| !line.starts_with("completions")).collect();
    insta::assert_snapshot!(lines.join("\n"), @r"
    queue: sim, size 128, 1 MiB of buffers
    disk: 3 of 1024 outstanding, 3 in the kernel as 1 of 128, 0 queued, 0 of them deferred
    net: 0 of 256 outstanding, 0 in the kernel, 0 queued
    plan: PlanLimits { max_bytes: 1048576, max_segments: 64 }
    Counters { pushed: 3, completed: 0, failed: 0, deferrals: 0, handed_back: 0, enters: 1, sqes: 1, plain_calls: 0, cqes: 0, merges: 2, splits: 0, resubmissions: 0, continued: 0, retried: 0, never_started: 0, stuck: 0, quiet_sends: 0, max_in_kernel: 1, max_ops_in_kernel: 3 }
    op 0: Token(1:0x0) Write { offset: 0, run: 0+1024, durable: false } in the kernel, 0 bytes moved, in one with op 1
    op 1: Token(1:0x1) Write { offset: 1024, run: 4096+1024, durable: false } in the kernel, 0 bytes moved, in one with op 2
    op 2: Token(1:0x2) Write { offset: 2048, run: 8192+1024, durable: false } in the kernel, 0 bytes moved
    ");
    assert_eq!(rig.queue.occupancy().merged_in_kernel, 1);
    rig.finish();
}

/// A failed group may have done any part of itself, so none of its parts can be said not to have started later.
#[test]
fn what_failed_before_has_started() {
    let mut rig = Rig::on_calls();
    rig.push_writes(false);
    rig.answer(|_, _| -Errno::IO.raw_os_error());
    rig.queue.fill();
    assert_eq!(rig.queue.cancel_all().detached, usize::from(PARTS));
    let mut counters = rig.queue.counters();
    let reaped: Vec<_> = std::iter::from_fn(|| rig.queue.engine.next_outcome(&mut counters)).collect();
    assert_eq!(reaped.len(), usize::from(PARTS), "each goes alone");
    for Outcome { key, .. } in reaped {
        for result in [UNBEGUN, -Errno::CANCELED.raw_os_error()] {
            rig.queue.settle(Outcome { key, result });
        }
    }
    assert!(
        rig.finish()
            .values()
            .all(|end| *end == Err(OpError::Os(Errno::CANCELED)))
    );
}

/// None is overtaken by what came after it.
#[test]
fn what_is_tried_again_keeps_its_order() {
    let mut rig = Rig::on_calls();
    rig.push_writes(false);
    rig.answer(|_, _| -Errno::IO.raw_os_error());
    let (token, file) = (Token::new(Owner(1), u64::from(PARTS)), rig.file);
    let action = Action::Flush;
    rig.queue.push(Op { token, file, action }).unwrap();
    rig.queue.submit().unwrap();
    let order: Vec<_> = std::iter::from_fn(|| rig.queue.next_completion()).collect();
    let order: Vec<_> = order.iter().map(|done| done.token.value()).collect();
    assert_eq!(order, (0..=u64::from(PARTS)).collect::<Vec<_>>());
}
