//! After a client was made, nothing allocates: not submitting, not waiting, not telling, not cancelling.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "what fails here fails the test, what is skipped says so"
)]

use std::cell::Cell;
use std::io::{IoSlice, IoSliceMut};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use dmio::{
    AlignedBuf, Borrowed, Buffers, Client, ClientConfig, DeviceIndex, FileDevice, FileOptions, IoRequest, Memory,
    Notification, Notify, Region, RegionState,
};
use iomgr_core::{Device, Sector, SectorCount, SectorRange};
use tempfile::NamedTempFile;
use tqueue::EngineKind;

const LEN: usize = 8192;

fn rounds() -> u64 {
    if std::env::var_os("IOMGR_SOAK").is_some() {
        50_000
    } else {
        400
    }
}

/// Memory that goes round, in the hands of the client or back here.
#[derive(Default)]
struct Keeper {
    pool: Cell<Option<dmio::Memory>>,
    owned: Cell<Option<dmio::Memory>>,
    bounce: Cell<Option<dmio::Memory>>,
    ends: Cell<u64>,
    timeouts: Cell<u64>,
    cancelled: Cell<u64>,
}

impl Notify for Keeper {
    fn notify(&self, _: &mut Client, note: Notification) {
        let count = |cell: &Cell<u64>| cell.set(cell.get() + 1);
        match note.state {
            RegionState::Timeout => count(&self.timeouts),
            RegionState::Cancelled(_) => count(&self.cancelled),
            _ => {}
        }
        if note.is_last {
            count(&self.ends);
        }
        match note.memory {
            Memory::None => {}
            memory @ Memory::Pool(_) => self.pool.set(Some(memory)),
            memory @ Memory::Owned(_) => self.owned.set(Some(memory)),
            memory @ Memory::Bounce(_) => self.bounce.set(Some(memory)),
        }
    }
}

fn region(device: u16, sector: u64) -> Region {
    Region {
        device: DeviceIndex(device),
        range: SectorRange::new(Sector(sector), SectorCount(16)).unwrap(),
    }
}

struct Load {
    client: Client,
    keeper: Rc<Keeper>,
    /// For synchronous calls.
    bytes: AlignedBuf,
}

impl Load {
    fn new(engine: EngineKind, files: &[NamedTempFile]) -> Self {
        let open = |file: &NamedTempFile| {
            file.as_file().set_len(1 << 20).unwrap();
            Arc::new(FileDevice::open(file.path(), FileOptions::default()).unwrap()) as Arc<dyn Device>
        };
        let config = ClientConfig {
            devices: files.iter().map(open).collect(),
            engine,
            ..ClientConfig::default()
        };
        let mut client = Client::new(config).unwrap();
        let keeper = Rc::new(Keeper::default());
        let buf = || AlignedBuf::new(4096).unwrap();
        keeper.pool.set(client.alloc(8192).map(Memory::Pool));
        keeper
            .owned
            .set(Some(Memory::Owned(Buffers::Vector(vec![buf(), buf()]))));
        keeper.bounce.set(Some(Memory::Bounce(Buffers::Pages {
            pages: vec![vec![1; 5000], vec![2; 4000]],
            offset: 100,
        })));
        Self {
            client,
            keeper,
            bytes: AlignedBuf::copied_from(&[3; LEN]).unwrap(),
        }
    }

    /// A request of each mode of memory, two of them cancelled, one timed, and synchronous ones.
    fn round(&mut self, round: u64) {
        let at = round % 64 * 16;
        let legs = [region(0, at), region(1, at)];
        let ends = self.keeper.ends.get();
        let notify = || Some(Rc::clone(&self.keeper) as Rc<dyn Notify>);
        let client = &mut self.client;
        let owned = self.keeper.owned.take().unwrap();
        client.io(IoRequest::write(&legs, owned), notify()).unwrap();
        let bounce = self.keeper.bounce.take().unwrap();
        let timed = IoRequest::read(&legs, bounce).timeout(Duration::from_secs(10));
        client.io(timed, notify()).unwrap();
        let handle = match self.keeper.pool.take().or_else(|| client.alloc(8192).map(Memory::Pool)) {
            Some(pool) => client.io(IoRequest::read(&legs[..1], pool), notify()).unwrap(),
            None => client.io(IoRequest::write_zeroes(&legs), notify()).unwrap(),
        };
        if round.is_multiple_of(2) {
            client.poll(Some(Duration::ZERO)).unwrap();
        }
        if round.is_multiple_of(3) {
            let _count = handle.clone().cancel().unwrap();
        }
        drop(handle);
        while self.keeper.ends.get() < ends + 3 {
            client.poll(None).unwrap();
        }
        let parts = [IoSlice::new(&self.bytes[..4096]), IoSlice::new(&self.bytes[4096..])];
        let write = IoRequest::write(&legs, Memory::None);
        client.io_sync_borrowed(write, Borrowed::Shared(&parts), None).unwrap();
        let read = IoRequest::read(&legs[1..], Memory::None);
        let parts = &mut [IoSliceMut::new(&mut self.bytes)];
        let outcome = client.io_sync_borrowed(read, Borrowed::Mut(parts), None).unwrap();
        assert_eq!(outcome.error_mask, 0);
    }
}

#[test]
fn nothing_allocates_after_new() {
    for engine in [EngineKind::Uring, EngineKind::Sync] {
        let files = [NamedTempFile::new().unwrap(), NamedTempFile::new().unwrap()];
        let is_uring = matches!(engine, EngineKind::Uring);
        if is_uring && tqueue::Queue::new(&tqueue::Config::default()).unwrap().info().engine != "io_uring" {
            println!("skipped: there is no io_uring here");
            continue;
        }
        let mut load = Load::new(engine, &files);
        (0..50).for_each(|round| load.round(round));
        let counted = allocation_counter::measure(|| (0..rounds()).for_each(|round| load.round(round)));
        assert_eq!(counted.count_total, 0, "{}", load.client.dump());
        assert!(load.keeper.cancelled.get() > 0, "some were cancelled");
        assert_eq!(load.keeper.timeouts.get(), 0);
    }
}
