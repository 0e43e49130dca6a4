//! A client of two loop devices, of which one can be stalled; and what it has told.

use std::cell::RefCell;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dmio::{
    Buffers, Client, ClientConfig, DeviceIndex, Event, FileDevice, FileOptions, Handle, IoRequest, Late, Memory,
    Notification, Notify, Region, RegionState,
};
use iomgr_core::{Device, Lease, Sector, SectorCount, SectorRange};
use iomgr_tests::wait::PATIENCE;
use iomgr_tests::{Blkio, Loop, TempDir, need};
use tqueue::{Config, EngineKind, Queue};

/// The device that always answers.
pub(super) const GOOD: u16 = 0;
/// The one that is stalled.
pub(super) const BAD: u16 = 1;
/// What devices are full of at first.
pub(super) const OLD: u8 = 0x55;
/// Bytes of a region, and of a page.
pub(super) const LEN: usize = 4096;
pub(super) const SECTORS: u64 = 8;
const SIZE: usize = 4 << 20;

/// See the module. The order of the fields is the order of the teardown.
pub(super) struct Rig {
    pub(super) client: Client,
    pub(super) throttle: Blkio,
    pub(super) backing: [PathBuf; 2],
    pub(super) devices: [Loop; 2],
    pub(super) dir: TempDir,
}

/// What is left without the client. The order of the fields is the order of the teardown.
pub(super) struct Below {
    pub(super) throttle: Blkio,
    pub(super) backing: [PathBuf; 2],
    pub(super) devices: [Loop; 2],
    pub(super) dir: TempDir,
}

impl Below {
    /// Does `body`, in the midst of which the stall ends.
    pub(super) fn lift_meanwhile(&self, body: impl FnOnce()) {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::park_timeout(Duration::from_millis(100));
                self.throttle.lift();
            });
            body();
        });
    }
}

impl Rig {
    /// The client, for its end, and the rest.
    pub(super) fn part(self) -> (Client, Below) {
        let Self {
            client,
            throttle,
            backing,
            devices,
            dir,
        } = self;
        let below = Below {
            throttle,
            backing,
            devices,
            dir,
        };
        (client, below)
    }

    /// `None`, with a word about it, where that cannot be had here.
    pub(super) fn new() -> Option<Self> {
        Self::with(|config| config)
    }

    pub(super) fn with(change: impl FnOnce(ClientConfig) -> ClientConfig) -> Option<Self> {
        if !need::blkio() || !has_uring() {
            return None;
        }
        let dir = TempDir::new();
        let backing = ["good", "bad"].map(|name| backing(&dir.join(name)));
        let devices = [0, 1].map(|at| Loop::attach(&backing[at]));
        let throttle = Blkio::new(&devices[usize::from(BAD)]);
        throttle.add_this_thread();
        let config = ClientConfig {
            devices: devices.iter().map(|device| open(device.path())).collect(),
            engine: EngineKind::Uring,
            min_ios: 32,
            max_size: SectorCount(64),
            pool_bytes: 1 << 20,
            ..ClientConfig::default()
        };
        Some(Self {
            client: Client::new(change(config)).unwrap(),
            throttle,
            backing,
            devices,
            dir,
        })
    }

    /// Starts a request, and sees that devices get it.
    pub(super) fn start(&mut self, request: IoRequest<'_>, notes: &Notes) -> Handle {
        let handle = self.client.io(request, Some(notes.listener())).unwrap();
        // A poll that tells something leaves the kernel for the next one.
        while self.client.poll(Some(Duration::ZERO)).unwrap() > 0 {}
        handle
    }

    /// Polls until it holds.
    #[track_caller]
    pub(super) fn poll_until(&mut self, holds: impl FnMut(&mut Client) -> bool) {
        poll_until(&mut self.client, holds);
    }

    /// Polls until devices owe nothing.
    #[track_caller]
    pub(super) fn settle(&mut self) {
        self.poll_until(|client| client.occupancy().orphans == 0);
    }

    /// Polls for a time.
    pub(super) fn pass_time(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            self.client.poll(Some(left)).unwrap();
        }
    }

    /// The first byte of each sector of a device from `start` on, and that all others of the sector are the same.
    pub(super) fn on_disk(&self, device: u16, start: u64, count: u64) -> Vec<u8> {
        sectors(&self.backing[usize::from(device)], start, count)
    }

    /// All that the pool has now, full of `byte`.
    pub(super) fn lease_all(&mut self, byte: u8) -> Vec<Lease> {
        let mut all = Vec::new();
        while let Some(lease) = self.client.alloc(4096) {
            self.client.bytes_mut(lease.data()).unwrap().fill(byte);
            all.push(lease);
        }
        all
    }

    /// Gives leases back, after a look that they are full of `byte`.
    #[track_caller]
    pub(super) fn free_all(&mut self, leases: Vec<Lease>, byte: u8) {
        for lease in leases {
            let bytes = self.client.bytes(lease.data()).unwrap();
            assert!(bytes.iter().all(|&is| is == byte), "somebody wrote to leased memory");
            self.client.free(lease);
        }
    }

    /// A page of the pool, full of `byte`.
    pub(super) fn pool(&mut self, byte: u8) -> Memory {
        let lease = self.client.alloc(4096).unwrap();
        self.client.bytes_mut(lease.data()).unwrap().fill(byte);
        Memory::Pool(lease)
    }
}

/// Polls until it holds.
#[track_caller]
pub(super) fn poll_until(client: &mut Client, mut holds: impl FnMut(&mut Client) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds(client) {
        assert!(
            Instant::now() < deadline,
            "it does not come to that:\n{}",
            client.dump()
        );
        client.poll(Some(Duration::from_millis(20))).unwrap();
    }
}

/// What devices stall is with the kernel only by io_uring.
fn has_uring() -> bool {
    let config = Config {
        engine: EngineKind::Uring,
        ..Config::default()
    };
    Queue::new(&config)
        .inspect_err(|error| need::skip(&error.to_string()))
        .is_ok()
}

pub(super) fn backing(path: &Path) -> PathBuf {
    fs::write(path, vec![OLD; SIZE]).unwrap();
    path.to_owned()
}

/// A device, by direct I/O.
pub(super) fn open(path: &Path) -> Arc<dyn Device> {
    let device = FileDevice::open(path, FileOptions::default()).unwrap();
    assert!(device.is_direct(), "{} knows no direct I/O", path.display());
    Arc::new(device)
}

/// See [`Rig::on_disk`].
pub(super) fn sectors(file: &Path, start: u64, count: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(count * 512).unwrap()];
    File::open(file)
        .unwrap()
        .read_exact_at(&mut bytes, start * 512)
        .unwrap();
    let sector = |sector: &[u8]| {
        assert!(
            sector.iter().all(|&byte| byte == sector[0]),
            "a sector is written whole"
        );
        sector[0]
    };
    bytes.chunks(512).map(sector).collect()
}

/// `count` sectors from `start` of a device.
pub(super) fn region(device: u16, start: u64, count: u64) -> Region {
    Region {
        device: DeviceIndex(device),
        range: SectorRange::new(Sector(start), SectorCount(count)).unwrap(),
    }
}

/// Memory of one's own, to be copied.
pub(super) fn bounce(byte: u8) -> Memory {
    Memory::Bounce(Buffers::One(vec![byte; LEN]))
}

/// What has been told, and when it was heard.
#[derive(Clone, Default)]
pub(super) struct Notes(Rc<RefCell<Vec<(Notification, Instant)>>>);

impl Notes {
    pub(super) fn listener(&self) -> Rc<dyn Notify> {
        let notes = self.clone();
        Rc::new(move |_: &mut Client, note| notes.0.borrow_mut().push((note, Instant::now())))
    }

    /// Regions and states, in order.
    pub(super) fn states(&self) -> Vec<(usize, RegionState)> {
        self.0
            .borrow()
            .iter()
            .map(|(note, _)| (note.region, note.state))
            .collect()
    }

    /// What became of the only region, in order.
    pub(super) fn of_one(&self) -> Vec<RegionState> {
        self.states().into_iter().map(|(_, state)| state).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.0.borrow().len()
    }

    pub(super) fn take(&self) -> Vec<(Notification, Instant)> {
        self.0.take()
    }

    /// The bytes that came back with the last notification.
    #[track_caller]
    pub(super) fn take_bounce(&self) -> Vec<u8> {
        match self.take().pop().map(|(note, _)| note.memory) {
            Some(Memory::Bounce(Buffers::One(bytes))) => bytes,
            other => panic!("no memory came back: {other:?}"),
        }
    }
}

/// What devices came to.
#[derive(Clone, Default)]
pub(super) struct Events(Rc<RefCell<Vec<(Event, Instant)>>>);

impl Events {
    pub(super) fn of(client: &mut Client) -> Self {
        let events = Self::default();
        let heard = events.clone();
        let watch = move |_: &mut Client, event: &Event| heard.0.borrow_mut().push((*event, Instant::now()));
        client.set_watch(Some(Rc::new(watch)));
        events
    }

    pub(super) fn all(&self) -> Vec<Event> {
        self.0.borrow().iter().map(|(event, _)| *event).collect()
    }

    /// Late answers, and when they were told.
    pub(super) fn late(&self) -> Vec<(Late, Instant)> {
        let late = |(event, at): &(Event, Instant)| match event {
            Event::Late(late) => Some((*late, *at)),
            _ => None,
        };
        self.0.borrow().iter().filter_map(late).collect()
    }
}
