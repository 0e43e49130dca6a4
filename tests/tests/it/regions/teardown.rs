//! Ends of a client whose device owes answers: they neither hang nor free what the kernel works on.

use std::time::{Duration, Instant};

use dmio::{ClientConfig, ErrorKind, IoRequest};
use iomgr_tests::wait;
use iomgr_tests::wait::PATIENCE;

use super::rig::{BAD, GOOD, Notes, OLD, Rig, SECTORS, bounce, region, sectors};

const NEW: u8 = 0xAA;
const DRAIN: Duration = Duration::from_millis(100);

/// An orphan of each kind of memory, and a write that nobody has given up.
fn stall(rig: &mut Rig) {
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
}

#[test]
fn regions_teardown_of_a_client_with_orphans_is_short_and_frees_nothing() {
    let Some(mut rig) = Rig::with(|config| ClientConfig {
        drain_max: DRAIN,
        ..config
    }) else {
        return;
    };
    stall(&mut rig);
    let Rig {
        client,
        throttle,
        backing,
        devices,
        dir,
    } = rig;
    let start = Instant::now();
    drop(client);
    let took = start.elapsed();
    println!("dropped in {took:?}, with {DRAIN:?} for devices to answer");
    assert!(took < PATIENCE, "it waited for the stall to end");
    assert_eq!(sectors(&backing[1], 0, 3 * SECTORS), [OLD; 24], "nothing has moved");

    // Whoever gets memory now gets none that the kernel reads.
    let heap: Vec<_> = (0..64).map(|_| vec![0xC3_u8; 256 << 10]).collect();
    throttle.lift();
    let landed = wait::until(|| sectors(&backing[1], 0, 3 * SECTORS) == [NEW; 24]);
    assert!(landed, "{:x?}", sectors(&backing[1], 0, 3 * SECTORS));
    assert!(heap.iter().flatten().all(|&byte| byte == 0xC3));
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
    let Rig {
        client,
        throttle,
        devices,
        dir,
        ..
    } = rig;
    let (start, never) = (Instant::now(), client.now() + PATIENCE);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::park_timeout(DRAIN);
            throttle.lift();
        });
        client.destroy_wait(Some(never)).unwrap();
    });
    assert!(start.elapsed() < PATIENCE, "it has slept through the answer");
    drop((throttle, devices, dir));
}

/// Within its short time, dropping waits for devices to answer, and then leaves nothing behind.
#[test]
fn regions_teardown_waits_a_little_for_devices() {
    let Some(mut rig) = Rig::with(|config| ClientConfig {
        drain_max: PATIENCE,
        ..config
    }) else {
        return;
    };
    stall(&mut rig);
    let Rig {
        client,
        throttle,
        backing,
        devices,
        dir,
    } = rig;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::park_timeout(DRAIN);
            throttle.lift();
        });
        drop(client);
    });
    assert_eq!(sectors(&backing[1], 0, 3 * SECTORS), [NEW; 24]);
    drop((throttle, devices, dir));
}

#[test]
fn regions_teardown_is_refused_while_answers_are_owed() {
    let Some(mut rig) = Rig::new() else { return };
    stall(&mut rig);
    let Rig {
        client,
        throttle,
        backing,
        devices,
        dir,
    } = rig;
    let refused = client.destroy().unwrap_err();
    assert_eq!(refused.error.kind(), ErrorKind::Busy);
    let soon = refused.client.now() + DRAIN;
    let refused = refused.client.destroy_wait(Some(soon)).unwrap_err();
    assert_eq!(refused.error.kind(), ErrorKind::Busy);
    assert!(refused.error.to_string().contains("2 regions"), "{}", refused.error);
    assert!(refused.client.now() >= soon, "it has waited as long as it was to");
    throttle.lift();
    refused.client.destroy_wait(None).unwrap();
    assert_eq!(sectors(&backing[1], 0, 3 * SECTORS), [NEW; 24]);
    drop((throttle, devices, dir));
}
