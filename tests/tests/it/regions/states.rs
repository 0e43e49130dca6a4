//! Which states regions of a stalled device go through, and what becomes of the device.

use std::time::{Duration, Instant};

use dmio::{Cancelled, DeviceIndex, Event, IoFlags, IoRequest, Reason, RegionState};
use iomgr_core::Errno;
use iomgr_tests::Loop;

use super::rig::{BAD, Events, GOOD, Notes, OLD, Rig, SECTORS, backing, bounce, open, region, sectors};

const TIMEOUT: Duration = Duration::from_millis(50);
const DEVICE: DeviceIndex = DeviceIndex(BAD);

fn cancelled(reason: Reason) -> RegionState {
    RegionState::Cancelled(Cancelled {
        reason,
        never_started: false,
    })
}

#[test]
fn regions_states_after_a_timeout_the_io_goes_on() {
    let Some(mut rig) = Rig::new() else { return };
    rig.throttle.stall();
    let (notes, begun) = (Notes::default(), rig.client.now());
    let legs = [region(GOOD, 0, SECTORS), region(BAD, 0, SECTORS)];
    let request = IoRequest::write(&legs, bounce(0xAA)).timeout(TIMEOUT);
    let handle = rig.start(request, &notes);
    rig.poll_until(|_| notes.len() == 2);
    assert_eq!(notes.states(), [(0, RegionState::Ok), (1, RegionState::Timeout)]);
    assert!(!handle.is_over() && rig.client.occupancy().orphans == 0);
    rig.throttle.lift();
    rig.poll_until(|_| notes.len() == 3);
    let told = notes.take();
    assert!(told[1].0.at.since(begun) >= TIMEOUT, "no timeout is early");
    assert_eq!(
        (told[2].0.region, told[2].0.state, told[2].0.is_last),
        (1, RegionState::Ok, true)
    );
    assert_eq!(rig.on_disk(BAD, 0, SECTORS), [0xAA; 8]);
    drop(handle);
    assert!(rig.client.destroy().is_ok());
}

#[test]
fn regions_states_cancel_on_timeout_is_one_notification() {
    let Some(mut rig) = Rig::new() else { return };
    rig.throttle.stall();
    let notes = Notes::default();
    let legs = [region(GOOD, 0, SECTORS), region(BAD, 0, SECTORS)];
    let request = IoRequest::write(&legs, bounce(0xAA)).timeout(TIMEOUT);
    let handle = rig.start(request.flags(IoFlags::CANCEL_ON_TIMEOUT), &notes);
    rig.poll_until(|_| handle.is_over());
    rig.pass_time(TIMEOUT);
    assert_eq!(notes.states(), [(0, RegionState::Ok), (1, cancelled(Reason::Timeout))]);
    rig.throttle.lift();
    rig.settle();
    assert_eq!(notes.len(), 2, "a late answer is no notification");
    drop(handle);
    assert!(rig.client.destroy().is_ok());
}

/// A synchronous call returns when its regions are over, and they are at the timeout.
#[test]
fn regions_states_sync_with_a_timeout_returns() {
    let Some(mut rig) = Rig::new() else { return };
    rig.throttle.stall();
    let legs = [region(GOOD, 0, SECTORS), region(BAD, 0, SECTORS)];
    let begun = Instant::now();
    let outcome = rig
        .client
        .io_sync(IoRequest::write(&legs, bounce(0xAA)).timeout(TIMEOUT), None)
        .unwrap();
    println!("a timeout of {TIMEOUT:?}: it returned after {:?}", begun.elapsed());
    assert_eq!(outcome.error_mask, 0b10);
    assert_eq!(&outcome.states[..], [RegionState::Ok, cancelled(Reason::Timeout)]);
    assert_eq!(rig.on_disk(BAD, 0, SECTORS), [OLD; 8], "it is stalled still");
    rig.throttle.lift();
    rig.settle();
    assert!(rig.client.destroy().is_ok());
}

/// A choice goes on to the next candidate when one is late, and the first good answer is enough.
#[test]
fn regions_states_a_choice_does_not_wait_for_the_stalled_device() {
    let Some(mut rig) = Rig::new() else { return };
    rig.throttle.stall_reads();
    let notes = Notes::default();
    let legs = [region(BAD, 0, SECTORS), region(GOOD, 0, SECTORS)];
    drop(rig.start(IoRequest::read(&legs, bounce(0)).timeout(TIMEOUT), &notes));
    rig.poll_until(|_| notes.len() == 3);
    let mut states = notes.states();
    states.sort_by_key(|(region, state)| (*region, state.is_terminal()));
    let expected = [
        (0, RegionState::Timeout),
        (0, cancelled(Reason::Unneeded)),
        (1, RegionState::Ok),
    ];
    assert_eq!((&states[..], rig.client.counters().hedged), (&expected[..], 1));
    assert_eq!(notes.take_bounce(), [OLD; 4096]);
    rig.throttle.lift();
    rig.settle();
    assert!(rig.client.destroy().is_ok());
}

#[test]
fn regions_states_too_many_orphans_degrade_a_device() {
    let Some(mut rig) = Rig::with(|config| dmio::ClientConfig {
        orphans_max: 3,
        ..config
    }) else {
        return;
    };
    let events = Events::of(&mut rig.client);
    rig.throttle.stall();
    for at in 0..3 {
        let notes = Notes::default();
        let handle = rig.start(
            IoRequest::write(&[region(BAD, at * SECTORS, SECTORS)], bounce(1)),
            &notes,
        );
        handle.cancel().unwrap();
        rig.poll_until(|_| notes.len() == 1);
    }
    rig.poll_until(|_| events.all() == [Event::Degraded(DEVICE)]);
    let legs = [region(GOOD, 64, SECTORS), region(BAD, 64, SECTORS)];
    let outcome = rig.client.io_sync(IoRequest::write(&legs, bounce(2)), None).unwrap();
    assert_eq!(
        &outcome.states[..],
        [RegionState::Ok, RegionState::Error(Errno::TIMEDOUT)],
        "it fails fast, and others go on"
    );
    rig.throttle.lift();
    rig.settle();
    rig.poll_until(|_| events.all().contains(&Event::Healthy(DEVICE)));
    let outcome = rig.client.io_sync(IoRequest::write(&legs, bounce(2)), None).unwrap();
    assert_eq!((outcome.error_mask, rig.on_disk(BAD, 64, 8)), (0, vec![2; 8]));
    assert!(rig.client.destroy().is_ok());
}

/// The kernel runs flushes, discards and zeroes in threads that all devices share.
#[test]
fn regions_states_a_stalled_device_takes_no_thread_that_another_needs() {
    let Some(mut rig) = Rig::new() else { return };
    rig.throttle.stall();
    // More than four for each CPU of small machines.
    for at in 0..64 {
        drop(rig.start(
            IoRequest::write_zeroes(&[region(BAD, at * SECTORS, SECTORS)]),
            &Notes::default(),
        ));
    }
    rig.client.poll(Some(Duration::ZERO)).unwrap();
    let notes = Notes::default();
    drop(rig.start(IoRequest::flush(&[region(GOOD, 0, 0)]), &notes));
    rig.poll_until(|_| notes.len() == 1);
    assert_eq!(notes.of_one(), [RegionState::Ok]);
    rig.throttle.lift();
    rig.poll_until(|client| client.occupancy().requests == 0);
    assert!(rig.client.destroy().is_ok());
}

#[test]
fn regions_states_a_fenced_device_takes_nothing() {
    let Some(mut rig) = Rig::new() else { return };
    rig.throttle.stall();
    let notes = Notes::default();
    drop(rig.start(IoRequest::write(&[region(BAD, 0, SECTORS)], bounce(1)), &notes));
    assert_eq!(rig.client.cancel_device(DEVICE, true).unwrap(), 1);
    rig.poll_until(|_| notes.len() == 1);
    assert_eq!(notes.of_one(), [cancelled(Reason::Device)]);
    let at = [region(BAD, 64, SECTORS)];
    let refused = [RegionState::Error(Errno::NODEV)];
    let outcome = rig.client.io_sync(IoRequest::write(&at, bounce(2)), None).unwrap();
    assert_eq!(&outcome.states[..], refused);
    // It stays so when the device answers again, until somebody says otherwise.
    rig.throttle.lift();
    rig.settle();
    let outcome = rig.client.io_sync(IoRequest::write(&at, bounce(2)), None).unwrap();
    assert_eq!(
        (&outcome.states[..], rig.on_disk(BAD, 64, 8)),
        (&refused[..], vec![OLD; 8])
    );
    rig.client.unfence(DEVICE).unwrap();
    let outcome = rig.client.io_sync(IoRequest::write(&at, bounce(2)), None).unwrap();
    assert_eq!((outcome.error_mask, rig.on_disk(BAD, 64, 8)), (0, vec![2; 8]));
    assert!(rig.client.destroy().is_ok());
}

/// The new device is used at once, the old one's late answer is told, and neither gets what was for the other.
#[test]
fn regions_states_a_stalled_device_can_be_replaced() {
    let Some(mut rig) = Rig::new() else { return };
    let events = Events::of(&mut rig.client);
    let file = backing(&rig.dir.join("new"));
    let new = Loop::attach(&file);
    rig.throttle.stall();
    let notes = Notes::default();
    let at = [region(BAD, 0, SECTORS)];
    drop(rig.start(IoRequest::write(&at, bounce(1)), &notes));
    rig.client.replace(DEVICE, &open(new.path())).unwrap();
    rig.poll_until(|_| notes.len() == 1);
    assert_eq!(notes.of_one(), [cancelled(Reason::Device)]);
    // The ghost of the old device holds nothing of the new one.
    let outcome = rig.client.io_sync(IoRequest::write(&at, bounce(2)), None).unwrap();
    assert_eq!((outcome.error_mask, rig.client.counters().hold_waits), (0, 0));
    assert_eq!(sectors(&file, 0, SECTORS), [2; 8]);
    rig.throttle.lift();
    rig.settle();
    assert_eq!((events.late().len(), rig.on_disk(BAD, 0, SECTORS)), (1, vec![1; 8]));
    assert_eq!(sectors(&file, 0, SECTORS), [2; 8]);
    assert!(rig.client.destroy().is_ok());
    drop(new);
}
