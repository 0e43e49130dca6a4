//! Notifications that act: S3-10.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use dmio::{
    Buffers, Client, ClientConfig, DeviceIndex, ErrorKind, Event, FileDevice, FileOptions, Handle, IoRequest, Memory,
    Notification, Notify, RegionState,
};
use iomgr_core::Errno;
use tqueue::EngineKind;
use tqueue::sim::Fault;

use crate::rig::{Notes, Rig, region};
fn listener(notify: impl Fn(&mut Client, Notification) + 'static) -> Rc<dyn Notify> {
    Rc::new(notify)
}

fn bounce(byte: u8) -> Memory {
    Memory::Bounce(Buffers::One(vec![byte; 4096]))
}

#[test]
fn a_notification_submits_with_the_memory_that_came_back() {
    let mut rig = Rig::new(1);
    let written = Rc::new(Cell::new(0));
    let count = Rc::clone(&written);
    // Each end writes the next sectors, from the same memory.
    #[derive(Clone)]
    struct Chain(Rc<Cell<u64>>);
    impl Notify for Chain {
        fn notify(&self, client: &mut Client, note: Notification) {
            assert_eq!(note.state, RegionState::Ok);
            self.0.set(self.0.get() + 1);
            if self.0.get() < 20 {
                let at = [region(0, 8 * self.0.get(), 8)];
                let next = Rc::new(self.clone());
                client.io(IoRequest::write(&at, note.memory), Some(next)).unwrap();
            }
        }
    }
    let chain = Rc::new(Chain(count));
    rig.client
        .io(IoRequest::write(&[region(0, 0, 8)], bounce(9)), Some(chain))
        .unwrap();
    while written.get() < 20 {
        rig.client.poll(None).unwrap();
    }
    assert!(rig.bytes(0, 0, 160).iter().all(|&byte| byte == 9));
    assert!(rig.client.destroy().is_ok());
}

#[test]
fn a_notification_cancels_others_and_gives_handles_up() {
    let mut rig = Rig::new(2);
    rig.disks[1].stall();
    let notes = Notes::default();
    let stuck = rig
        .client
        .io(IoRequest::write(&[region(1, 0, 8)], bounce(1)), Some(notes.listener()))
        .unwrap();
    let stuck = Rc::new(RefCell::new(Some(stuck)));
    let cancel = listener(move |_, _| {
        let handle: Option<Handle> = stuck.borrow_mut().take();
        assert_eq!(handle.unwrap().cancel().unwrap(), 1);
    });
    rig.client
        .io(IoRequest::write(&[region(0, 0, 8)], bounce(1)), Some(cancel))
        .unwrap();
    while notes.states().is_empty() {
        rig.client.poll(None).unwrap();
    }
    assert!(matches!(notes.states()[0].1, RegionState::Cancelled(_)));
}

#[test]
fn waiting_inside_a_notification_is_refused() {
    let mut rig = Rig::new(1);
    let done = Rc::new(Cell::new(false));
    let is_done = Rc::clone(&done);
    let wait = listener(move |client, note| {
        let refused = client
            .io_sync(IoRequest::write(&[region(0, 0, 8)], note.memory), None)
            .unwrap_err();
        assert_eq!(
            (refused.error.kind(), refused.error.errno()),
            (ErrorKind::Deadlock, Errno::DEADLK)
        );
        assert!(matches!(refused.memory, Memory::Bounce(_)));
        assert_eq!(client.poll(None).unwrap_err().kind(), ErrorKind::Deadlock);
        is_done.set(true);
    });
    let handle = rig
        .client
        .io(IoRequest::write(&[region(0, 0, 8)], bounce(1)), Some(wait))
        .unwrap();
    rig.client.wait(&handle, None).unwrap();
    assert!(done.get());
    assert_eq!(
        rig.client
            .io_sync(IoRequest::write(&[region(0, 0, 8)], bounce(1)), None)
            .unwrap()
            .error_mask,
        0
    );
}

#[test]
fn a_notification_that_submits_to_a_fenced_device_does_not_keep_the_client() {
    let mut rig = Rig::new(1);
    rig.client.fence(DeviceIndex(0)).unwrap();
    #[derive(Default)]
    struct Again(Cell<u32>);
    impl Notify for Again {
        fn notify(&self, client: &mut Client, note: Notification) {
            assert_eq!(note.state, RegionState::Error(Errno::NODEV));
            self.0.set(self.0.get() + 1);
            let next = Rc::new(Again(self.0.clone()));
            client
                .io(IoRequest::write(&[region(0, 0, 8)], note.memory), Some(next))
                .unwrap();
        }
    }
    let again = Rc::new(Again::default());
    rig.client
        .io(IoRequest::write(&[region(0, 0, 8)], bounce(1)), Some(again))
        .unwrap();
    for _ in 0..3 {
        assert!(rig.client.poll(None).unwrap() > 0, "it comes back");
    }
}

#[test]
fn a_panic_in_a_notification_leaves_a_client_that_works() {
    let mut rig = Rig::new(1);
    let explode = listener(|_, _| panic!("on purpose"));
    let handle = rig
        .client
        .io(IoRequest::write(&[region(0, 0, 8)], bounce(1)), Some(explode))
        .unwrap();
    let wait = std::panic::AssertUnwindSafe(|| rig.client.wait(&handle, None).map(drop));
    let caught = std::panic::catch_unwind(wait);
    drop(handle);
    assert!(caught.is_err());
    assert_eq!(
        rig.client
            .io_sync(IoRequest::write(&[region(0, 0, 8)], bounce(1)), None)
            .unwrap()
            .error_mask,
        0
    );
    assert!(rig.client.destroy().is_ok());
}

#[test]
fn late_answers_and_degraded_devices_are_watched() {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let events = Rc::clone(&seen);
    let watch = move |_: &mut Client, event: &Event| events.borrow_mut().push(*event);
    let watch = Rc::new(watch);
    let mut rig = Rig::with(tqueue::sim::SimConfig::calm(3), 1, |config| dmio::ClientConfig {
        orphans_max: 1,
        ..config
    });
    rig.client.set_watch(Some(watch));
    rig.disks[0].inject(Fault::late(Duration::from_secs(1)).times(1));
    let handle = rig
        .client
        .io(IoRequest::write(&[region(0, 0, 8)], bounce(1)), None)
        .unwrap();
    rig.client.poll(Some(Duration::ZERO)).unwrap();
    handle.cancel().unwrap();
    rig.pass_time(Duration::from_millis(1));
    assert_eq!(*seen.borrow(), [Event::Degraded(DeviceIndex(0))]);
    let outcome = rig
        .client
        .io_sync(IoRequest::write(&[region(0, 64, 8)], bounce(1)), None)
        .unwrap();
    assert_eq!(outcome.states[0], RegionState::Error(Errno::TIMEDOUT), "it fails fast");
    rig.pass_time(Duration::from_secs(2));
    let seen = seen.borrow();
    assert!(seen.contains(&Event::Healthy(DeviceIndex(0))), "{seen:?}");
    let late = seen.iter().find_map(|event| match event {
        Event::Late(late) => Some(*late),
        _ => None,
    });
    assert_eq!(late.unwrap().result, Ok(()));
}

/// Starts the same again, as often as it may.
struct Again {
    times: Cell<u32>,
    myself: RefCell<Weak<Self>>,
}

impl Notify for Again {
    fn notify(&self, client: &mut Client, _: Notification) {
        let Some(left) = self.times.get().checked_sub(1) else {
            return;
        };
        self.times.set(left);
        let myself = self.myself.borrow().upgrade().unwrap();
        let at = [region(1, 0, 8)];
        client.io(IoRequest::write_zeroes(&at), Some(myself)).unwrap();
    }
}

#[test]
fn what_ends_at_once_again_and_again_holds_up_no_other_device() {
    let again = Rc::new_cyclic(|myself| Again {
        times: Cell::new(1_000_000),
        myself: RefCell::new(Weak::clone(myself)),
    });
    let files = [(); 2].map(|()| tempfile::NamedTempFile::new().unwrap());
    let open = |file: &tempfile::NamedTempFile| {
        file.as_file().set_len(1 << 20).unwrap();
        Arc::new(FileDevice::open(file.path(), FileOptions::default()).unwrap()) as _
    };
    let config = ClientConfig {
        devices: files.iter().map(open).collect(),
        engine: EngineKind::Sync,
        ..ClientConfig::default()
    };
    let mut client = Client::new(config).unwrap();
    client.fence(DeviceIndex(1)).unwrap();
    let at = [region(1, 0, 8)];
    let notify = Rc::clone(&again) as Rc<dyn Notify>;
    client.io(IoRequest::write_zeroes(&at), Some(notify)).unwrap();
    let other = [region(0, 0, 8)];
    let outcome = client.io_sync(IoRequest::write(&other, bounce(1)), None).unwrap();
    assert_eq!(outcome.error_mask, 0);
    assert!(again.times.get() > 0, "it went on meanwhile");
}
