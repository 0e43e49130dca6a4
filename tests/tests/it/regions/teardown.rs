//! Ends of a client whose device owes answers: they neither hang nor free what the kernel works on.

use std::time::{Duration, Instant};

use dmio::{Client, ClientConfig, ErrorKind, IoRequest};
use iomgr_tests::wait;
use iomgr_tests::wait::PATIENCE;

use super::rig::{BAD, Below, GOOD, Notes, OLD, Rig, SECTORS, bounce, region, sectors};

const NEW: u8 = 0xAA;
const DRAIN: Duration = Duration::from_millis(100);

/// A client whose device owes answers for an orphan of each kind of memory, and for a write that nobody has given up.
fn stalled(drain_max: Duration) -> Option<(Client, Below)> {
    let mut rig = Rig::with(|config| ClientConfig { drain_max, ..config })?;
    rig.throttle.stall();
    let notes = Notes::default();
    let pool = rig.pool(NEW);
    for (start, memory) in [(0, bounce(NEW)), (SECTORS, pool)] {
        let handle = rig.start(IoRequest::write(&[region(BAD, start, SECTORS)], memory), &notes);
        assert_eq!(handle.cancel().unwrap(), 1);
    }
    rig.poll_until(|_| notes.len() == 2);
    let legs = [region(GOOD, 2 * SECTORS, SECTORS), region(BAD, 2 * SECTORS, SECTORS)];
    drop(rig.start(IoRequest::write(&legs, bounce(NEW)), &Notes::default()));
    Some(rig.part())
}

/// What the stalled device has where that was written.
fn on_bad(below: &Below) -> Vec<u8> {
    sectors(&below.backing[usize::from(BAD)], 0, 3 * SECTORS)
}

#[test]
fn regions_teardown_of_a_client_with_orphans_is_short_and_frees_nothing() {
    let Some((client, below)) = stalled(DRAIN) else { return };
    let start = Instant::now();
    drop(client);
    let took = start.elapsed();
    println!("dropped in {took:?}, with {DRAIN:?} for devices to answer");
    assert!(took < PATIENCE, "it waited for the stall to end");
    assert_eq!(on_bad(&below), [OLD; 24], "nothing has moved");

    // Whoever gets memory now gets none that the kernel reads.
    let heap: Vec<_> = (0..64).map(|_| vec![0xC3_u8; 256 << 10]).collect();
    below.throttle.lift();
    let landed = wait::until(|| on_bad(&below) == [NEW; 24]);
    assert!(landed, "{:x?}", on_bad(&below));
    assert!(heap.iter().flatten().all(|&byte| byte == 0xC3));
    let Below {
        throttle, devices, dir, ..
    } = below;
    drop(throttle);
    // The ring that was left has them open until this process ends.
    devices.into_iter().for_each(iomgr_tests::Loop::leave);
    drop(dir);
}

/// The late answer is what it waits for: nothing else happens.
#[test]
fn regions_teardown_waits_for_the_last_late_answer() {
    let Some(mut rig) = Rig::new() else { return };
    rig.throttle.stall();
    let notes = Notes::default();
    let handle = rig.start(IoRequest::write(&[region(BAD, 0, SECTORS)], bounce(NEW)), &notes);
    assert_eq!(handle.cancel().unwrap(), 1);
    rig.poll_until(|_| notes.len() == 1);
    drop(handle);
    let (client, below) = rig.part();
    let (start, never) = (Instant::now(), client.now() + PATIENCE);
    below.lift_meanwhile(|| client.destroy_wait(Some(never)).unwrap());
    assert!(start.elapsed() < PATIENCE, "it has slept through the answer");
}

/// Within its short time, dropping waits for devices to answer, and then leaves nothing behind.
#[test]
fn regions_teardown_waits_a_little_for_devices() {
    let Some((client, below)) = stalled(PATIENCE) else {
        return;
    };
    below.lift_meanwhile(|| drop(client));
    assert_eq!(on_bad(&below), [NEW; 24]);
}

#[test]
fn regions_teardown_is_refused_while_answers_are_owed() {
    let Some((client, below)) = stalled(DRAIN) else { return };
    let refused = client.destroy().unwrap_err();
    assert_eq!(refused.error.kind(), ErrorKind::Busy);
    let soon = refused.client.now() + DRAIN;
    let refused = refused.client.destroy_wait(Some(soon)).unwrap_err();
    assert_eq!(refused.error.kind(), ErrorKind::Busy);
    assert!(refused.error.to_string().contains("2 regions"), "{}", refused.error);
    assert!(refused.client.now() >= soon, "it has waited as long as it was to");
    below.throttle.lift();
    refused.client.destroy_wait(None).unwrap();
    assert_eq!(on_bad(&below), [NEW; 24]);
}
