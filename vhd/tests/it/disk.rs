//! A simulated disk: what is live, what is durable, and everything between that a power cut may keep or lose.

use std::cell::{Cell, RefCell};
use std::io;

use fastrand::Rng;
use iomgr_core::Storage;

/// One change to the disk.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    Zero { offset: u64, len: u64 },
    SetLen(u64),
}

#[derive(Clone, Debug)]
struct Effect {
    id: u64,
    change: Change,
    completed: bool,
}

/// What [`Disk::crash`] keeps of the changes that are not durable.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Keep {
    Nothing,
    Everything,
    /// Each sector by a throw of the dice; the chance is thrown first.
    Some,
}

/// Somebody who looks at the disk.
pub(crate) type Watch = Box<dyn FnMut(&Disk)>;

/// The disk. A flush makes durable what was completed before it began.
pub(crate) struct Disk {
    live: RefCell<Vec<u8>>,
    durable: RefCell<Vec<u8>>,
    pending: RefCell<Vec<Effect>>,
    next_id: Cell<u64>,
    /// How many flushes have ended.
    pub(crate) flushes: Cell<u32>,
    /// Files longer than this meet a full file system.
    pub(crate) space: Cell<u64>,
    pub(crate) device: bool,
    /// Called before each blocking change: crash tests look at the disk then.
    pub(crate) watch: RefCell<Option<Watch>>,
}

impl Disk {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self {
            live: RefCell::new(bytes.clone()),
            durable: RefCell::new(bytes),
            pending: RefCell::new(Vec::new()),
            next_id: Cell::new(0),
            flushes: Cell::new(0),
            space: Cell::new(u64::MAX),
            device: false,
            watch: RefCell::new(None),
        }
    }

    /// A block device of that content, or a file.
    pub(crate) fn with_device(bytes: Vec<u8>, device: bool) -> Self {
        let mut disk = Self::new(bytes);
        disk.device = device;
        disk
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.live.borrow().clone()
    }

    /// A change is on its way: a power cut may find any part of it done.
    pub(crate) fn begin(&self, change: Change) -> u64 {
        let id = self.next_id.replace(self.next_id.get() + 1);
        let completed = false;
        self.pending.borrow_mut().push(Effect { id, change, completed });
        id
    }

    /// It has arrived.
    pub(crate) fn complete(&self, id: u64) -> io::Result<()> {
        let mut pending = self.pending.borrow_mut();
        let at = pending.iter().position(|effect| effect.id == id).unwrap();
        if let Change::Write { offset, bytes } = &pending[at].change
            && offset + bytes.len() as u64 > self.space.get().max(self.live.borrow().len() as u64)
        {
            pending.remove(at);
            return Err(io::ErrorKind::StorageFull.into());
        }
        pending[at].completed = true;
        apply(&mut self.live.borrow_mut(), &pending[at].change);
        Ok(())
    }

    /// It failed; parts of it may have been done.
    pub(crate) fn fail(&self, id: u64, rng: &mut Rng) {
        let at = self.pending.borrow().iter().position(|effect| effect.id == id).unwrap();
        if rng.bool() {
            self.complete(id).ok();
        } else {
            self.pending.borrow_mut().remove(at);
        }
    }

    /// What a flush that begins now will make durable.
    pub(crate) fn begin_flush(&self) -> Vec<u64> {
        self.pending
            .borrow()
            .iter()
            .filter(|effect| effect.completed)
            .map(|effect| effect.id)
            .collect()
    }

    pub(crate) fn end_flush(&self, covered: &[u64]) {
        self.flushes.set(self.flushes.get() + 1);
        let mut durable = self.durable.borrow_mut();
        self.pending.borrow_mut().retain(|effect| {
            let is_covered = covered.contains(&effect.id);
            if is_covered {
                apply(&mut durable, &effect.change);
            }
            !is_covered
        });
    }

    /// The disk after a power cut now.
    pub(crate) fn crash(&self, keep: Keep, rng: &mut Rng) -> Vec<u8> {
        let chance = match keep {
            Keep::Nothing => 0.0,
            Keep::Everything => 1.0,
            Keep::Some => rng.f64(),
        };
        let mut bytes = self.durable.borrow().clone();
        for effect in self.pending.borrow().iter() {
            apply_some(&mut bytes, &effect.change, &mut || rng.f64() < chance);
        }
        bytes
    }

    /// The file after the process was killed now: what it had begun may end, as a whole, or not.
    pub(crate) fn killed(&self, rng: &mut Rng) -> Vec<u8> {
        let mut bytes = self.bytes();
        for effect in self.pending.borrow().iter().filter(|effect| !effect.completed) {
            if rng.bool() {
                apply(&mut bytes, &effect.change);
            }
        }
        bytes
    }

    fn watched(&self) {
        let watch = self.watch.borrow_mut().take();
        if let Some(mut watch) = watch {
            watch(self);
            *self.watch.borrow_mut() = Some(watch);
        }
    }

    fn now(&self, change: Change) -> io::Result<()> {
        self.watched();
        let id = self.begin(change);
        self.watched();
        self.complete(id)
    }
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    apply_some(bytes, change, &mut || true);
}

/// Applies a change, or parts of it: the file's new length and each sector are kept if `keep` says so.
fn apply_some(bytes: &mut Vec<u8>, change: &Change, keep: &mut dyn FnMut() -> bool) {
    match change {
        Change::SetLen(len) => {
            if keep() {
                bytes.resize(*len as usize, 0);
            }
        }
        Change::Write { offset, bytes: new } => {
            let (from, end) = (*offset as usize, *offset as usize + new.len());
            if end > bytes.len() && keep() {
                bytes.resize(end, 0);
            }
            for at in (from..end.min(bytes.len())).step_by(512) {
                if keep() {
                    let to = (at + 512).min(end).min(bytes.len());
                    bytes[at..to].copy_from_slice(&new[at - from..to - from]);
                }
            }
        }
        Change::Zero { offset, len } => {
            let end = (*offset as usize + *len as usize).min(bytes.len());
            for at in (*offset as usize..end).step_by(512) {
                if keep() {
                    bytes[at..(at + 512).min(end)].fill(0);
                }
            }
        }
    }
}

impl Storage for Disk {
    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.live.borrow().len() as u64)
    }

    fn is_block_device(&self) -> bool {
        self.device
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let live = self.live.borrow();
        let from = usize::try_from(offset)
            .ok()
            .and_then(|from| live.get(from..)?.get(..buf.len()));
        buf.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let past_device = self.device && offset + buf.len() as u64 > self.live.borrow().len() as u64;
        if past_device {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.now(Change::Write {
            offset,
            bytes: buf.to_vec(),
        })
    }

    fn zero_range(&self, offset: u64, len: u64) -> io::Result<()> {
        self.now(Change::Zero { offset, len })
    }

    fn sync(&self) -> io::Result<()> {
        self.watched();
        self.end_flush(&self.begin_flush());
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if self.device {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.now(Change::SetLen(len))
    }
}
