//! Other threads: they cancel, fence, and wake.

use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use dmio::{Buffers, Cancelled, Client, ClientConfig, DeviceIndex, IoRequest, Memory, Reason, RegionState};
use iomgr_core::test_utils::MemDevice;
use iomgr_core::{Errno, SectorCount};

use crate::rig::{Notes, region};

fn client(devices: &[&Arc<MemDevice>]) -> Client {
    let devices = devices.iter().map(|&device| Arc::clone(device) as _);
    let config = ClientConfig {
        devices: devices.collect(),
        max_size: SectorCount(64),
        ..ClientConfig::default()
    };
    Client::new(config).unwrap()
}

fn bounce() -> Memory {
    Memory::Bounce(Buffers::One(vec![1; 4096]))
}

#[test]
fn a_client_that_sleeps_hears_of_a_cancel() {
    let device = Arc::new(MemDevice::new("held", 1 << 20));
    device.hold();
    let mut client = client(&[&device]);
    let notes = Notes::default();
    let handle = client
        .io(IoRequest::write(&[region(0, 0, 8)], bounce()), Some(notes.listener()))
        .unwrap();
    let theirs = handle.clone();
    let thread = thread::spawn(move || {
        device.wait_submitted(1);
        theirs.cancel().unwrap()
    });
    assert!(client.wait(&handle, None).unwrap());
    assert_eq!(thread.join().unwrap(), 1);
    let cancelled = Cancelled {
        reason: Reason::Handle,
        never_started: true,
    };
    assert_eq!(notes.states(), [(0, RegionState::Cancelled(cancelled))]);
}

#[test]
fn a_remote_cancels_fences_and_wakes() {
    let devices = [
        Arc::new(MemDevice::new("held", 1 << 20)),
        Arc::new(MemDevice::new("good", 1 << 20)),
    ];
    devices[0].hold();
    let mut client = client(&[&devices[0], &devices[1]]);
    let remote = client.remote();
    let held = Arc::clone(&devices[0]);
    let thread = thread::spawn(move || {
        held.wait_submitted(1);
        let given_up = remote.cancel_device(DeviceIndex(0), true).unwrap();
        (given_up, remote)
    });
    let legs = [region(0, 0, 8), region(1, 0, 8)];
    let outcome = client.io_sync(IoRequest::write(&legs, bounce()), None).unwrap();
    assert_eq!(outcome.error_mask, 0b01);
    let (given_up, remote) = thread.join().unwrap();
    assert_eq!(given_up, 1);
    let outcome = client.io_sync(IoRequest::write(&legs, bounce()), None).unwrap();
    assert_eq!(outcome.states[0], RegionState::Error(Errno::NODEV), "fenced");
    remote.unfence(DeviceIndex(0)).unwrap();
    devices[0].release();
    let outcome = client.io_sync(IoRequest::write(&legs, bounce()), None).unwrap();
    assert_eq!(outcome.error_mask, 0);
    let counters = remote.counters();
    assert_eq!((counters.cancelled, counters.failed_fast), (1, 1));
    assert!(remote.dump().contains("device 0"), "{}", remote.dump());
    // Nothing is under way: only the remote ends this sleep.
    let thread = thread::spawn(move || remote.wake());
    assert_eq!(client.poll(None).unwrap(), 0);
    thread.join().unwrap();
    assert!(client.destroy().is_ok());
}

#[test]
fn a_device_that_answers_from_another_thread_wakes_the_client() {
    let device = Arc::new(MemDevice::new("held", 1 << 20));
    device.hold();
    let mut client = client(&[&device]);
    let theirs = Arc::clone(&device);
    let thread = thread::spawn(move || {
        theirs.wait_submitted(1);
        theirs.release();
    });
    let outcome = client
        .io_sync(IoRequest::write(&[region(0, 0, 8)], bounce()), None)
        .unwrap();
    assert_eq!(outcome.error_mask, 0);
    thread.join().unwrap();
}

#[test]
fn the_last_handle_that_goes_lets_a_client_end() {
    let device = Arc::new(MemDevice::new("good", 1 << 20));
    let mut client = client(&[&device]);
    let handle = client.io(IoRequest::write(&[region(0, 0, 8)], bounce()), None).unwrap();
    assert!(client.wait(&handle, None).unwrap());
    let (ready, go) = mpsc::channel();
    let thread = thread::spawn(move || {
        go.recv().unwrap();
        drop(handle);
    });
    let refused = client.destroy().unwrap_err();
    ready.send(()).unwrap();
    let deadline = refused.client.now() + Duration::from_secs(60);
    assert!(refused.client.destroy_wait(Some(deadline)).is_ok());
    thread.join().unwrap();
}

#[test]
fn what_is_refused_at_once_ends_when_it_was_asked_for() {
    let device = Arc::new(MemDevice::new("good", 1 << 20));
    let mut client = client(&[&device]);
    client.fence(DeviceIndex(0)).unwrap();
    let notes = Notes::default();
    let before = client.now();
    let at = [region(0, 0, 8)];
    client
        .io(IoRequest::write(&at, bounce()), Some(notes.listener()))
        .unwrap();
    let after = client.now();
    assert_eq!(client.poll(None).unwrap(), 1);
    let ended = notes.take().pop().unwrap().at;
    assert!(before <= ended && ended <= after, "{before:?} {ended:?} {after:?}");
}

/// Requests in a storm of cancels.
const STORM: u64 = 3000;

#[test]
fn a_storm_of_cancels_ends_each_request_once() {
    let device = Arc::new(MemDevice::new("good", 1 << 20));
    let mut client = client(&[&device]);
    let (senders, threads): (Vec<_>, Vec<_>) = (0..2).map(|_| canceller()).unzip();
    let notes = Notes::default();
    let (mut started, mut ended) = (0, Vec::new());
    while ended.len() < usize::try_from(STORM).unwrap() {
        if started < STORM && started - ended.len() as u64 <= 16 {
            let at = [region(0, started % 100 * 8, 8)];
            let handle = client
                .io(IoRequest::write(&at, bounce()), Some(notes.listener()))
                .unwrap();
            senders.iter().for_each(|sender| sender.send(handle.clone()).unwrap());
            started += 1;
        } else {
            client.poll(None).unwrap();
        }
        ended.extend(
            notes
                .take()
                .into_iter()
                .filter(|note| note.is_last)
                .map(|note| note.state),
        );
    }
    drop(senders);
    let given_up: u64 = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    let cancelled = ended
        .iter()
        .filter(|state| matches!(state, RegionState::Cancelled(_)))
        .count();
    assert_eq!(given_up, cancelled as u64, "who cancels is told the truth");
    let deadline = client.now() + Duration::from_secs(60);
    assert!(client.destroy_wait(Some(deadline)).is_ok());
}

/// A thread that cancels whatever it is sent, and says how many regions that gave up.
fn canceller() -> (mpsc::SyncSender<dmio::Handle>, thread::JoinHandle<u64>) {
    let (sender, handles) = mpsc::sync_channel::<dmio::Handle>(32);
    let cancel = move || {
        handles
            .into_iter()
            .map(|handle| u64::from(handle.cancel().unwrap()))
            .sum()
    };
    (sender, thread::spawn(cancel))
}

#[test]
fn timeouts_end_in_time_whatever_a_device_does() {
    let device = Arc::new(MemDevice::new("held", 1 << 20));
    device.hold();
    let mut client = client(&[&device]);
    let at = [region(0, 0, 8)];
    let request = IoRequest::write(&at, bounce()).timeout(Duration::from_millis(20));
    let start = client.now();
    let outcome = client.io_sync(request, None).unwrap();
    assert!(client.now().since(start) >= Duration::from_millis(20));
    assert!(matches!(outcome.states[0], RegionState::Cancelled(_)));
    device.release();
}
