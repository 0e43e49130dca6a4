//! Whose memory it is after CANCELLED.

use std::time::Duration;

use dmio::{Cancelled, Client, IoRequest, Memory, Reason, RegionState};

use super::rig::{BAD, GOOD, LEN, Notes, OLD, Rig, SECTORS, bounce, region};

const CANARY: u8 = 0xC3;
const NEW: u8 = 0xAA;

fn given_up() -> RegionState {
    RegionState::Cancelled(Cancelled {
        reason: Reason::Handle,
        never_started: false,
    })
}

/// Starts a request on the stalled device and gives it up.
fn give_up(rig: &mut Rig, request: IoRequest<'_>) -> Notes {
    let notes = Notes::default();
    let handle = rig.start(request, &notes);
    assert_eq!(handle.cancel().unwrap(), 1);
    rig.poll_until(|_| notes.len() == 1);
    assert_eq!(notes.of_one(), [given_up()]);
    notes
}

#[test]
fn regions_memory_of_a_cancelled_read_is_the_callers() {
    let Some(mut rig) = Rig::new() else { return };
    rig.throttle.stall_reads();
    let at = [region(BAD, 64, SECTORS)];
    let notes = give_up(&mut rig, IoRequest::read(&at, bounce(1)));
    let mut memory = notes.take_bounce();
    assert_eq!(memory, [1; LEN], "a cancelled read leaves it as it was");
    // It may be freed, and used for anything else.
    memory.fill(CANARY);
    let leases = rig.lease_all(CANARY);
    rig.throttle.lift();
    rig.settle();
    assert_eq!(rig.client.counters().late, 1);
    assert_eq!(memory, [CANARY; LEN], "the late answer wrote to the caller's memory");
    rig.free_all(leases, CANARY);
    assert!(rig.client.destroy().is_ok());
}

#[test]
fn regions_memory_of_a_cancelled_pool_read_is_nobody_elses() {
    let Some(mut rig) = Rig::new() else { return };
    let all = rig.lease_all(0);
    let pages = all.len();
    rig.free_all(all, 0);
    rig.throttle.stall_reads();
    for at in 0..4 {
        let (memory, at) = (rig.pool(1), [region(BAD, at * SECTORS, SECTORS)]);
        let notes = give_up(&mut rig, IoRequest::read(&at, memory));
        assert!(matches!(notes.take()[0].0.memory, Memory::None), "an orphan has it");
    }
    let leases = rig.lease_all(CANARY);
    assert_eq!(
        leases.len(),
        pages - 4,
        "memory that the kernel may write to was leased again"
    );
    rig.throttle.lift();
    rig.settle();
    rig.free_all(leases, CANARY);
    let again = rig.lease_all(CANARY);
    assert_eq!(again.len(), pages, "what orphans had is back in the pool");
    rig.free_all(again, CANARY);
    assert!(rig.client.destroy().is_ok());
}

/// Each sector of a region is old or new when its orphan has ended.
fn check_landed(rig: &Rig, start: u64) {
    let landed = rig.on_disk(BAD, start, SECTORS);
    assert!(landed.iter().all(|&byte| [OLD, NEW].contains(&byte)), "{landed:x?}");
}

#[test]
fn regions_memory_of_a_cancelled_write_is_not_written_later() {
    let Some(mut rig) = Rig::new() else { return };
    rig.throttle.stall();
    let at = [region(BAD, 64, SECTORS)];
    let mut memory = give_up(&mut rig, IoRequest::write(&at, bounce(NEW))).take_bounce();
    memory.fill(CANARY);
    // Other requests are copied meanwhile, to and from cells.
    for start in 0..8 {
        let at = [region(GOOD, start * SECTORS, SECTORS)];
        let outcome = rig.client.io_sync(IoRequest::write(&at, bounce(CANARY)), None).unwrap();
        assert_eq!(outcome.error_mask, 0);
    }
    assert_eq!(rig.on_disk(BAD, 64, SECTORS), [OLD; 8], "it is not there yet");
    rig.throttle.lift();
    rig.settle();
    check_landed(&rig, 64);
    assert_eq!(rig.on_disk(GOOD, 0, 8 * SECTORS), [CANARY; 64]);
    assert!(rig.client.destroy().is_ok());
}

#[test]
fn regions_memory_of_a_cancelled_pool_write_is_not_written_later() {
    let Some(mut rig) = Rig::new() else { return };
    rig.throttle.stall();
    for at in 0..4 {
        let (memory, at) = (rig.pool(NEW), [region(BAD, at * SECTORS, SECTORS)]);
        give_up(&mut rig, IoRequest::write(&at, memory));
    }
    let leases = rig.lease_all(CANARY);
    rig.throttle.lift();
    rig.settle();
    (0..4).for_each(|at| check_landed(&rig, at * SECTORS));
    rig.free_all(leases, CANARY);
    assert!(rig.client.destroy().is_ok());
}

/// A write of which the device has seen nothing never lands.
#[test]
fn regions_memory_of_what_never_started_is_never_written() {
    let Some(mut rig) = Rig::new() else { return };
    rig.throttle.stall();
    let notes = Notes::default();
    let at = [region(BAD, 64, SECTORS)];
    // Not polled: it has not left the client.
    let handle = rig
        .client
        .io(IoRequest::write(&at, bounce(NEW)), Some(notes.listener()))
        .unwrap();
    assert_eq!(handle.cancel().unwrap(), 1);
    rig.client.poll(Some(Duration::from_millis(20))).unwrap();
    let never = RegionState::Cancelled(Cancelled {
        reason: Reason::Handle,
        never_started: true,
    });
    assert_eq!((notes.of_one(), orphans(&mut rig.client)), (vec![never], 0));
    rig.throttle.lift();
    let outcome = rig
        .client
        .io_sync(IoRequest::flush(&[region(BAD, 0, 0)]), None)
        .unwrap();
    assert_eq!(outcome.error_mask, 0);
    assert_eq!(rig.on_disk(BAD, 64, SECTORS), [OLD; 8]);
    drop(handle);
    assert!(rig.client.destroy().is_ok());
}

fn orphans(client: &mut Client) -> u32 {
    client.occupancy().orphans
}
