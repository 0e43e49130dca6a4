//! What a request does when all goes well, or fails; and what is refused.

use std::time::Duration;

use dmio::{AlignedBuf, Buffers, Cancelled, ClientConfig, ErrorKind, IoFlags, IoRequest, Memory, Reason, RegionState};
use iomgr_core::Errno;
use tqueue::sim::{Fault, OpKinds, SimConfig};

use crate::rig::{Notes, Rig, region};

fn bounce(len: usize, byte: u8) -> Memory {
    Memory::Bounce(Buffers::One(vec![byte; len]))
}

fn cancelled(reason: Reason, never_started: bool) -> RegionState {
    RegionState::Cancelled(Cancelled { reason, never_started })
}

#[test]
fn a_write_reaches_both_legs_and_a_read_gets_it_back() {
    let mut rig = Rig::new(2);
    let legs = [region(0, 8, 8), region(1, 16, 8)];
    let outcome = rig
        .client
        .io_sync(IoRequest::write(&legs, bounce(4096, 7)), None)
        .unwrap();
    assert_eq!(
        (outcome.error_mask, &outcome.states[..]),
        (0, &[RegionState::Ok; 2][..])
    );
    assert!(matches!(outcome.memory, Memory::Bounce(Buffers::One(bytes)) if bytes == [7; 4096]));
    assert!(rig.bytes(0, 8, 8) == [7; 4096] && rig.bytes(1, 16, 8) == [7; 4096]);
    let outcome = rig
        .client
        .io_sync(IoRequest::read(&legs[1..], bounce(5000, 1)), None)
        .unwrap();
    let Memory::Bounce(Buffers::One(bytes)) = outcome.memory else {
        panic!()
    };
    assert!(
        bytes[..4096] == [7; 4096] && bytes[4096..] == [1; 904],
        "what is longer is left alone"
    );
    assert!(rig.client.destroy().is_ok());
}

#[test]
fn without_a_handle_a_request_has_its_place_until_it_is_told() {
    let mut rig = Rig::with(SimConfig::calm(1), 1, |config| ClientConfig { requests: 1, ..config });
    let (notes, at) = (Notes::default(), [region(0, 8, 8)]);
    let mut names = Vec::new();
    for byte in 1..4 {
        let write = |byte| IoRequest::write(&at, bounce(4096, byte));
        names.push(rig.client.start(write(byte), Some(notes.listener())).unwrap());
        let refused = rig.client.start(write(9), None).unwrap_err();
        assert_eq!(refused.error.kind(), ErrorKind::Full);
        rig.client.poll(None).unwrap();
    }
    let told: Vec<_> = notes.take().iter().map(|note| (note.request, note.state)).collect();
    let ok: Vec<_> = names.into_iter().map(|name| (name, RegionState::Ok)).collect();
    assert_eq!(told, ok);
    assert_eq!(rig.bytes(0, 8, 8), [3; 4096]);
    assert!(rig.client.destroy().is_ok());
}

#[test]
fn every_operation_is_done() {
    let mut rig = Rig::new(1);
    let at = [region(0, 0, 8)];
    let whole = [region(0, 0, 0)];
    rig.client
        .io_sync(IoRequest::write(&at, bounce(4096, 1)).fua(), None)
        .unwrap();
    assert_eq!(rig.disks[0].volatile_changes(), 0, "FUA");
    rig.client
        .io_sync(IoRequest::write(&at, bounce(4096, 2)), None)
        .unwrap();
    assert_eq!(rig.disks[0].volatile_changes(), 1);
    assert_eq!(
        rig.client.io_sync(IoRequest::flush(&whole), None).unwrap().error_mask,
        0
    );
    assert_eq!(rig.disks[0].volatile_changes(), 0);
    assert_eq!(
        rig.client
            .io_sync(IoRequest::write_zeroes(&at), None)
            .unwrap()
            .error_mask,
        0
    );
    assert_eq!(rig.bytes(0, 0, 8), [0; 4096]);
    assert_eq!(rig.client.io_sync(IoRequest::discard(&at), None).unwrap().error_mask, 0);
}

#[test]
fn each_region_ends_by_itself_and_nothing_is_told_from_inside_io() {
    let mut rig = Rig::new(2);
    rig.disks[1].inject(Fault::error(Errno::IO));
    let legs = [region(0, 0, 8), region(1, 0, 8)];
    let notes = Notes::default();
    let handle = rig
        .client
        .io(IoRequest::write(&legs, bounce(4096, 7)), Some(notes.listener()))
        .unwrap();
    assert!(notes.states().is_empty() && !handle.is_over());
    assert!(rig.client.wait(&handle, None).unwrap());
    let mut told = notes.take();
    assert!(told[1].is_last && !told[0].is_last);
    assert!(matches!(told.pop().unwrap().memory, Memory::Bounce(_)));
    assert_eq!(
        (handle.state(0), handle.state(1)),
        (Some(RegionState::Ok), Some(RegionState::Error(Errno::IO)))
    );
    let outcome = rig
        .client
        .io_sync(IoRequest::write(&legs, bounce(4096, 7)), None)
        .unwrap();
    assert_eq!(outcome.error_mask, 0b10);
}

#[test]
fn what_cannot_be_is_refused_with_its_memory() {
    let mut rig = Rig::new(1);
    let far = [region(0, 2048, 8)];
    let at = [region(0, 0, 8)];
    let refused = rig
        .client
        .io(IoRequest::write(&far, bounce(4096, 3)), None)
        .unwrap_err();
    assert_eq!(refused.error.errno(), Errno::INVAL);
    assert!(matches!(refused.memory, Memory::Bounce(Buffers::One(bytes)) if bytes == [3; 4096]));
    let refused = rig.client.io(IoRequest::write(&at, bounce(4095, 3)), None).unwrap_err();
    assert!(refused.error.to_string().contains("shorter"), "{}", refused.error);
    let lease = rig.client.alloc(4096).unwrap();
    let refused = rig.client.io(IoRequest::flush(&at), None).unwrap_err();
    assert_eq!(refused.error.kind(), ErrorKind::Invalid);
    let refused = rig
        .client
        .io(IoRequest::read(&far, Memory::Pool(lease)), None)
        .unwrap_err();
    let Memory::Pool(lease) = refused.memory else { panic!() };
    rig.client.free(lease);
    let buf = AlignedBuf::copied_from(&[5; 4096]).unwrap();
    let owned = Memory::Owned(Buffers::Vector(vec![buf, AlignedBuf::new(512).unwrap()]));
    let request = IoRequest::write(&at, owned)
        .timeout(Duration::from_secs(1))
        .flags(IoFlags::CANCEL_ON_TIMEOUT);
    let refused = rig.client.io(request, None).unwrap_err();
    let Memory::Owned(Buffers::Vector(buffers)) = refused.memory else {
        panic!()
    };
    assert!(*buffers[0] == [5; 4096] && buffers[1].len() == 512);
    assert!(rig.client.destroy().is_ok());
}

#[test]
fn a_timeout_is_told_and_the_end_follows() {
    let mut rig = Rig::new(2);
    rig.disks[1].inject(Fault::late(Duration::from_secs(1)));
    let legs = [region(0, 0, 8), region(1, 0, 8)];
    let notes = Notes::default();
    let request = IoRequest::write(&legs, bounce(4096, 7)).timeout(Duration::from_millis(100));
    let start = rig.client.now();
    let outcome = rig.client.io_sync(request, Some(notes.listener())).unwrap();
    assert_eq!(outcome.error_mask, 0, "it was waited for past the timeout");
    let told = notes.take();
    let states: Vec<_> = told.iter().map(|note| (note.region, note.state)).collect();
    assert_eq!(
        states,
        [(0, RegionState::Ok), (1, RegionState::Timeout), (1, RegionState::Ok)]
    );
    let after = told[1].at.since(start);
    assert!((100..103).contains(&after.as_millis()), "{after:?}");
}

#[test]
fn a_synchronous_call_with_a_timeout_and_nobody_to_tell_cancels() {
    let mut rig = Rig::new(2);
    rig.disks[1].stall();
    let legs = [region(0, 0, 8), region(1, 0, 8)];
    let request = IoRequest::write(&legs, bounce(4096, 7)).timeout(Duration::from_millis(100));
    let start = rig.client.now();
    let outcome = rig.client.io_sync(request, None).unwrap();
    assert_eq!(
        &outcome.states[..],
        [RegionState::Ok, cancelled(Reason::Timeout, false)]
    );
    assert!(rig.client.now().since(start) < Duration::from_millis(103));
    assert_eq!(rig.client.occupancy().orphans, 1);
    // The orphan ends with its device, late.
    rig.disks[1].release();
    rig.pass_time(Duration::from_secs(1));
    let counters = rig.client.counters();
    assert_eq!((counters.late, rig.client.occupancy().orphans), (1, 0));
    assert!(rig.client.destroy().is_ok());
}

#[test]
fn a_choice_reads_the_first_good_leg() {
    let mut rig = Rig::new(3);
    for (disk, byte) in [(0, 1), (1, 2), (2, 3)] {
        rig.client
            .io_sync(IoRequest::write(&[region(disk, 0, 8)], bounce(4096, byte)), None)
            .unwrap();
    }
    rig.disks[0].inject(Fault::error(Errno::IO).on(OpKinds::READ));
    rig.disks[1].stall();
    let legs = [region(0, 0, 8), region(1, 0, 8), region(2, 0, 8)];
    let notes = Notes::default();
    let request = IoRequest::read(&legs, bounce(4096, 0)).timeout(Duration::from_millis(50));
    let outcome = rig.client.io_sync(request, Some(notes.listener())).unwrap();
    assert!(matches!(outcome.memory, Memory::Bounce(Buffers::One(bytes)) if bytes == [3; 4096]));
    let expected = [
        RegionState::Error(Errno::IO),
        cancelled(Reason::Unneeded, false),
        RegionState::Ok,
    ];
    assert_eq!(&outcome.states[..], expected);
    assert!(notes.states().contains(&(1, RegionState::Timeout)));
    assert_eq!(rig.client.counters().hedged, 1);
}

#[test]
fn destroy_says_what_is_in_its_way_and_waits_for_it() {
    let mut rig = Rig::new(1);
    rig.disks[0].inject(Fault::late(Duration::from_secs(2)).times(1));
    let at = [region(0, 0, 8)];
    let handle = rig.client.io(IoRequest::write(&at, bounce(4096, 7)), None).unwrap();
    rig.client.poll(Some(Duration::ZERO)).unwrap();
    assert_eq!(handle.cancel().unwrap(), 1);
    assert_eq!(handle.cancel().unwrap(), 0, "once is enough");
    rig.pass_time(Duration::from_millis(1));
    let refused = rig.client.destroy().unwrap_err();
    assert_eq!(refused.error.kind(), ErrorKind::Busy);
    let client = *refused.client;
    drop(handle);
    let soon = client.now() + Duration::from_millis(10);
    let refused = client.destroy_wait(Some(soon)).unwrap_err();
    assert!(refused.error.to_string().contains("1 regions"), "{}", refused.error);
    let machine = rig.machine;
    refused.client.destroy_wait(None).unwrap();
    assert!(machine.now().since(soon) > Duration::from_secs(1));
}

#[test]
fn a_client_is_dropped_with_orphans_in_a_short_time() {
    let mut rig = Rig::new(1);
    rig.disks[0].stall();
    let at = [region(0, 0, 8)];
    let lease = rig.client.alloc(4096).unwrap();
    let handle = rig.client.io(IoRequest::read(&at, Memory::Pool(lease)), None).unwrap();
    let running = rig.client.io(IoRequest::write(&at, bounce(4096, 7)), None).unwrap();
    rig.client.poll(Some(Duration::ZERO)).unwrap();
    handle.cancel().unwrap();
    let start = rig.machine.now();
    drop(rig.client);
    assert!(rig.machine.now().since(start) <= Duration::from_millis(1100));
    assert!(running.is_over(), "who has a handle sees the end");
}
