//! What goes wrong on demand, and the trace of it.

use insta::assert_snapshot;

use super::*;
use crate::sim::{Fault, OpKinds};

/// A rig whose machine has no moods: every op takes 100 µs.
fn calm() -> Rig {
    calm_with(1)
}

fn calm_with(seed: u64) -> Rig {
    let time = Duration::from_micros(100);
    let machine = SimHandle::new(SimConfig::calm(seed).latency(time..time));
    let disk = machine.create_file();
    let (queue, file) = open(&machine, &disk);
    let mut rig = Rig {
        machine,
        disk,
        queue,
        file,
    };
    rig.write(0, 1, 8, true);
    rig
}

impl Rig {
    fn read(&mut self, sector: u64) -> Result<u32, OpError> {
        let lease = self.lease(0, 512);
        let result = self.run(Action::Read {
            offset: sector * 512,
            data: lease.data(),
        });
        self.queue.free(lease);
        result
    }

    /// Pushes a write of eight sectors.
    fn begin_write(&mut self, byte: u8) {
        let lease = self.lease(byte, 8 * 512);
        self.push(
            u64::from(byte),
            Action::Write {
                offset: 0,
                data: lease.data(),
                durable: false,
            },
        );
        self.queue.free(lease);
    }

    /// Waits at most a second.
    fn wait(&mut self) -> Option<Result<u32, OpError>> {
        self.queue.submit_and_wait(Some(Duration::from_secs(1))).unwrap();
        self.queue.next_completion().map(|done| done.result)
    }

    fn micros(&self) -> u128 {
        self.machine.now().since(START).as_micros()
    }
}

#[test]
fn an_error_hits_its_kind_and_place_at_its_rate() {
    let mut rig = calm();
    let fault = Fault::error(Errno::STALE).on(OpKinds::READ).within(1024..1025);
    rig.disk.inject(fault.one_in(4));
    let results: Vec<_> = (0..400).map(|_| rig.read(2)).collect();
    let failed = results
        .iter()
        .filter(|result| **result == Err(OpError::Os(Errno::STALE)));
    assert!((60..140).contains(&failed.count()), "a quarter or so");
    assert!((0..100).all(|_| rig.read(1) == Ok(512) && rig.read(3) == Ok(512)));
    rig.write(0, 2, 8, false);
    rig.disk.heal();
    assert!((0..100).all(|_| rig.read(2) == Ok(512)));
}

#[test]
fn a_fault_can_be_used_up() {
    let mut rig = calm();
    rig.disk.inject(Fault::error(Errno::IO).times(2));
    let failed = Err(OpError::Os(Errno::IO));
    assert_eq!([rig.read(0), rig.read(0), rig.read(0)], [failed, failed, Ok(512)]);
    rig.disk.inject(Fault::error(Errno::IO).times(1));
    assert!(
        rig.disk.sync().is_err() && rig.disk.sync().is_ok(),
        "blocking calls meet it, too"
    );
}

#[test]
fn lack_of_resources_is_tried_again_by_the_queue_and_then_told() {
    let mut rig = calm();
    rig.disk.inject(Fault::error(Errno::AGAIN).times(3));
    assert_eq!(rig.read(0), Ok(512));
    rig.disk.inject(Fault::error(Errno::AGAIN));
    assert_eq!(rig.read(0), Err(OpError::Os(Errno::AGAIN)));
}

#[test]
fn a_failed_write_did_nothing_or_some_of_its_sectors() {
    let mut outcomes = std::collections::HashSet::new();
    for seed in 0..100 {
        let (torn, mut rig) = (seed % 2 == 0, calm_with(seed));
        let fault = if torn { Fault::torn_error } else { Fault::error };
        rig.disk.inject(fault(Errno::IO).on(OpKinds::WRITE));
        rig.begin_write(2);
        assert_eq!(rig.finish(), [Err(OpError::Os(Errno::IO))]);
        let sectors = rig.sectors();
        assert!(
            sectors.iter().all(|sector| [Some(1), Some(2)].contains(sector)),
            "{sectors:?}"
        );
        assert!(torn || sectors == [Some(1); 8]);
        outcomes.insert(sectors);
    }
    assert!(outcomes.len() > 5, "{outcomes:?}");
}

#[test]
fn a_flush_that_is_refused_loses_nothing_and_one_that_fails_does() {
    for (errno, may_lose) in [(Errno::BUSY, false), (Errno::IO, true)] {
        let mut lost = 0;
        for seed in 0..40 {
            let mut rig = calm_with(seed);
            rig.write(0, 2, 8, false);
            rig.disk.inject(Fault::error(errno).on(OpKinds::FLUSH).times(1));
            assert_eq!(rig.run(Action::Flush), Err(OpError::Os(errno)));
            assert_eq!(rig.run(Action::Flush), Ok(0));
            rig.machine.cut_power(seed);
            lost += u32::from(rig.sectors() != [Some(2); 8]);
        }
        assert_eq!(lost > 0, may_lose, "{errno:?}");
    }
}

#[test]
fn a_delayed_op_is_done_later_and_a_late_one_only_told_later() {
    let mut rig = calm();
    rig.disk.inject(Fault::delay(Duration::from_micros(300)).times(1));
    rig.begin_write(2);
    rig.queue.submit_and_wait(Some(Duration::from_micros(200))).unwrap();
    assert_eq!(rig.sectors(), [Some(1); 8]);
    let started = rig.micros();
    assert_eq!(rig.finish(), [Ok(4096)]);
    assert!((150..250).contains(&(rig.micros() - started)));

    rig.disk.inject(Fault::late(Duration::from_micros(300)).times(1));
    rig.begin_write(3);
    rig.queue.submit_and_wait(Some(Duration::from_micros(200))).unwrap();
    assert!(rig.queue.next_completion().is_none());
    assert_eq!((rig.sectors(), rig.disk.in_flight()), (vec![Some(3); 8], 1));
    assert_eq!(rig.finish(), [Ok(4096)]);
}

#[test]
fn what_is_held_goes_on_when_released_and_cannot_be_cancelled() {
    let mut rig = calm();
    rig.disk.inject(Fault::hold().on(OpKinds::WRITE).times(1));
    rig.begin_write(2);
    assert_eq!(rig.wait(), None);
    let cancelled = rig.queue.cancel(Token::new(Owner(0), 2));
    assert_eq!((cancelled.never_started, cancelled.detached), (0, 1), "the disk has it");
    assert_eq!(rig.wait(), None);
    assert_eq!(rig.read(0), Ok(512), "others go on");
    assert_eq!(rig.sectors(), [Some(1); 8]);
    rig.disk.release();
    assert_eq!(rig.wait(), Some(Ok(4096)));
    assert_eq!(rig.sectors(), [Some(2); 8], "a ghost write");
}

#[test]
fn a_file_stalls_alone_and_a_machine_as_a_whole() {
    let mut rig = calm();
    let other = rig.machine.create_block_device(4096);
    let file = rig.queue.add_file(&other.handle()).unwrap();
    let flush = |value| Op {
        token: Token::new(Owner(0), value),
        file,
        action: Action::Flush,
    };
    rig.disk.stall();
    rig.begin_write(2);
    assert_eq!(rig.wait(), None);
    rig.queue.push(flush(7)).unwrap();
    assert_eq!(rig.wait(), Some(Ok(0)));
    rig.machine.stall();
    rig.queue.push(flush(8)).unwrap();
    rig.disk.release();
    assert_eq!(rig.wait(), None, "all of the machine stalls");
    rig.queue.timer(rig.queue.now(), Token::new(Owner(0), 9)).unwrap();
    assert_eq!(rig.wait(), Some(Ok(0)), "but not its clock");
    rig.machine.release();
    assert_eq!(rig.finish().len(), 2);
}

#[test]
fn a_stall_can_end_by_itself() {
    let mut rig = calm();
    let started = rig.micros();
    rig.machine.stall_for(Duration::from_secs(5));
    assert_eq!(rig.run(Action::Flush), Ok(0));
    assert!(rig.micros() - started >= 5_000_000);
    rig.disk.stall_for(Duration::from_secs(5));
    assert_eq!(rig.run(Action::Flush), Ok(0));
    assert!(rig.micros() - started >= 10_000_000);
}

#[test]
fn what_finds_no_room_stays_in_the_queue() {
    let mut rig = calm();
    rig.machine.refuse_submissions(true);
    (2..5).for_each(|byte| rig.begin_write(byte));
    assert_eq!(rig.wait(), None);
    assert_eq!(rig.disk.in_flight(), 0);
    let cancelled = rig.queue.cancel(Token::new(Owner(0), 3));
    assert_eq!(cancelled.never_started, 1);
    rig.machine.refuse_submissions(false);
    assert_eq!(rig.finish(), [Err(OpError::NeverStarted), Ok(4096), Ok(4096)]);
    assert_eq!(rig.sectors(), [Some(4); 8], "in their order");
}

#[test]
fn a_wait_ends_when_nothing_can_happen_any_more() {
    let mut rig = calm();
    rig.disk.stall();
    rig.begin_write(2);
    rig.queue.submit().unwrap();
    rig.machine.refuse_submissions(true);
    rig.begin_write(3);
    rig.queue.submit_and_wait(None).unwrap();
    assert!(rig.queue.next_completion().is_none());
    assert_eq!(rig.queue.counters().stuck, 1, "what was issued");
    rig.machine.refuse_submissions(false);
    rig.disk.release();
    assert_eq!(rig.finish(), [Ok(4096), Ok(4096)]);
}

#[test]
fn power_that_fails_ends_what_stalls() {
    let mut rig = calm();
    rig.disk.stall();
    rig.begin_write(2);
    rig.queue.submit().unwrap();
    rig.machine.fail_after(0);
    assert_eq!(rig.finish(), [Err(OpError::Os(Errno::IO))]);
    rig.machine.cut_power(1);
    let sectors = rig.sectors();
    assert!(
        sectors.iter().all(|sector| [Some(1), Some(2)].contains(sector)),
        "{sectors:?}"
    );
}

#[test]
fn a_queue_is_dropped_while_an_op_hangs() {
    let mut rig = calm();
    rig.disk.stall();
    rig.begin_write(2);
    rig.queue.submit().unwrap();
    let started = rig.micros();
    std::mem::drop(rig.queue);
    let waited = rig.machine.now().since(START).as_micros() - started;
    assert!(
        waited >= 30_000_000,
        "it waited for its 30 seconds, {waited} µs, and left its memory to the op"
    );
    rig.disk.release();
    assert_eq!(rig.disk.in_flight(), 1);
}

#[test]
fn the_trace_shows_what_happened() {
    let mut rig = calm();
    rig.machine.record(100);
    rig.disk
        .inject(Fault::late(Duration::from_micros(50)).on(OpKinds::WRITE));
    rig.disk.inject(Fault::error(Errno::IO).on(OpKinds::READ));
    rig.begin_write(2);
    rig.queue.submit().unwrap();
    assert_eq!(rig.read(1), Err(OpError::Os(Errno::IO)));
    rig.finish();
    rig.disk.stall();
    rig.push(5, Action::Flush);
    rig.machine.refuse_submissions(true);
    rig.queue.submit().unwrap();
    rig.machine.refuse_submissions(false);
    rig.queue.submit().unwrap();
    rig.disk.release();
    rig.finish();
    rig.disk.set_len(512).unwrap();
    rig.machine.cut_power(7);
    assert_snapshot!(rig.machine.trace(), @r"
    100.000 µs  #1 q0 file 0: write 0+4096
    101.000 µs  #2 q0 file 0: read 512+512
    200.000 µs  #1 done, not told yet
    201.000 µs  #2 = EIO
    250.000 µs  #1 = 4096
    250.000 µs  file 0 stalls
    250.000 µs  q0 finds no room
    251.000 µs  #3 q0 file 0: flush
    252.000 µs  file 0 is released
    351.000 µs  #3 = 0
    351.000 µs  file 0: blocking set length 512
    351.000 µs  power cut, seed 7
    ");
    rig.machine.record(1);
    assert!(rig.disk.sync().is_ok() && rig.disk.sync().is_ok());
    assert_eq!(
        (rig.machine.trace().events.len(), rig.machine.trace().forgotten),
        (1, 1)
    );
}

#[test]
fn one_seed_is_one_trace() {
    let trace = |seed| {
        let machine = SimHandle::new(SimConfig::new(seed).refuse_every(3));
        machine.record(1000);
        let disk = machine.create_file();
        disk.inject(Fault::torn_error(Errno::IO).one_in(3));
        disk.inject(Fault::late(Duration::from_millis(1)).one_in(3));
        let (queue, file) = open(&machine, &disk);
        let mut rig = Rig {
            machine,
            disk,
            queue,
            file,
        };
        (1..50).for_each(|byte| rig.begin_write(byte));
        rig.finish();
        rig.machine.cut_power(seed);
        (rig.machine.trace(), rig.sectors())
    };
    assert_eq!(trace(3), trace(3));
    assert_ne!(trace(3), trace(4));
}

/// Not for ever, without a pause: whoever pushed the op can wait before the next time.
#[test]
fn an_op_that_is_always_interrupted_ends() {
    let mut rig = calm();
    rig.disk.inject(Fault::error(Errno::INTR));
    assert_eq!(rig.read(0), Err(OpError::Os(Errno::INTR)));
    for byte in [1, 2] {
        rig.begin_write(byte);
    }
    assert_eq!([rig.wait(), rig.wait()], [Some(Err(OpError::Os(Errno::INTR))); 2]);
    rig.disk.heal();
    assert_eq!(rig.read(0), Ok(512));
}
