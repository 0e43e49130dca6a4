//! A guest, an allocator and a simulated disk, with everything in flight at once and the naive model beside them.
//!
//! The model knows, for each sector, all values that it may have: the guest's writes in order, and from which of them on
//! a power cut must not go back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use fastrand::Rng;
use iomgr_core::{Errno, Sector, SectorCount};
use vhd::{
    Allocator, AllocatorOptions, BitmapCache, Extent, Fence, Image, Map, OpenOptions, Parts, StepAction, StepId,
};

use crate::disk::{Change, Disk, Keep};
use crate::session::Session;

/// Epochs as numbers under a lock: what `EpochDomain` is, said simply.
#[derive(Clone, Debug, Default)]
pub(crate) struct Epochs(Arc<Mutex<(u64, Vec<u64>)>>);

impl Epochs {
    pub(crate) fn enter(&self) -> u64 {
        let mut inner = self.0.lock().unwrap();
        let now = inner.0;
        inner.1.push(now);
        now
    }

    pub(crate) fn exit(&self, pin: u64) {
        let mut inner = self.0.lock().unwrap();
        let at = inner.1.iter().position(|&held| held == pin).unwrap();
        inner.1.swap_remove(at);
    }
}

impl Fence for Epochs {
    fn advance(&mut self) -> u64 {
        let mut inner = self.0.lock().unwrap();
        inner.0 += 1;
        inner.0
    }

    fn drained(&self, epoch: u64) -> bool {
        self.0.lock().unwrap().1.iter().all(|&pin| pin >= epoch)
    }
}

/// All values that a sector may have. Values are stamps, 0 is zeros.
#[derive(Clone, Debug)]
pub(crate) struct History {
    values: Vec<u32>,
    /// The last value that was acknowledged.
    acked: usize,
    /// A power cut goes back to this one at most.
    durable: usize,
}

impl History {
    fn new(value: u32) -> Self {
        Self {
            values: vec![value],
            acked: 0,
            durable: 0,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    Write { stamp: u32 },
    Read,
    Release,
}

/// A guest's request under way.
#[derive(Clone, Debug)]
struct Op {
    what: What,
    sector: u64,
    count: u64,
    pin: u64,
    /// For reads: where the data lie, and the history's state when the read began.
    from: Vec<(Option<u64>, usize)>,
}

/// I/O under way.
#[derive(Clone, Debug)]
enum Io {
    Step {
        id: StepId,
        effect: Option<u64>,
        flush: Option<Vec<u64>>,
        read: Option<(u64, usize)>,
    },
    Data {
        cookie: u64,
        effect: u64,
    },
    Read {
        cookie: u64,
    },
    Flush {
        ticket: u64,
        covered: Vec<u64>,
        acked: Vec<usize>,
    },
}

/// What may go wrong.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// One step in so many fails; 0: none.
    pub(crate) step_one_in: u32,
}

/// The whole.
pub(crate) struct Rig {
    pub(crate) disk: Disk,
    pub(crate) rng: Rng,
    pub(crate) sectors: Vec<History>,
    pub(crate) faults: Faults,
    map: Arc<Map>,
    cache: BitmapCache,
    allocator: Box<Allocator>,
    epochs: Epochs,
    ops: HashMap<u64, Op>,
    ios: Vec<Io>,
    next: u64,
    pub(crate) enospc: u32,
}

pub(crate) fn stamped(stamp: u32) -> [u8; 512] {
    let mut bytes = [0; 512];
    for part in bytes.chunks_exact_mut(4) {
        part.copy_from_slice(&stamp.to_be_bytes());
    }
    bytes
}

/// The stamp of a sector's bytes; panics where they are torn or garbage.
pub(crate) fn stamp_of(bytes: &[u8]) -> u32 {
    let stamp = u32::from_be_bytes(bytes[..4].try_into().unwrap());
    assert!(bytes == stamped(stamp), "a sector is of one piece");
    stamp
}

impl Rig {
    pub(crate) fn new(disk: Disk, seed: u64) -> Self {
        let image = Image::open(&disk, &OpenOptions { read_only: false }).unwrap();
        let epochs = Epochs::default();
        let options = AllocatorOptions {
            capacity: 24,
            fence: Box::new(epochs.clone()),
        };
        let Parts::Dynamic { map, allocator } = image.into_parts(options) else {
            panic!("dynamic")
        };
        let cache = BitmapCache::new(&map, 2048);
        let mut sectors = Vec::new();
        let mut session = Session::open(disk, true).unwrap();
        for sector in 0..map.shape().sectors() {
            let mut bytes = [0; 512];
            session.read(sector * 512, &mut bytes).unwrap();
            sectors.push(History::new(stamp_of(&bytes)));
        }
        Self {
            disk: session.storage,
            rng: Rng::with_seed(seed),
            sectors,
            faults: Faults::default(),
            map,
            cache,
            allocator: allocator.unwrap(),
            epochs,
            ops: HashMap::new(),
            ios: Vec::new(),
            next: 1,
            enospc: 0,
        }
    }

    /// Something happens: a request begins, a step is taken, or I/O ends.
    pub(crate) fn turn(&mut self) {
        match self.rng.u32(0..10) {
            0..=2 if self.ops.len() < 12 => self.begin_op(),
            3 => self.begin_flush(),
            4..=5 => self.take_step(),
            _ => self.end_io(),
        }
        self.fetch_events();
    }

    /// Ends all that is under way, and whatever the allocator still has to do.
    pub(crate) fn drain(&mut self) {
        loop {
            self.take_step();
            self.fetch_events();
            if self.ios.is_empty() {
                break;
            }
            self.end_io();
            self.fetch_events();
        }
        assert!(
            self.ops.is_empty(),
            "requests are left: {:?} {:?}",
            self.ops,
            self.allocator
        );
    }

    /// Closes cleanly, the disk watched by `watch`; gives the disk back.
    pub(crate) fn close(mut self, watch: Box<dyn FnMut(&Disk)>) -> (Disk, Vec<History>) {
        self.drain();
        *self.disk.watch.borrow_mut() = Some(watch);
        self.allocator.close(&self.disk).unwrap();
        *self.disk.watch.borrow_mut() = None;
        (self.disk, self.sectors)
    }

    fn locked(&self, sector: u64, count: u64, whole_block: bool) -> bool {
        let shape = self.map.shape();
        self.ops.values().filter(|op| op.what != What::Read).any(|op| {
            let block = shape.split_sector(op.sector).0 == shape.split_sector(sector).0;
            let whole = whole_block || op.what == What::Release;
            block && (whole || (op.sector < sector + count && sector < op.sector + op.count))
        })
    }

    fn begin_op(&mut self) {
        let shape = self.map.shape();
        let block = self.rng.u64(0..shape.blocks());
        let within = self.rng.u64(0..shape.sectors_in(block));
        let first = block * shape.block_sectors();
        let (what, sector, count) = match self.rng.u32(0..6) {
            0 => (What::Release, first, shape.sectors_in(block)),
            1..=2 => (
                What::Read,
                first + within,
                self.rng.u64(1..=shape.sectors_in(block) - within),
            ),
            _ => {
                let stamp = self.next as u32;
                (
                    What::Write { stamp },
                    first + within,
                    self.rng.u64(1..=shape.sectors_in(block) - within),
                )
            }
        };
        if what != What::Read && self.locked(sector, count, what == What::Release) {
            return;
        }
        let cookie = self.next;
        self.next += 1;
        let pin = self.epochs.enter();
        self.ops.insert(
            cookie,
            Op {
                what,
                sector,
                count,
                pin,
                from: Vec::new(),
            },
        );
        match what {
            What::Read => self.begin_read(cookie),
            What::Write { .. } => self.begin_write(cookie),
            What::Release => {
                self.push_values(cookie, 0);
                if self.allocator.release(block, cookie).is_err() {
                    self.end_op(cookie, false);
                }
            }
        }
    }

    fn push_values(&mut self, cookie: u64, value: u32) {
        let op = &self.ops[&cookie];
        for sector in op.sector..op.sector + op.count {
            self.sectors[sector as usize].values.push(value);
        }
    }

    fn extent(&mut self, sector: u64, count: u64) -> Extent {
        let extent = self.cache.lookup(&self.map, Sector(sector), SectorCount(count));
        let Extent::NeedBitmap { bitmap, count } = extent else {
            return extent;
        };
        let bytes = self.disk.bytes()[bitmap.offset as usize..][..bitmap.len].to_vec();
        self.cache.insert(&self.map, bitmap, &bytes);
        match self.map.lookup(Sector(sector), count) {
            Extent::NeedBitmap { bitmap, count } => self.map.extent_in(bitmap, &bytes, Sector(sector), count),
            extent => extent,
        }
    }

    fn begin_read(&mut self, cookie: u64) {
        let Op { sector, count, .. } = self.ops[&cookie];
        let mut from = Vec::new();
        for sector in sector..sector + count {
            let acked = self.sectors[sector as usize].acked;
            from.push(match self.extent(sector, 1) {
                Extent::Data { file_offset, .. } => (Some(file_offset), acked),
                Extent::Bad { .. } | Extent::NeedBitmap { .. } => panic!("a good image"),
                _ => (None, acked),
            });
        }
        self.ops.get_mut(&cookie).unwrap().from = from;
        self.ios.push(Io::Read { cookie });
    }

    fn end_read(&mut self, cookie: u64) {
        let live = self.disk.bytes();
        let op = self.ops[&cookie].clone();
        for (sector, (offset, acked)) in (op.sector..).zip(&op.from) {
            let seen = offset.map_or(0, |offset| stamp_of(&live[offset as usize..][..512]));
            let allowed = &self.sectors[sector as usize].values[*acked..];
            assert!(
                allowed.contains(&seen),
                "sector {sector} reads {seen}, allowed {allowed:?}"
            );
        }
        self.end_op(cookie, true);
    }

    /// Goes straight to the data where the block is full; asks for it to be made so otherwise.
    fn begin_write(&mut self, cookie: u64) {
        let Op {
            what, sector, count, ..
        } = self.ops[&cookie].clone();
        let What::Write { stamp } = what else { panic!("a write") };
        match self.map.lookup(Sector(sector), SectorCount(count)) {
            Extent::Data { file_offset, .. } => {
                self.push_values(cookie, stamp);
                let bytes = stamped(stamp).repeat(count as usize);
                let effect = self.disk.begin(Change::Write {
                    offset: file_offset,
                    bytes,
                });
                self.ios.push(Io::Data { cookie, effect });
            }
            _ => {
                let block = self.map.shape().split_sector(sector).0;
                if self.allocator.want(block, cookie).is_err() {
                    self.end_op(cookie, false);
                }
            }
        }
    }

    fn end_op(&mut self, cookie: u64, ok: bool) {
        let op = self.ops.remove(&cookie).unwrap();
        self.epochs.exit(op.pin);
        if ok && op.what != What::Read {
            for sector in op.sector..op.sector + op.count {
                let history = &mut self.sectors[sector as usize];
                history.acked = history.values.len() - 1;
            }
        }
    }

    fn fetch_events(&mut self) {
        while let Some(event) = self.allocator.poll_event() {
            self.enospc += u32::from(event.result == Err(Errno::NOSPC));
            match (self.ops[&event.cookie].what, event.result) {
                (What::Write { .. }, Ok(())) => self.begin_write(event.cookie),
                (_, result) => self.end_op(event.cookie, result.is_ok()),
            }
        }
    }

    fn begin_flush(&mut self) {
        let ticket = self.allocator.flush_started();
        let covered = self.disk.begin_flush();
        let acked = self.sectors.iter().map(|history| history.acked).collect();
        self.ios.push(Io::Flush { ticket, covered, acked });
    }

    fn take_step(&mut self) {
        let Some(step) = self.allocator.poll_step() else { return };
        let (mut effect, mut flush, mut read) = (None, None, None);
        match step.action {
            StepAction::Write { offset, len } => {
                let mut bytes = vec![0xDD; len];
                self.allocator.fill(step.id, &mut bytes);
                effect = Some(self.disk.begin(Change::Write { offset, bytes }));
            }
            StepAction::Zero { offset, len, .. } => effect = Some(self.disk.begin(Change::Zero { offset, len })),
            StepAction::Read { offset, len } => read = Some((offset, len)),
            StepAction::Flush => flush = Some(self.disk.begin_flush()),
        }
        self.ios.push(Io::Step {
            id: step.id,
            effect,
            flush,
            read,
        });
    }

    fn end_io(&mut self) {
        if self.ios.is_empty() {
            return;
        }
        let at = self.rng.usize(0..self.ios.len());
        // Reads linger: they must hold up the reuse of what they look at.
        if matches!(self.ios[at], Io::Read { .. }) && self.rng.u32(0..4) > 0 {
            return;
        }
        match self.ios.swap_remove(at) {
            Io::Read { cookie } => self.end_read(cookie),
            Io::Data { cookie, effect } => {
                let ok = self.disk.complete(effect).is_ok();
                self.end_op(cookie, ok);
            }
            Io::Flush { ticket, covered, acked } => {
                self.disk.end_flush(&covered);
                for (history, acked) in self.sectors.iter_mut().zip(acked) {
                    history.durable = history.durable.max(acked);
                }
                self.allocator.flush_done(ticket, Ok(()));
            }
            Io::Step {
                id,
                effect,
                flush,
                read,
            } => self.end_step(id, effect, flush, read),
        }
    }

    fn end_step(&mut self, id: StepId, effect: Option<u64>, flush: Option<Vec<u64>>, read: Option<(u64, usize)>) {
        let fails = self.faults.step_one_in > 0 && self.rng.u32(0..self.faults.step_one_in) == 0;
        let mut result = Ok(());
        if let Some(effect) = effect {
            if fails {
                self.disk.fail(effect, &mut self.rng);
                result = Err(if self.rng.bool() { Errno::IO } else { Errno::NOSPC });
            } else {
                result = self.disk.complete(effect).map_err(|_| Errno::NOSPC);
            }
        }
        if let Some(covered) = flush {
            self.disk.end_flush(&covered);
        }
        if let Some((offset, len)) = read {
            let bytes = self.disk.bytes()[offset as usize..][..len].to_vec();
            self.allocator.read_done(id, &bytes);
        }
        self.allocator.step_done(id, result);
    }

    /// Cuts the power, on paper, and looks at what is left.
    pub(crate) fn check_power_cut(&mut self, keep: Keep) -> Disk {
        let bytes = self.disk.crash(keep, &mut self.rng);
        verify_crash(bytes, self.disk.device, &self.sectors)
    }

    /// Kills the process, on paper: nothing acknowledged is lost, and the footer is there.
    pub(crate) fn check_killed(&mut self) {
        let disk = Disk::with_device(self.disk.killed(&mut self.rng), self.disk.device);
        let report = vhd::check(&disk).unwrap();
        assert_ne!(report.verdict(), vhd::Verdict::Corrupt, "{report:?}");
        compare(disk, &self.sectors, |history| history.acked);
    }
}

/// What a power cut left opens, has no wrong entry, holds all that was flushed, and can be repaired.
pub(crate) fn verify_crash(bytes: Vec<u8>, device: bool, sectors: &[History]) -> Disk {
    let disk = Disk::with_device(bytes, device);
    let report = vhd::check(&disk).unwrap();
    let wrong = report
        .findings
        .iter()
        .find(|finding| finding.severity == vhd::Severity::Error && finding.code != "footer-lost");
    assert_eq!(wrong, None, "{report:?}");
    let disk = compare(disk, sectors, |history| history.durable);
    vhd::repair(&disk, false).unwrap();
    Image::open(&disk, &OpenOptions { read_only: false }).unwrap();
    compare(disk, sectors, |history| history.durable)
}

/// Reads the whole disk: each sector has one of its values from the one that `from` names on.
pub(crate) fn compare(disk: Disk, sectors: &[History], from: impl Fn(&History) -> usize) -> Disk {
    let mut session = Session::open(disk, true).unwrap();
    let mut bytes = vec![0; sectors.len() * 512];
    session.read(0, &mut bytes).unwrap();
    for (sector, (history, bytes)) in sectors.iter().zip(bytes.chunks_exact(512)).enumerate() {
        let (seen, allowed) = (stamp_of(bytes), &history.values[from(history)..]);
        assert!(
            allowed.contains(&seen),
            "sector {sector} holds {seen:#x}, allowed {allowed:x?}"
        );
    }
    session.storage
}

/// The values that nothing but the last one may be.
pub(crate) fn last(history: &History) -> usize {
    history.acked
}
