mod faults;

use std::time::Duration;

use iomgr_core::{Action, FileSlot, Lease, Op, OpError, OpQueue, Owner, Storage, Token};
use rustix::io::Errno;

use super::*;
use crate::{Config, EngineKind, Queue};

/// A machine with one file, and a queue on it.
struct Rig {
    machine: SimHandle,
    disk: SimDisk,
    queue: Queue,
    file: FileSlot,
}

impl Rig {
    fn new(seed: u64) -> Self {
        let machine = SimHandle::new(SimConfig::new(seed));
        let disk = machine.create_file();
        let (queue, file) = open(&machine, &disk);
        Self {
            machine,
            disk,
            queue,
            file,
        }
    }

    fn push(&mut self, value: u64, action: Action) {
        let token = Token::new(Owner(0), value);
        self.queue
            .push(Op {
                token,
                file: self.file,
                action,
            })
            .unwrap();
    }

    fn run(&mut self, action: Action) -> Result<u32, OpError> {
        self.push(0, action);
        self.queue.submit_and_wait(None).unwrap();
        self.queue.next_completion().unwrap().result
    }

    /// Runs everything to its end.
    fn finish(&mut self) -> Vec<Result<u32, OpError>> {
        let mut results = Vec::new();
        while !self.queue.is_idle() {
            self.queue.submit_and_wait(None).unwrap();
            results.extend(std::iter::from_fn(|| self.queue.next_completion()).map(|done| done.result));
        }
        results
    }

    fn lease(&mut self, byte: u8, len: u32) -> Lease {
        let lease = self.queue.alloc(len).unwrap();
        self.queue.bytes_mut(lease.data()).unwrap().fill(byte);
        lease
    }

    /// Writes `sectors` sectors of `byte` from sector `at`.
    fn write(&mut self, at: u64, byte: u8, sectors: u32, durable: bool) {
        let lease = self.lease(byte, sectors * 512);
        let action = Action::Write {
            offset: at * 512,
            data: lease.data(),
            durable,
        };
        assert_eq!(self.run(action), Ok(sectors * 512));
        self.queue.free(lease);
    }

    /// The first byte of each sector; `None` for one that is torn inside.
    fn sectors(&self) -> Vec<Option<u8>> {
        let mut bytes = vec![0; self.disk.len_bytes().unwrap() as usize];
        self.disk.read_at(&mut bytes, 0).unwrap();
        let whole = |s: &[u8]| s.iter().all(|b| *b == s[0]).then_some(s[0]);
        bytes.chunks(512).map(whole).collect()
    }
}

fn open(machine: &SimHandle, disk: &SimDisk) -> (Queue, FileSlot) {
    let config = Config {
        engine: EngineKind::Sim(machine.clone()),
        arena_bytes: 1 << 20,
        ..Config::default()
    };
    let mut queue = Queue::new(&config).unwrap();
    let file = queue.add_file(&disk.handle()).unwrap();
    (queue, file)
}

#[test]
fn a_write_takes_its_bytes_when_it_is_issued_or_late_when_it_is_done() {
    for (every, lands) in [(0, 7), (1, 0)] {
        let machine = SimHandle::new(SimConfig::calm(1).take_late_every(every));
        let disk = machine.create_file();
        let (queue, file) = open(&machine, &disk);
        let mut rig = Rig {
            machine,
            disk,
            queue,
            file,
        };
        let lease = rig.lease(7, 1024);
        rig.push(
            0,
            Action::Write {
                offset: 0,
                data: lease.data(),
                durable: false,
            },
        );
        rig.queue.submit().unwrap();
        assert!(rig.queue.bytes_mut(lease.data()).is_none(), "an op has it");
        assert!(rig.queue.fill_zeros(lease.data()), "no matter who has it");
        assert_eq!(rig.finish(), [Ok(1024)]);
        assert_eq!(rig.sectors(), [Some(lands); 2]);
    }
}

#[test]
fn what_was_flushed_survives_every_cut_and_the_rest_is_old_or_new() {
    let mut seen = std::collections::HashSet::new();
    for seed in 0..300 {
        let mut rig = Rig::new(seed);
        rig.write(0, 1, 8, false);
        assert_eq!(rig.run(Action::Flush), Ok(0));
        rig.write(2, 2, 4, false);
        rig.write(3, 3, 1, false);
        rig.machine.cut_power(seed);
        let sectors = rig.sectors();
        assert_eq!(sectors.len(), 8, "the flushed size survives");
        for (at, sector) in sectors.iter().enumerate() {
            let allowed: &[u8] = match at {
                3 => &[1, 2, 3],
                2..6 => &[1, 2],
                _ => &[1],
            };
            assert!(allowed.contains(&sector.unwrap()), "seed {seed}: {sectors:?}");
        }
        seen.insert(sectors);
    }
    assert!(seen.len() > 20, "{} different outcomes", seen.len());
}

#[test]
fn a_durable_write_survives_with_its_size_and_is_not_undone_by_an_older_one() {
    for seed in 0..200 {
        let mut rig = Rig::new(seed);
        rig.write(0, 1, 4, false);
        rig.write(2, 2, 4, true);
        rig.machine.cut_power(seed);
        let sectors = rig.sectors();
        assert_eq!(sectors.len(), 6);
        assert_eq!(sectors[2..], [Some(2); 4], "seed {seed}");
        assert!(sectors[..2].iter().all(|s| [Some(0), Some(1)].contains(s)));
    }
}

#[test]
fn a_size_may_be_lost_or_kept_without_its_bytes() {
    let (mut lost, mut empty, mut kept) = (0, 0, 0);
    for seed in 0..200 {
        let mut rig = Rig::new(seed);
        rig.write(0, 1, 1, false);
        rig.machine.cut_power(seed);
        match rig.sectors()[..] {
            [] => lost += 1,
            [Some(0)] => empty += 1,
            [Some(1)] => kept += 1,
            ref other => panic!("seed {seed}: {other:?}"),
        }
    }
    assert!(lost > 10 && empty > 10 && kept > 10, "{lost} {empty} {kept}");
}

#[test]
fn a_flush_covers_only_what_had_completed() {
    let mut outcomes = std::collections::HashSet::new();
    for seed in 0..200 {
        let mut rig = Rig::new(seed);
        rig.write(0, 1, 1, true);
        let lease = rig.lease(2, 512);
        let action = Action::Write {
            offset: 0,
            data: lease.data(),
            durable: false,
        };
        rig.push(1, action);
        rig.push(2, Action::Flush);
        while !rig.queue.is_idle() {
            rig.queue.submit_and_wait(None).unwrap();
            while rig.queue.next_completion().is_some() {}
        }
        rig.machine.cut_power(seed);
        outcomes.insert(rig.sectors()[0]);
    }
    assert_eq!(outcomes, [Some(1), Some(2)].into());
}

#[test]
fn a_flush_that_failed_is_not_made_good_by_the_next() {
    let mut lost = 0;
    for seed in 0..100 {
        let mut rig = Rig::new(seed);
        rig.write(0, 1, 1, true);
        rig.write(0, 2, 1, false);
        rig.disk.fail_flushes(true);
        assert_eq!(rig.run(Action::Flush), Err(OpError::Os(Errno::IO)));
        rig.disk.fail_flushes(false);
        assert_eq!(rig.run(Action::Flush), Ok(0));
        assert_eq!(rig.sectors(), [Some(2)], "the cache still has it");
        rig.machine.cut_power(seed);
        lost += u32::from(rig.sectors() == [Some(1)]);
    }
    assert!((10..90).contains(&lost), "{lost}");
}

#[test]
fn power_that_fails_at_a_step_changes_nothing_after_it() {
    for seed in 0..50 {
        let mut rig = Rig::new(seed);
        rig.write(0, 1, 1, true);
        rig.machine.fail_after(3);
        let lease = rig.lease(7, 512);
        for at in 0..8 {
            // Apart, so that each is a step of its own.
            rig.push(
                at,
                Action::Write {
                    offset: at * 1024,
                    data: lease.data(),
                    durable: true,
                },
            );
        }
        let mut good = Vec::new();
        while !rig.queue.is_idle() {
            rig.queue.submit_and_wait(None).unwrap();
            while let Some(done) = rig.queue.next_completion() {
                match done.result {
                    Ok(512) => good.push(done.token.value() as usize),
                    other => assert_eq!(other, Err(OpError::Os(Errno::IO))),
                }
            }
        }
        assert!(rig.machine.is_off() && good.len() == 3);
        assert!(rig.disk.sync().is_err());
        rig.machine.cut_power(seed);
        let sectors = rig.sectors();
        assert!(
            good.iter().all(|at| sectors[2 * at] == Some(7)),
            "seed {seed}: {good:?} {sectors:?}"
        );
        assert_eq!(
            rig.run(Action::Flush),
            Err(OpError::Os(Errno::IO)),
            "the old queue is of no use"
        );
        let (mut queue, file) = open(&rig.machine, &rig.disk);
        let token = Token::new(Owner(0), 0);
        queue
            .push(Op {
                token,
                file,
                action: Action::Flush,
            })
            .unwrap();
        queue.submit_and_wait(None).unwrap();
        assert_eq!(queue.next_completion().unwrap().result, Ok(0));
    }
}

#[test]
fn a_killed_process_loses_nothing_that_had_completed() {
    let mut outcomes = std::collections::HashSet::new();
    for seed in 0..200 {
        let mut rig = Rig::new(seed);
        rig.write(0, 1, 4, false);
        let lease = rig.lease(2, 4 * 512);
        rig.push(
            1,
            Action::Write {
                offset: 2 * 512,
                data: lease.data(),
                durable: false,
            },
        );
        rig.queue.submit().unwrap();
        rig.machine.kill(seed);
        let sectors = rig.sectors();
        assert_eq!(sectors[..2], [Some(1); 2]);
        outcomes.insert(sectors);
    }
    assert!(outcomes.len() >= 4, "none of it, all of it, parts of it");
}

#[test]
fn one_seed_is_one_run() {
    let history = |seed| {
        let mut rig = Rig::new(seed);
        let lease = rig.lease(1, 8192);
        for i in 0..50 {
            rig.push(
                i,
                Action::Write {
                    offset: i * 1024,
                    data: lease.data(),
                    durable: i % 7 == 0,
                },
            );
        }
        let mut order = Vec::new();
        while !rig.queue.is_idle() {
            rig.queue.submit_and_wait(None).unwrap();
            while let Some(done) = rig.queue.next_completion() {
                order.push((done, rig.queue.now()));
            }
        }
        rig.machine.cut_power(seed);
        (order, rig.sectors())
    };
    assert_eq!(history(5), history(5));
    assert_ne!(history(5).0, history(6).0);
    let (order, _) = history(5);
    assert!(
        !order.is_sorted_by_key(|(done, _)| done.token),
        "ops complete out of order"
    );
}

#[test]
fn faults_hit_what_they_are_set_on() {
    let mut rig = Rig::new(1);
    rig.write(0, 1, 8, false);
    rig.disk.limit_len(Some(9 * 512));
    let lease = rig.lease(2, 4 * 512);
    let long = Action::Write {
        offset: 7 * 512,
        data: lease.data(),
        durable: false,
    };
    assert_eq!(rig.run(long), Err(OpError::Os(Errno::NOSPC)));
    assert_eq!(rig.disk.len_bytes().unwrap(), 9 * 512, "it came short first");
    rig.disk.fail_range(512..513);
    let read = Action::Read {
        offset: 0,
        data: lease.data(),
    };
    assert_eq!(rig.run(read), Err(OpError::Os(Errno::IO)));
    rig.disk.fail_range(0..0);
    assert_eq!(rig.run(read), Ok(4 * 512));
    rig.disk.refuse_holes(true);
    let zeros = Action::WriteZeroes {
        offset: 512,
        len: 1 << 30,
        unmap: true,
        fast: false,
    };
    assert_eq!(rig.run(fast(zeros)), Err(OpError::Os(Errno::NOTSUP)));
    assert_eq!(rig.sectors()[1], Some(1));
    assert!(rig.run(zeros).is_ok(), "written, up to the end of the file");
    assert_eq!(rig.disk.len_bytes().unwrap(), 9 * 512);
    assert_eq!(rig.sectors()[..3], [Some(1), Some(0), Some(0)]);
}

fn fast(zeros: Action) -> Action {
    match zeros {
        Action::WriteZeroes { offset, len, unmap, .. } => Action::WriteZeroes {
            offset,
            len,
            unmap,
            fast: true,
        },
        other => other,
    }
}

#[test]
fn what_holes_do_is_fast_even_where_the_space_is_kept() {
    for unmap in [true, false] {
        let mut rig = Rig::new(1);
        rig.write(0, 1, 8, false);
        let (offset, len) = (512, 1024);
        let zeros = Action::WriteZeroes {
            offset,
            len,
            unmap,
            fast: true,
        };
        assert_eq!(rig.run(zeros), Ok(0));
        assert_eq!(rig.sectors()[..4], [Some(1), Some(0), Some(0), Some(1)]);
    }
}

#[test]
fn a_hint_ends_well() {
    let mut rig = Rig::new(1);
    rig.write(0, 1, 8, false);
    let (offset, len) = (512, 1 << 40);
    assert_eq!(rig.run(Action::Prefetch { offset, len }), Ok(0));
}

#[test]
fn a_block_device_keeps_its_size() {
    let machine = SimHandle::new(SimConfig::new(3));
    let disk = machine.create_block_device(4096);
    assert!(disk.is_block_device() && disk.set_len(8192).is_err());
    assert!(disk.write_at(&[1; 1024], 3584).is_err());
    disk.write_at(&[1; 512], 3584).unwrap();
    machine.cut_power(1);
    assert_eq!(disk.len_bytes().unwrap(), 4096);
}

#[test]
fn time_is_virtual() {
    let mut rig = Rig::new(1);
    let at = rig.queue.now() + Duration::from_secs(1 << 20);
    rig.queue.timer(at, Token::new(Owner(0), 1)).unwrap();
    rig.queue.submit_and_wait(None).unwrap();
    assert_eq!(rig.queue.next_completion().unwrap().result, Ok(0));
    assert!(rig.queue.now() >= at);
}

#[test]
fn what_comes_short_or_is_interrupted_is_made_whole() {
    let mut moods = 0;
    for seed in 0..20 {
        let mut rig = Rig::new(seed);
        let content: Vec<u8> = (0..64 * 5000u32).map(|i| (i % 251) as u8).collect();
        let leases: Vec<Lease> = content.chunks(5000).map(|part| filled(&mut rig.queue, part)).collect();
        for (i, lease) in (0..).zip(&leases) {
            rig.push(
                i,
                Action::Write {
                    offset: i * 5000,
                    data: lease.data(),
                    durable: false,
                },
            );
        }
        assert_eq!(rig.finish(), vec![Ok(5000); 64]);
        let mut now = vec![0; content.len()];
        rig.disk.read_at(&mut now, 0).unwrap();
        assert!(now == content, "seed {seed}");
        for (i, lease) in (0..).zip(&leases) {
            rig.queue.bytes_mut(lease.data()).unwrap().fill(0);
            rig.push(
                i,
                Action::Read {
                    offset: i * 5000,
                    data: lease.data(),
                },
            );
        }
        assert_eq!(rig.finish(), vec![Ok(5000); 64]);
        let read: Vec<u8> = leases
            .iter()
            .flat_map(|lease| rig.queue.bytes(lease.data()).unwrap().to_vec())
            .collect();
        assert!(read == content, "seed {seed}");
        let counters = rig.queue.counters();
        moods += counters.continued + counters.retried;
    }
    assert!(moods > 0, "the machine has its moods");
}

fn filled(queue: &mut Queue, bytes: &[u8]) -> Lease {
    let lease = queue.alloc(bytes.len() as u32).unwrap();
    queue.bytes_mut(lease.data()).unwrap().copy_from_slice(bytes);
    lease
}
