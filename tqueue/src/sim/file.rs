//! One file: what readers see, what a power cut leaves for certain, and the changes in between.
//!
//! `live` = `base` + all of `log`. A power cut leaves `base` + some of `log`.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use fastrand::Rng;
use iomgr_core::Timestamp;
use rustix::io::Errno;

use super::fault::Fault;
use super::sparse::Sparse;

/// What survives or is lost as a whole.
const SECTOR: u64 = 512;

/// A change that is live and perhaps not durable.
#[derive(Clone, Debug)]
struct Change {
    what: What,
    /// Does it make the file longer, or shorter?
    resizes: bool,
    /// It is durable, and in the log only for its place in the order.
    forced: bool,
}

#[derive(Clone, Debug)]
enum What {
    Bytes { offset: u64, bytes: Arc<[u8]> },
    Zeros { offset: u64, len: u64 },
    Len { len: u64 },
}

/// A file and how it misbehaves.
#[derive(Debug)]
pub(crate) struct File {
    live: Sparse,
    base: Sparse,
    log: VecDeque<Change>,
    /// Changes that have left the log.
    retired: u64,
    pub(crate) is_block_device: bool,
    pub(crate) fail_flushes: bool,
    pub(crate) no_holes: bool,
    pub(crate) limit: Option<u64>,
    pub(crate) bad: Range<u64>,
    pub(crate) faults: Vec<Fault>,
    /// Nothing completes before.
    pub(crate) stalled_until: Timestamp,
}

impl File {
    pub(crate) fn new(len: u64, is_block_device: bool) -> Self {
        Self {
            live: Sparse::new(len),
            base: Sparse::new(len),
            log: VecDeque::new(),
            retired: 0,
            is_block_device,
            fail_flushes: false,
            no_holes: false,
            limit: None,
            bad: 0..0,
            faults: Vec::new(),
            stalled_until: Timestamp::ZERO,
        }
    }

    pub(crate) fn len(&self) -> u64 {
        self.live.len()
    }

    /// How many changes there were so far: what a flush that is issued now covers.
    pub(crate) fn position(&self) -> u64 {
        self.retired + self.log.len() as u64
    }

    pub(crate) fn volatile_changes(&self) -> usize {
        self.log.iter().filter(|change| !change.forced).count()
    }

    /// Bytes read; fewer at the end of the file.
    pub(crate) fn read(&self, offset: u64, buf: &mut [u8]) -> Result<usize, Errno> {
        self.check(offset, buf.len())?;
        let there = self.len().saturating_sub(offset);
        let len = usize::try_from(there).unwrap_or(usize::MAX).min(buf.len());
        self.live.read(offset, &mut buf[..len]);
        Ok(len)
    }

    /// Bytes written; fewer where the space ends.
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8], durable: bool) -> Result<usize, Errno> {
        self.check(offset, bytes.len())?;
        let most = if self.is_block_device {
            Some(self.len())
        } else {
            self.limit
        };
        // Bytes that are there already take no new space.
        let most = most.map_or(u64::MAX, |most| most.max(self.len()));
        let room = usize::try_from(most.saturating_sub(offset)).unwrap_or(usize::MAX);
        let bytes = &bytes[..bytes.len().min(room)];
        if bytes.is_empty() {
            return Err(Errno::NOSPC);
        }
        let resizes = offset + bytes.len() as u64 > self.len();
        let what = What::Bytes {
            offset,
            bytes: bytes.into(),
        };
        self.change(Change {
            what,
            resizes,
            forced: durable,
        });
        Ok(bytes.len())
    }

    /// Makes bytes zeros, up to the end of the file.
    pub(crate) fn zero(&mut self, offset: u64, len: u64) {
        let len = len.min(self.len().saturating_sub(offset));
        let what = What::Zeros { offset, len };
        self.change(Change {
            what,
            resizes: false,
            forced: false,
        });
    }

    pub(crate) fn set_len(&mut self, len: u64) -> Result<(), Errno> {
        if len > i64::MAX as u64 {
            return Err(Errno::FBIG);
        }
        if self.limit.is_some_and(|limit| len > limit.max(self.len())) {
            return Err(Errno::NOSPC);
        }
        let what = What::Len { len };
        self.change(Change {
            what,
            resizes: true,
            forced: false,
        });
        Ok(())
    }

    /// Writes some of the sectors.
    pub(crate) fn write_partly(&mut self, offset: u64, bytes: &[u8], rng: &mut Rng) {
        let keep = [0.0, 0.1, 0.5, 0.9, 1.0][rng.usize(..5)];
        for (from, to) in sectors(offset, bytes.len() as u64) {
            if rng.f64() < keep {
                // The op fails anyway.
                let _ = self.write(from, &bytes[(from - offset) as usize..(to - offset) as usize], false);
            }
        }
    }

    /// Makes the first `covered` changes durable. If that is to `fail`, each of their sectors may or may not have reached the
    /// disk, and nobody will ever try again.
    pub(crate) fn flush(&mut self, covered: u64, fail: bool, rng: &mut Rng) -> Result<(), Errno> {
        let count = covered.saturating_sub(self.retired).min(self.log.len() as u64);
        let changes: Vec<Change> = self.log.drain(..count as usize).collect();
        self.retired += count;
        if fail {
            self.base = survivors(&self.base, &changes, rng);
            return Err(Errno::IO);
        }
        for change in &changes {
            apply(&mut self.base, &change.what);
        }
        Ok(())
    }

    /// Leaves what a power cut may leave.
    pub(crate) fn cut_power(&mut self, rng: &mut Rng) {
        let changes: Vec<Change> = self.log.drain(..).collect();
        self.retired += changes.len() as u64;
        self.base = survivors(&self.base, &changes, rng);
        self.live = self.base.clone();
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.live, &change.what);
        self.log.push_back(change);
    }

    fn check(&self, offset: u64, len: usize) -> Result<(), Errno> {
        let end = offset
            .checked_add(len as u64)
            .filter(|&end| end <= i64::MAX as u64)
            .ok_or(Errno::INVAL)?;
        if offset < self.bad.end && self.bad.start < end {
            Err(Errno::IO)
        } else {
            Ok(())
        }
    }
}

fn apply(content: &mut Sparse, what: &What) {
    match what {
        What::Bytes { offset, bytes } => content.write(*offset, bytes),
        What::Zeros { offset, len } => content.zero(*offset, *len),
        What::Len { len } => content.set_len(*len),
    }
}

/// What may be left of `base` and `changes`: every forced change, changes of size up to some point, and of the rest each
/// sector or not.
fn survivors(base: &Sparse, changes: &[Change], rng: &mut Rng) -> Sparse {
    let sizes_kept = sizes_kept(changes, rng);
    // Not always half: all and nothing are worth trying, and so is one sector among many.
    let keep = [0.0, 0.1, 0.5, 0.9, 1.0][rng.usize(..5)];
    let mut content = base.clone();
    let mut len = base.len();
    for (at, change) in changes.iter().enumerate() {
        let sized = !change.resizes || at < sizes_kept;
        match &change.what {
            What::Bytes { offset, bytes } => {
                for (from, to) in sectors(*offset, bytes.len() as u64) {
                    if change.forced || rng.f64() < keep {
                        let part = (from - offset) as usize..(to - offset) as usize;
                        content.write(from, &bytes[part]);
                    }
                }
                if sized {
                    len = len.max(offset + bytes.len() as u64);
                }
            }
            What::Zeros { offset, len } => lose_zeros(&mut content, *offset, *len, keep, rng),
            What::Len { len: cut } if sized => {
                content.set_len(*cut);
                len = *cut;
            }
            What::Len { .. } => {}
        }
    }
    content.set_len(partly(len, base.len(), changes, rng));
    content
}

/// How many changes lie before the point up to which sizes are kept: behind the last one that is durable.
fn sizes_kept(changes: &[Change], rng: &mut Rng) -> usize {
    let forced = changes.iter().rposition(|change| change.forced).map_or(0, |at| at + 1);
    rng.usize(forced..=changes.len())
}

/// Sometimes the size stops half-way between the old and the new one, at a page.
fn partly(len: u64, old: u64, changes: &[Change], rng: &mut Rng) -> u64 {
    let forced = changes
        .iter()
        .any(|change| change.forced || matches!(change.what, What::Len { .. }));
    if forced || len <= old + 4096 || rng.u8(..4) != 0 {
        return len;
    }
    (rng.u64(old..len) / 4096 * 4096).max(old)
}

/// Zeros some of the sectors that are not zeros already.
fn lose_zeros(content: &mut Sparse, offset: u64, len: u64, keep: f64, rng: &mut Rng) {
    for page in content.written_pages(offset, len) {
        let (from, to) = (page.max(offset), (page + 4096).min(offset + len));
        for (from, to) in sectors(from, to - from) {
            if rng.f64() < keep {
                content.zero(from, to - from);
            }
        }
    }
}

/// The parts of a run that lie in one sector each.
fn sectors(offset: u64, len: u64) -> impl Iterator<Item = (u64, u64)> {
    let end = offset + len;
    let mut at = offset;
    std::iter::from_fn(move || {
        (at < end).then(|| {
            let from = at;
            at = ((at / SECTOR + 1) * SECTOR).min(end);
            (from, at)
        })
    })
}
