//! A dynamic image's part of a queue: what each run of sectors needs, and how to get blocks and bitmaps.
//!
//! # Contract
//! A request holds its epoch from before it looks at the map until its last op has ended, and not while it waits for a block:
//! a freed slot must not wait for a request that itself waits for a slot.

mod open;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use crossbeam_channel::{Receiver, Sender};
use iomgr_core::epoch::{EpochDomain, EpochQueue};
use iomgr_core::{
    Action, BlockStatus, Errno, FileSlot, Lease, Op, OpQueue, Operation, Owner, Pass, QueueContext, RequestFlags,
    SECTOR_BYTES, Sector, SectorCount, SectorRange, Tag, Timestamp, Waker,
};
use vhd::{BitmapCache, BitmapRef, Extent, Map};

use crate::block_status::mapped_status;
use crate::generation::Shared;
use crate::layout::BlockLayout;
use crate::metadata::{Metadata, Want, Wish};
use crate::queue::blocks::open::{epochs_of, open_owner, open_remote};
use crate::queue::slot::{Pending, Slot};
use crate::queue::token::OpKind;
use crate::queue::{Next, lease_all};
use crate::{Error, ErrorKind};

/// Memory per queue for bitmaps of partly written blocks: 512 of the usual size.
const BITMAP_CACHE_BYTES: usize = 256 << 10;
/// So many bitmaps are read at a time per queue.
const BITMAP_READS_MAX: usize = 4;

/// One look at the map goes over so many blocks at most: other requests wait meanwhile.
const STATUS_BLOCKS_MAX: u64 = 4096;

/// What a queue asks of the one that allocates.
#[derive(Debug)]
pub(crate) enum Message {
    /// Here I am: answers go there.
    Join(Join),
    /// Please.
    Wish(Wish),
}

/// Where a queue gets its answers.
#[derive(Debug)]
pub(crate) struct Join {
    pub(crate) queue: u16,
    pub(crate) answers: Sender<Answer>,
    pub(crate) waker: Waker,
}

/// A wish is fulfilled, or cannot be.
pub(crate) type Answer = (Tag, Result<(), Errno>);

/// What a flush will have made durable.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FlushMark {
    meta_written: u64,
    ticket: Option<u64>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct BlockQueue {
    owner: Owner,
    file: FileSlot,
    index: u16,
    map: Arc<Map>,
    epochs: EpochQueue,
    cache: BitmapCache,
    /// Buffers for bitmaps, free now.
    bitmap_buffers: Vec<Lease>,
    /// Bitmaps that are being read.
    reading: Vec<Reading>,
    /// See [`BlockLayout::meta_durable`].
    meta_durable: Arc<AtomicU64>,
    /// See [`Shared::durable_writes`].
    durable_writes: bool,
    port: Port,
}

/// A bitmap that is being read for a request.
#[derive(Debug)]
struct Reading {
    tag: Tag,
    bitmap: BitmapRef,
    buffer: Lease,
}

/// Who allocates.
#[derive(Debug)]
enum Port {
    /// This queue.
    Owner(Box<Metadata>),
    /// Queue 0, on another thread.
    Remote {
        outbox: Sender<Message>,
        answers: Receiver<Answer>,
        owner: Waker,
        /// See [`crate::layout::OwnerPort::drain_awaited`].
        drain_awaited: Arc<AtomicBool>,
        /// May there be answers?
        stirred: bool,
    },
    /// Nobody: the disk is read-only, or has failed.
    ReadOnly,
}

impl BlockQueue {
    pub(super) fn open(
        shared: &Arc<Shared>,
        layout: &BlockLayout,
        file: FileSlot,
        cx: &mut QueueContext<'_>,
    ) -> Result<Self, Error> {
        let bitmap_bytes = u32::try_from(layout.map.shape().bitmap_bytes()).expect("bitmaps have at most 64 KiB");
        let bitmap_buffers = lease_all(cx.io, BITMAP_READS_MAX, bitmap_bytes)
            .ok_or_else(|| Error::new(ErrorKind::Queue, "the queue has no memory for bitmaps"))?;
        let (index, owner, map) = (cx.index, cx.owner, Arc::clone(&layout.map));
        let opened = match index {
            // Nothing is ever mapped anew: there is nobody to ask, and nobody to wait for. (Who could not be closed has failed, and
            // may have no allocator any more.)
            _ if shared.is_read_only() || shared.has_failed() => {
                epochs_of(&EpochDomain::new(cx.count.into()), cx).map(|epochs| (Port::ReadOnly, epochs))
            }
            0 => open_owner(shared, layout, file, cx),
            _ => open_remote(layout, cx),
        };
        let (port, epochs) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                bitmap_buffers.into_iter().for_each(|buffer| cx.io.free(buffer));
                return Err(error);
            }
        };
        Ok(Self {
            owner,
            file,
            index,
            cache: BitmapCache::new(&map, BITMAP_CACHE_BYTES),
            map,
            epochs,
            reading: Vec::with_capacity(BITMAP_READS_MAX),
            bitmap_buffers,
            meta_durable: Arc::clone(&layout.meta_durable),
            durable_writes: shared.durable_writes,
            port,
        })
    }

    /// Holds what the map says from here on, for `slot`.
    pub(super) fn pin(&mut self, slot: &mut Slot) {
        slot.pin.get_or_insert_with(|| self.epochs.enter());
    }

    /// Lets go of it.
    pub(super) fn unpin(&mut self, slot: &mut Slot) {
        if let Some(pin) = slot.pin.take() {
            self.epochs.exit(pin);
        }
    }

    /// What the sectors at the cursor need.
    pub(super) fn next(&mut self, pass: &mut Pass<'_>, slot: &mut Slot) -> Next {
        let request = slot.request.as_ref().expect("a driven slot holds a request");
        match request.op {
            Operation::Read => self.read(pass, slot),
            Operation::Write => self.write(pass, slot),
            Operation::Discard | Operation::WriteZeroes => self.zero(slot),
            Operation::Prefetch => self.prefetch(slot),
            Operation::Flush => unreachable!("a flush has no sectors"),
        }
    }

    fn read(&mut self, pass: &mut Pass<'_>, slot: &Slot) -> Next {
        let (at, left) = slot.rest();
        let extent = self.cache.lookup(&self.map, at, left);
        let data = slot.data(extent.count());
        let sectors = extent.count().0;
        match extent {
            Extent::Data { file_offset, .. } => Next::Op {
                action: Action::Read {
                    offset: file_offset,
                    data,
                },
                sectors,
            },
            Extent::Zero { .. } | Extent::Unallocated { .. } => match pass.io.fill_zeros(data) {
                true => Next::Skip { sectors },
                false => Next::Zeros { data, sectors },
            },
            Extent::NeedBitmap { bitmap, .. } => self.read_bitmap(pass, slot.tag(), bitmap),
            Extent::Bad { .. } => Next::Fail(Errno::IO),
        }
    }

    /// Writes go to full blocks only; a block that is none is made one first.
    fn write(&mut self, pass: &mut Pass<'_>, slot: &mut Slot) -> Next {
        let (at, left) = slot.rest();
        let (file_offset, count) = match self.map.lookup(at, left) {
            Extent::Data { file_offset, count } => (file_offset, count),
            Extent::Unallocated { block, .. } => return self.ask(slot.tag(), Want::Allocate, block),
            Extent::NeedBitmap { bitmap, .. } => {
                // A look at the bitmap tells most blocks of other writers to be full.
                return match self.cache.lookup(&self.map, at, left) {
                    Extent::NeedBitmap { .. } => self.read_bitmap(pass, slot.tag(), bitmap),
                    _ => self.ask(slot.tag(), Want::Allocate, bitmap.block),
                };
            }
            Extent::Zero { .. } | Extent::Bad { .. } => return Next::Fail(Errno::IO),
        };
        let durable = slot.is_fua() && self.durable_writes && self.is_meta_durable();
        slot.durable |= durable;
        slot.flush_after |= slot.is_fua() && !durable;
        Next::Op {
            action: Action::Write {
                offset: file_offset,
                data: slot.data(count),
                durable,
            },
            sectors: count.0,
        }
    }

    /// Discards and write-zeroes: whole blocks are freed, of others the range is zeroed in place, whatever their bits say.
    fn zero(&mut self, slot: &mut Slot) -> Next {
        let (at, left) = slot.rest();
        let (keep, fast) = (slot.has(RequestFlags::NO_UNMAP), slot.has(RequestFlags::FAST_ZERO));
        let is_discard = slot.is(Operation::Discard);
        slot.flush_after |= slot.is_fua();
        let extent = self.map.lookup(at, left);
        let sectors = extent.count().0;
        let block = self.map.shape().split_sector(at.0).0;
        let is_whole = sectors == self.map.shape().sectors_in(block);
        if matches!(extent, Extent::Unallocated { .. }) {
            return match keep && !is_discard {
                false => Next::Skip { sectors },
                // New space may have to be filled with zeros.
                true if fast => Next::Fail(Errno::NOTSUP),
                true => self.ask(slot.tag(), Want::Allocate, block),
            };
        }
        let Some(offset) = self.place_in_file(extent, at) else {
            return Next::Fail(Errno::IO);
        };
        if is_whole && (is_discard || !keep) {
            slot.pending = Pending::Release { sectors };
            return self.ask(slot.tag(), Want::Release, block);
        }
        let len = sectors * SECTOR_BYTES;
        let action = match is_discard {
            true => Action::Discard { offset, len },
            false => Action::WriteZeroes {
                offset,
                len,
                unmap: !keep,
                fast,
            },
        };
        Next::Op { action, sectors }
    }

    /// What lies in the file, whatever its bits say. Past the page cache there is nothing to be filled.
    fn prefetch(&self, slot: &Slot) -> Next {
        let (at, left) = slot.rest();
        let extent = self.map.lookup(at, left);
        let sectors = extent.count().0;
        match self.place_in_file(extent, at) {
            Some(offset) if !self.durable_writes => Next::Op {
                action: Action::Prefetch {
                    offset,
                    len: sectors * SECTOR_BYTES,
                },
                sectors,
            },
            _ => Next::Skip { sectors },
        }
    }

    /// Where the sector `at` has its place, of which the map says `extent`.
    fn place_in_file(&self, extent: Extent, at: Sector) -> Option<u64> {
        let within = self.map.shape().split_sector(at.0).1;
        match extent {
            Extent::Data { file_offset, .. } => Some(file_offset),
            Extent::NeedBitmap { bitmap, .. } => Some(bitmap.offset + bitmap.len as u64 + within * SECTOR_BYTES),
            Extent::Zero { .. } | Extent::Unallocated { .. } | Extent::Bad { .. } => None,
        }
    }

    fn read_bitmap(&mut self, pass: &mut Pass<'_>, tag: Tag, bitmap: BitmapRef) -> Next {
        let Some(buffer) = self.bitmap_buffers.pop() else {
            return Next::Stall;
        };
        let action = Action::Read {
            offset: bitmap.offset,
            data: buffer.data(),
        };
        let op = Op {
            token: OpKind::Bitmap.token(self.owner, tag.0),
            file: self.file,
            action,
        };
        if pass.io.push(op).is_err() {
            self.bitmap_buffers.push(buffer);
            return Next::Stall;
        }
        self.reading.push(Reading { tag, bitmap, buffer });
        Next::Wait
    }

    /// What the map knows of the sectors, and the bitmaps that are in the cache.
    pub(super) fn block_status(&mut self, range: SectorRange) -> BlockStatus {
        if self.map.is_full(range) {
            return BlockStatus::data(range.count());
        }
        let most = STATUS_BLOCKS_MAX * self.map.shape().block_sectors();
        let count = SectorCount(range.count().0.min(most));
        let range = SectorRange::new(range.start(), count).expect("a part of a range is one");
        mapped_status(range, |at, most| self.cache.lookup(&self.map, at, most))
    }

    /// The bitmap that `tag` waits for was read.
    pub(super) fn bitmap_done(&mut self, pass: &Pass<'_>, tag: Tag, result: Result<(), Errno>) -> Result<(), Errno> {
        let at = self
            .reading
            .iter()
            .position(|reading| reading.tag == tag)
            .expect("only what was asked for is read");
        let Reading { bitmap, buffer, .. } = self.reading.swap_remove(at);
        if result.is_ok() {
            let bytes = pass.io.bytes(buffer.data()).expect("the read has ended");
            self.cache.insert(&self.map, bitmap, bytes);
        }
        self.bitmap_buffers.push(buffer);
        result
    }

    fn ask(&mut self, tag: Tag, want: Want, block: u64) -> Next {
        let wish = Wish {
            queue: self.index,
            tag,
            want,
            block,
        };
        match &mut self.port {
            Port::Owner(metadata) => metadata.wish(wish),
            Port::Remote { outbox, owner, .. } => {
                if outbox.try_send(Message::Wish(wish)).is_err() {
                    return Next::Fail(Errno::IO);
                }
                owner.wake();
            }
            Port::ReadOnly => return Next::Fail(Errno::ROFS),
        }
        Next::Wait
    }

    /// Other threads may have news: wishes for the allocator, or answers.
    pub(super) fn stir(&mut self) {
        match &mut self.port {
            Port::Owner(metadata) => metadata.stir(),
            Port::Remote { stirred, .. } => *stirred = true,
            Port::ReadOnly => {}
        }
    }

    /// Does the allocator wait for room that others take?
    pub(super) fn lacks_room(&self) -> bool {
        matches!(&self.port, Port::Owner(metadata) if metadata.lacks_room())
    }

    /// When the allocator is to be stirred for the sake of steps that are done again.
    pub(super) fn wake_at(&self) -> Option<Timestamp> {
        match &self.port {
            Port::Owner(metadata) => metadata.wake_at(),
            Port::Remote { .. } | Port::ReadOnly => None,
        }
    }

    /// Ends the allocator's steps that wait to be done again; says whether there were any.
    pub(super) fn end_delayed(&mut self) -> bool {
        match &mut self.port {
            Port::Owner(metadata) => metadata.end_delayed(),
            Port::Remote { .. } | Port::ReadOnly => false,
        }
    }

    /// Is [`next_ready`](Self::next_ready) worth asking?
    pub(super) fn is_stirred(&self) -> bool {
        match &self.port {
            Port::Owner(metadata) => metadata.is_stirred(),
            Port::Remote {
                stirred, drain_awaited, ..
            } => *stirred || drain_awaited.load(Ordering::Acquire),
            Port::ReadOnly => false,
        }
    }

    /// Requests that can go on, one by one, after the allocator has gone as far as it can.
    pub(super) fn next_ready(&mut self, pass: &mut Pass<'_>) -> Option<Answer> {
        match &mut self.port {
            Port::Owner(metadata) => metadata.next_ready(pass),
            Port::Remote {
                answers,
                owner,
                drain_awaited,
                stirred,
                ..
            } => {
                // Whatever has ended on this queue, its pin is gone by now.
                if drain_awaited.load(Ordering::Acquire) {
                    owner.wake();
                }
                // Whoever sends an answer wakes us, and so stirs.
                let answer = stirred.then(|| answers.try_recv().ok()).flatten();
                *stirred = answer.is_some();
                answer
            }
            Port::ReadOnly => None,
        }
    }

    /// A step of the allocator has ended.
    pub(super) fn step_done(&mut self, pass: &mut Pass<'_>, index: u32, result: Result<(), Errno>) {
        let Port::Owner(metadata) = &mut self.port else {
            unreachable!("only queue 0 has steps under way")
        };
        metadata.step_done(pass, index, result);
    }

    pub(super) fn flush_started(&mut self) -> FlushMark {
        let ticket = match &mut self.port {
            Port::Owner(metadata) => Some(metadata.flush_started()),
            _ => None,
        };
        FlushMark {
            meta_written: self.map.meta_written(),
            ticket,
        }
    }

    pub(super) fn flush_done(&mut self, mark: FlushMark, result: Result<(), Errno>) {
        if result.is_ok() {
            self.meta_durable.fetch_max(mark.meta_written, Ordering::AcqRel);
        }
        if let (Port::Owner(metadata), Some(ticket)) = (&mut self.port, mark.ticket) {
            metadata.flush_done(ticket, result);
        }
    }

    /// Is the allocator in the middle of something?
    pub(super) fn is_working(&self) -> bool {
        matches!(&self.port, Port::Owner(metadata) if metadata.is_working())
    }

    fn is_meta_durable(&self) -> bool {
        self.meta_durable.load(Ordering::Acquire) >= self.map.meta_written()
    }

    pub(super) fn close(self: Box<Self>, layout: &BlockLayout, io: &mut dyn OpQueue) {
        self.bitmap_buffers.into_iter().for_each(|buffer| io.free(buffer));
        if let Port::Owner(metadata) = self.port {
            *layout.owner.lock().unwrap_or_else(PoisonError::into_inner) = None;
            layout.rest(metadata.close(io));
        }
    }
}
