//! `checksum`: remembers what was written, sector by sector, and fails reads that bring something else.
//!
//! Text form: `checksum`, or `checksum:size=64GiB`.
//!
//! | field | is | if not given |
//! |---|---|---|
//! | `size` | sectors of this many bytes in all are remembered: 1 MiB to 256 GiB, made a power of two. Every 64 bytes of it take one byte of memory, all of it when the first queue is made: 64 MiB for 4 GiB | 4 GiB |
//!
//! # Contract
//! - The unit is the sector of 512 bytes, the checksum CRC-32 (that of gzip). A sector is known when a write that covered all
//!   of it, or a write-zeroes, has ended well. A known sector that a read brings differently fails the read with `EILSEQ`,
//!   and an error in the log, `checksum_mismatch`, names file, sector, and both checksums.
//! - It never accuses wrongly as long as nobody else writes to the file. A sector becomes unknown when a write to it begins,
//!   and stays so if that fails, covers a part of it, or overlaps another write; when it is discarded; and when its place is
//!   taken by a sector that lies a multiple of `size` away, in this file or another. A read that overlaps a write is not
//!   verified, nor one into memory that another op fills meanwhile.
//! - All queues that are made from clones of one configuration share what they know: what one has written, the others verify.
//!   They share a lock for it as well.
//! - A file, told by device and inode, is known while any of these queues has it. 255 are known at the same time, further
//!   ones are not verified. Sockets and simulated files do not count, and are not looked at.
//!
//! It needs to see the bytes, so a device with zero copy refuses it.
//!
//! # References
//! blktap2's `tapdisk-filter.c` (`TD_CHECK_INTEGRITY`).

mod memory;
mod traffic;

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iomgr_core::{FileHandle, FileSlot, OpError};

use super::text::{Field, size_text};
use super::{Filter, FilterOp, FilterSetup, OpKinds, Verdict};
use crate::{Errno, Error};
use memory::Memory;
use traffic::{Traffic, Trip, Who};

/// Bytes of a sector.
const SECTOR: u64 = 512;
/// One that is all zeros.
const ZEROS: [u8; 512] = [0; 512];

/// How much is remembered, and by whom: clones share it.
#[derive(Clone, Debug)]
pub struct ChecksumConfig {
    size_bytes: u64,
    shared: Arc<Mutex<Shared>>,
}

/// What the queues of a configuration share.
#[derive(Debug, Default)]
struct Shared {
    memory: Memory,
    traffic: Traffic,
    /// Queues so far.
    queues: u32,
    verified: u64,
    mismatches: u64,
}

impl ChecksumConfig {
    /// Remembers sectors of so many bytes, rounded up to a power of two from 1 MiB to 256 GiB.
    pub fn new(size_bytes: u64) -> Self {
        Self {
            size_bytes: size_bytes.clamp(1 << 20, 256 << 30).next_power_of_two(),
            shared: Arc::default(),
        }
    }

    /// Bytes whose sectors are remembered.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub(super) fn parse(fields: &[Field<'_>]) -> Result<Self, Error> {
        let mut size_bytes = 4 << 30;
        for field in fields {
            match field.name {
                "size" => size_bytes = field.size(field.value)?,
                _ => return Err(field.unknown("size")),
            }
            if !(1 << 20..=256 << 30).contains(&size_bytes) {
                return Err(field.wrong("say a size from 1MiB to 256GiB"));
            }
        }
        Ok(Self::new(size_bytes))
    }

    pub(super) fn make(&self, setup: FilterSetup) -> Result<Checksum, Error> {
        let mut shared = lock(&self.shared);
        shared.memory.reserve(self.size_bytes / SECTOR)?;
        shared.traffic.reserve(setup.places as usize);
        shared.queues += 1;
        Ok(Checksum {
            queue: shared.queues,
            files: Vec::with_capacity(setup.files as usize),
            shared: Arc::clone(&self.shared),
        })
    }
}

impl fmt::Display for ChecksumConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "checksum:size={}", size_text(self.size_bytes))
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    // Nothing is half done when a panic may pass: the sectors of an op that was never finished stay unknown.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The filter.
#[derive(Debug)]
pub(super) struct Checksum {
    queue: u32,
    /// The numbers of this queue's files.
    files: Vec<(FileSlot, u8)>,
    shared: Arc<Mutex<Shared>>,
}

impl Checksum {
    fn number(&self, file: FileSlot) -> Option<u8> {
        let found = self.files.iter().find(|(slot, _)| *slot == file);
        found.map(|&(_, number)| number)
    }

    fn who(&self, op: &FilterOp<'_>) -> Who {
        Who {
            queue: self.queue,
            place: op.place,
        }
    }
}

/// A queue that is gone has no ops and no files any more.
impl Drop for Checksum {
    fn drop(&mut self) {
        let shared = &mut *lock(&self.shared);
        let (verified, wrong) = (shared.verified, shared.mismatches);
        tracing::info!(verified, wrong, "checksum_ended: sectors of all queues so far");
        shared.traffic.forget(self.queue);
        for (_, number) in self.files.drain(..) {
            shared.memory.remove_file(number);
        }
    }
}

/// What changes bytes.
const WRITES: OpKinds = OpKinds::WRITE.union(OpKinds::DISCARD).union(OpKinds::ZERO);

impl Filter for Checksum {
    fn needs_bytes(&self) -> bool {
        true
    }

    fn file_added(&mut self, file: FileSlot, handle: &FileHandle) {
        if let Some(number) = lock(&self.shared).memory.add_file(handle) {
            self.files.push((file, number));
        }
    }

    fn file_removed(&mut self, file: FileSlot) {
        if let Some(at) = self.files.iter().position(|(slot, _)| *slot == file) {
            let (_, number) = self.files.swap_remove(at);
            lock(&self.shared).memory.remove_file(number);
        }
    }

    fn before(&mut self, op: &FilterOp<'_>) -> Verdict {
        let Some(file) = self.number(op.op.file).filter(|_| op.len_bytes() > 0) else {
            return Verdict::Go;
        };
        let trip = Trip {
            file,
            sectors: touched(op),
            writes: WRITES.contains(op.kind()),
        };
        let shared = &mut *lock(&self.shared);
        if trip.writes {
            shared.memory.forget(file, trip.sectors.clone());
        }
        shared.traffic.enter(self.who(op), trip);
        Verdict::Go
    }

    fn after(&mut self, op: &FilterOp<'_>, result: Result<(), OpError>) -> Result<(), OpError> {
        let Some(file) = self.number(op.op.file).filter(|_| op.len_bytes() > 0) else {
            return result;
        };
        let shared = &mut *lock(&self.shared);
        let alone = shared.traffic.leave(self.who(op));
        if result.is_err() || !alone {
            return result;
        }
        match op.kind() {
            OpKinds::READ => return shared.verify(file, op),
            OpKinds::WRITE => {
                whole(op).for_each(|(sector, bytes)| shared.memory.learn(file, sector, crc32fast::hash(bytes)))
            }
            OpKinds::ZERO => shared.memory.learn_all(file, covered(op), crc32fast::hash(&ZEROS)),
            _ => {}
        }
        Ok(())
    }

    fn dump(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let shared = lock(&self.shared);
        writeln!(
            out,
            "{} sectors verified, {} of them wrong",
            shared.verified, shared.mismatches
        )
    }
}

impl Shared {
    /// Compares what a read has brought.
    fn verify(&mut self, file: u8, op: &FilterOp<'_>) -> Result<(), OpError> {
        let mut wrong = None;
        let mut count = 0u64;
        for (sector, bytes) in whole(op) {
            let Some(expected) = self.memory.known(file, sector) else {
                continue;
            };
            let found = crc32fast::hash(bytes);
            self.verified += 1;
            if found != expected {
                count += 1;
                wrong.get_or_insert((sector, expected, found));
            }
        }
        self.mismatches += count;
        let Some((sector, expected, found)) = wrong else {
            return Ok(());
        };
        tracing::error!(
            file = self.memory.name(file),
            sector,
            expected = %format_args!("{expected:#010x}"),
            found = %format_args!("{found:#010x}"),
            sectors_wrong = count,
            "checksum_mismatch: a sector is not what was written to it"
        );
        Err(OpError::Os(Errno::ILSEQ))
    }
}

/// The sectors that an op is about, those at its ends as well.
fn touched(op: &FilterOp<'_>) -> Range<u64> {
    let end = op.offset().saturating_add(op.len_bytes());
    op.offset() / SECTOR..end.div_ceil(SECTOR)
}

/// The sectors of which it leaves nothing out.
fn covered(op: &FilterOp<'_>) -> Range<u64> {
    let end = op.offset().saturating_add(op.len_bytes());
    op.offset().div_ceil(SECTOR)..end / SECTOR
}

/// Those, and what lies in memory for each; none where the memory is out of reach.
fn whole<'a>(op: &FilterOp<'a>) -> impl Iterator<Item = (u64, &'a [u8])> {
    let before = op.offset().next_multiple_of(SECTOR) - op.offset();
    let before = usize::try_from(before).expect("less than a sector");
    let bytes = op.bytes.and_then(|bytes| bytes.get(before..)).unwrap_or_default();
    covered(op).zip(bytes.chunks_exact(ZEROS.len()))
}
