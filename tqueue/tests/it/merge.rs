//! Merged ops on real files: what goes as one, and who gets what of its result.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

use iomgr_core::{Action, Errno, FileHandle, FileSlot, Lease, OpError, OpQueue};
use rustix::fs::OFlags;
use tqueue::{Config, Features, PlanLimits, Queue};

use super::rig::{bytes, filled, finish, on_each_engine, open, push, run, small, small_ring, temp_file, token};

const LEN: u32 = 4096;

/// Everything that can be merged is, in batches of 32.
fn merging() -> Config {
    Config {
        size: 32,
        plan: PlanLimits {
            max_bytes: 1 << 20,
            max_segments: 64,
        },
        ..small()
    }
}

fn write(queue: &mut Queue, value: u64, file: FileSlot, lease: &Lease, offset: u64) {
    let (data, durable) = (lease.data(), false);
    let action = Action::Write { offset, data, durable };
    push(queue, value, file, action);
}

fn read(queue: &mut Queue, value: u64, file: FileSlot, lease: &Lease, offset: u64) {
    let data = lease.data();
    push(queue, value, file, Action::Read { offset, data });
}

/// A lease for each value, filled with it.
fn leases(queue: &mut Queue, count: u8) -> Vec<Lease> {
    (1..=count).map(|value| filled(queue, &[value; LEN as usize])).collect()
}

#[test]
fn contiguous_ops_are_one_call_in_any_order() {
    on_each_engine(&merging(), |queue| {
        let (file, real) = temp_file(queue);
        let mut leases = leases(queue, 16);
        // Not in the order of the memory either, so that there is something to gather.
        leases.swap(3, 11);
        let order = [5, 4, 15, 0, 1, 14, 13, 2, 3, 12, 11, 10, 9, 6, 7, 8];
        for at in order {
            write(queue, at, file, &leases[at as usize], at * u64::from(LEN));
        }
        let before = queue.counters();
        assert!(finish(queue).values().all(|result| *result == Ok(LEN)));
        let counters = queue.counters();
        let calls = counters.sqes + counters.plain_calls - before.sqes - before.plain_calls;
        assert_eq!((calls, counters.merges, counters.splits), (1, 15, 0));
        assert_eq!((counters.max_in_kernel, counters.max_ops_in_kernel), (1, 16));
        let mut content = vec![0; 16 * LEN as usize];
        real.read_exact_at(&mut content, 0).unwrap();
        for (at, lease) in leases.iter().enumerate() {
            assert_eq!(bytes(queue, lease.data()), content[at * LEN as usize..][..LEN as usize]);
        }
        // The other way round: every part gets its own bytes.
        for (at, lease) in (0..).zip(&leases) {
            queue.bytes_mut(lease.data()).unwrap().fill(0);
            read(queue, 15 - at, file, lease, (15 - at) * u64::from(LEN));
        }
        assert!(finish(queue).values().all(|result| *result == Ok(LEN)));
        assert_eq!(queue.counters().merges, 30);
        for (at, lease) in leases.iter().enumerate() {
            assert_eq!(
                bytes(queue, lease.data()),
                content[(15 - at) * LEN as usize..][..LEN as usize]
            );
        }
        leases.into_iter().for_each(|lease| queue.free(lease));
    });
}

#[test]
fn durable_writes_are_merged_with_their_like() {
    on_each_engine(&merging(), |queue| {
        let (file, real) = temp_file(queue);
        let lease = filled(queue, &[8; LEN as usize]);
        for at in 0..8 {
            let (offset, data, durable) = (at * u64::from(LEN), lease.data(), at % 4 != 0);
            push(queue, at, file, Action::Write { offset, data, durable });
        }
        assert!(finish(queue).values().all(|result| *result == Ok(LEN)));
        assert_eq!(queue.counters().merges, 4);
        assert_eq!(real.metadata().unwrap().len(), 8 * u64::from(LEN));
        queue.free(lease);
    });
}

#[test]
fn the_end_of_a_file_is_told_to_those_who_reach_it() {
    on_each_engine(&merging(), |queue| {
        let (file, real) = temp_file(queue);
        real.write_all_at(&[7; 2 * LEN as usize + 100], 0).unwrap();
        let leases = leases(queue, 5);
        for (at, lease) in (0..).zip(&leases) {
            read(queue, at, file, lease, at * u64::from(LEN));
        }
        let results = finish(queue);
        assert_eq!((results[&0], results[&1]), (Ok(LEN), Ok(LEN)));
        for at in 2..5 {
            assert_eq!(results[&at], Err(OpError::EndOfFile));
        }
        assert_eq!(bytes(queue, leases[2].data().slice(0, 100)), [7; 100]);
        assert_eq!(
            bytes(queue, leases[3].data()),
            [4; LEN as usize],
            "nothing was read here"
        );
        let counters = queue.counters();
        assert_eq!((counters.merges, counters.splits, counters.continued), (4 + 2, 0, 1));
        leases.into_iter().for_each(|lease| queue.free(lease));
    });
}

/// Direct I/O refuses a length that is no multiple of a sector: the merged op as a whole, and then the one that has it.
#[test]
fn only_the_guilty_part_fails() {
    on_each_engine(&merging(), |queue| {
        let Some(real) = direct_file() else { return };
        let file = queue.add_file(&FileHandle::new(real.try_clone().unwrap())).unwrap();
        let leases = leases(queue, 4);
        for (at, lease) in (0..3).zip(&leases) {
            write(queue, at, file, lease, at * u64::from(LEN));
        }
        let (data, durable) = (leases[3].data().slice(0, 100), false);
        let offset = 3 * u64::from(LEN);
        push(queue, 3, file, Action::Write { offset, data, durable });
        let before = queue.counters();
        let results = finish(queue);
        for at in 0..3 {
            assert_eq!(results[&at], Ok(LEN));
        }
        assert_eq!(results[&3], Err(OpError::Os(Errno::INVAL)));
        let counters = queue.counters();
        assert_eq!((counters.merges, counters.splits, counters.resubmissions), (3, 1, 4));
        assert_eq!(counters.sqes - before.sqes, 5, "parts are not merged again");
        leases.into_iter().for_each(|lease| queue.free(lease));
    });
}

/// A file with direct I/O, where that is picky.
fn direct_file() -> Option<File> {
    let dirs = [PathBuf::from(env!("CARGO_TARGET_TMPDIR")), std::env::temp_dir()];
    let flags = (OFlags::TMPFILE | OFlags::DIRECT).bits().cast_signed();
    let open = |dir: &PathBuf| {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(flags).open(dir).ok()
    };
    let is_picky = |file: &File| rustix::io::pwrite(file, &[0; 100], 0).is_err();
    let file = dirs.iter().filter_map(open).find(is_picky);
    if file.is_none() {
        println!("skipped: direct I/O in {dirs:?} takes any length");
    }
    file
}

#[test]
fn what_has_not_started_can_be_taken_out_of_the_middle() {
    on_each_engine(&merging(), |queue| {
        let (file, real) = temp_file(queue);
        let leases = leases(queue, 5);
        for (at, lease) in (0..).zip(&leases) {
            write(queue, at, file, lease, at * u64::from(LEN));
        }
        assert_eq!(queue.cancel(token(2)).never_started, 1);
        let results = finish(queue);
        for at in [0, 1, 3, 4] {
            assert_eq!(results[&at], Ok(LEN));
        }
        assert_eq!((results[&2], queue.counters().merges), (Err(OpError::NeverStarted), 2));
        let mut hole = vec![1; LEN as usize];
        real.read_exact_at(&mut hole, 2 * u64::from(LEN)).unwrap();
        assert!(hole.iter().all(|&byte| byte == 0));
        leases.into_iter().for_each(|lease| queue.free(lease));
    });
}

/// One place in the kernel: what waits is merged while it waits.
#[test]
fn deferred_ops_are_merged_within_the_limits() {
    let config = Config {
        size: 1,
        plan: PlanLimits {
            max_bytes: 5 * LEN,
            max_segments: 4,
        },
        ..small()
    };
    on_each_engine(&config, |queue| {
        let (file, _) = temp_file(queue);
        let leases = leases(queue, 10);
        for (at, lease) in (0..).zip(&leases) {
            write(queue, at, file, lease, at * u64::from(LEN));
        }
        assert_eq!((queue.occupancy().queued, queue.occupancy().deferred), (10, 9));
        assert!(finish(queue).values().all(|result| *result == Ok(LEN)));
        let counters = queue.counters();
        assert_eq!(
            (counters.deferrals, counters.max_in_kernel, counters.merges),
            (9, 1, 3 + 3 + 1)
        );
        leases.into_iter().for_each(|lease| queue.free(lease));
    });
}

/// Linux 6.15 brought vectors of registered memory; before, merged ops go by plain ones.
#[test]
fn registered_vectors_are_used_where_the_kernel_has_them() {
    let Some(queue) = open(&small_ring()) else { return };
    let features = queue.info().features;
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    let version = (numbers.next().unwrap(), numbers.next().unwrap());
    let expected = version >= (6, 15) && features.contains(Features::REGISTERED_BUFFERS);
    assert_eq!(
        features.contains(Features::REGISTERED_VECTORS),
        expected,
        "on {release}"
    );
}

/// Memory that is not registered, or only in part, goes by plain vectors.
#[test]
fn a_vector_may_leave_the_registered_window() {
    let config = Config {
        arena_bytes: 16 << 20,
        mask: Features::PLAIN_MEMORY_FILES,
        ..merging()
    };
    let Some(mut queue) = open(&Config {
        engine: small_ring().engine,
        ..config
    }) else {
        return;
    };
    let (file, _) = temp_file(&mut queue);
    // More than the window, in steps, so that a group has parts on both sides of its border.
    let leases: Vec<Lease> = (0..24).map(|value| filled(&mut queue, &[value; 256 << 10])).collect();
    for round in 0..2 {
        for (at, lease) in (0..).zip(&leases) {
            let (offset, data) = (at * (256 << 10), lease.data());
            let durable = false;
            let action = if round == 0 {
                Action::Write { offset, data, durable }
            } else {
                Action::Read { offset, data }
            };
            push(&mut queue, at, file, action);
        }
        assert!(finish(&mut queue).values().all(|result| *result == Ok(256 << 10)));
        for (value, lease) in (0..).zip(&leases) {
            assert!(queue.bytes(lease.data()).unwrap().iter().all(|&byte| byte == value));
            if round == 0 {
                queue.bytes_mut(lease.data()).unwrap().fill(0xff);
            }
        }
    }
    assert_eq!(queue.counters().merges, 2 * (24 - 6), "four parts of 256 KiB at a time");
    assert_eq!(run(&mut queue, file, Action::Flush), Ok(0));
    leases.into_iter().for_each(|lease| queue.free(lease));
}

/// The kernel has not looked at all vectors that were made for it when a call of our own needs one.
#[test]
fn calls_made_here_have_room_for_their_vectors_as_well() {
    let config = Config {
        size: 32,
        ..small_ring()
    };
    let Some(mut queue) = open(&config) else { return };
    let (memory, real) = temp_file(&mut queue);
    let (mut reader, writer) = std::io::pipe().unwrap();
    let pipe = queue.add_file(&FileHandle::new(writer)).unwrap();
    let mut leases = leases(&mut queue, 3);
    // Not in the order of the memory, so that there is something to gather.
    leases.reverse();
    for round in 0..100 {
        // It stands in the submission ring before the others, so their vectors are never all done with at once.
        queue.timer(queue.now(), token(99)).unwrap();
        for (at, lease) in (0..).zip(&leases) {
            write(&mut queue, at, pipe, lease, at * u64::from(LEN));
            write(&mut queue, 10 + at, memory, lease, at * u64::from(LEN));
        }
        assert!(finish(&mut queue).values().all(Result::is_ok));
        let merged = queue.counters().merges;
        assert_eq!(merged, 4 * (round + 1));
        let mut content = [0; 3 * LEN as usize];
        std::io::Read::read_exact(&mut reader, &mut content).unwrap();
        let expected = [[3; LEN as usize], [2; LEN as usize], [1; LEN as usize]].concat();
        assert_eq!(content[..], expected);
        real.read_exact_at(&mut content, 0).unwrap();
        assert_eq!(content[..], expected);
    }
    leases.into_iter().for_each(|lease| queue.free(lease));
}

/// What the kernel did not take goes back to where it was.
#[test]
fn what_does_not_fit_keeps_its_order() {
    let mut queue = Queue::new(&Config {
        engine: tqueue::EngineKind::Sync,
        size: 1,
        plan: PlanLimits {
            max_bytes: 2 * LEN,
            max_segments: 64,
        },
        ..small()
    })
    .unwrap();
    let (file, _) = temp_file(&mut queue);
    let leases = leases(&mut queue, 8);
    for (at, lease) in (0..).zip(&leases) {
        write(&mut queue, at, file, lease, at * u64::from(LEN));
    }
    let mut order = Vec::new();
    while !queue.is_idle() {
        queue.submit_and_wait(None).unwrap();
        order.extend(std::iter::from_fn(|| queue.next_completion()).map(|done| done.token.value()));
    }
    assert_eq!(order, [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(queue.counters().merges, 4);
    leases.into_iter().for_each(|lease| queue.free(lease));
}
