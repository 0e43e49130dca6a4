//! A device without storage: writes go nowhere, and every request ends at once. For measuring all that is above a device.

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use iomgr_core::stats::Figures;
use iomgr_core::{
    Busy, CancelOutcome, Device, DeviceQueue, Done, Limits, OpDone, OpQueue, Operation, Pass, QueueContext, Request,
    SECTOR_BYTES, SectorCount, Tag,
};

use crate::disk::{Cache, DiskInfo};
use crate::stats::{self, QueueStats, Stats};

/// A device without storage. What is read from it may be anything that was written to it, or zeros.
#[derive(Debug)]
pub struct NullDevice {
    name: String,
    size: SectorCount,
    queues: Mutex<Vec<QueueStats>>,
    since: Instant,
}

impl NullDevice {
    /// One of `size_bytes`; a tail shorter than a sector is cut off.
    pub fn new(name: impl Into<String>, size_bytes: u64) -> Self {
        Self {
            name: name.into(),
            size: SectorCount::from_bytes_floor(size_bytes),
            queues: Mutex::default(),
            since: Instant::now(),
        }
    }

    /// What it is. There is no image.
    pub fn info(&self) -> DiskInfo {
        DiskInfo {
            name: self.name.clone(),
            path: "null".into(),
            format: "null".into(),
            size_bytes: self.size.0 * SECTOR_BYTES,
            read_only: false,
            cache: Cache::None,
            failed: false,
            paused: None,
        }
    }

    /// What it has done.
    pub fn stats(&self) -> Stats {
        Stats::new(&self.figures())
    }

    pub(crate) fn since(&self) -> Instant {
        self.since
    }

    pub(crate) fn figures(&self) -> [Figures; 4] {
        stats::sum(&self.queues.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Device for NullDevice {
    fn name(&self) -> &str {
        &self.name
    }

    fn limits(&self) -> Limits {
        Limits {
            size: self.size,
            logical_block_bytes: 512,
            physical_block_bytes: 4096,
            optimal_io_bytes: 0,
            discard_granularity_bytes: 512,
            read_only: false,
            // There is nothing that could be lost.
            volatile_cache: false,
            // What is read is what the memory has in it, so it must be memory of ours.
            needs_bytes: true,
            rotational: false,
        }
    }

    fn open_queue(&self, cx: QueueContext<'_>) -> Result<Box<dyn DeviceQueue>, Box<dyn StdError + Send + Sync>> {
        let stats = QueueStats::new();
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.push(stats.clone());
        Ok(Box::new(NullQueue {
            done: VecDeque::with_capacity(cx.depth as usize),
            stats,
        }))
    }
}

/// Its queue: what ended and was not taken yet.
#[derive(Debug)]
struct NullQueue {
    done: VecDeque<Done>,
    stats: QueueStats,
}

impl DeviceQueue for NullQueue {
    fn submit(&mut self, pass: &mut Pass<'_>, request: Request) -> Result<(), Busy> {
        let Request {
            tag,
            op,
            range,
            arrival,
            ..
        } = request;
        let sectors = if op == Operation::Flush { 0 } else { range.count().0 };
        self.stats.record(op, sectors, true, pass.now.since_ns(arrival));
        self.done.push_back(Done { tag, result: Ok(()) });
        Ok(())
    }

    fn op_done(&mut self, _pass: &mut Pass<'_>, done: OpDone) {
        unreachable!("it pushes no ops, and none can end: {done:?}")
    }

    fn kick(&mut self, _pass: &mut Pass<'_>) {}

    fn poll_done(&mut self) -> Option<Done> {
        self.done.pop_front()
    }

    fn busy(&self) -> bool {
        false
    }

    fn cancel(&mut self, _pass: &mut Pass<'_>, tag: Tag) -> CancelOutcome {
        match self.done.iter().any(|done| done.tag == tag) {
            true => CancelOutcome::Detached,
            false => CancelOutcome::Unknown,
        }
    }

    fn is_idle(&self) -> bool {
        self.done.is_empty()
    }

    fn close(self: Box<Self>, _io: &mut dyn OpQueue) {}
}

#[cfg(test)]
mod tests {
    use iomgr_core::{Data, Owner, RequestFlags, Sector, SectorRange, Waker};
    use tqueue::Queue;

    use super::*;

    #[test]
    fn requests_end_at_once_and_are_counted() {
        let device = NullDevice::new("null", 1 << 20);
        let mut io = Queue::new(&tqueue::Config::default()).unwrap();
        let context = QueueContext {
            index: 0,
            count: 1,
            owner: Owner(1),
            depth: 4,
            waker: Waker::none(),
            io: &mut io,
        };
        let mut queue = device.open_queue(context).unwrap();
        let now = io.now();
        let mut pass = Pass { now, io: &mut io };
        let request = Request {
            tag: Tag(3),
            op: Operation::Write,
            flags: RequestFlags::FUA,
            range: SectorRange::new(Sector(8), SectorCount(8)).unwrap(),
            data: Data::NONE,
            arrival: now,
            deadline: None,
        };
        queue.submit(&mut pass, request).unwrap();
        assert!(!queue.is_idle());
        assert_eq!(
            queue.poll_done(),
            Some(Done {
                tag: Tag(3),
                result: Ok(())
            })
        );
        assert!(queue.is_idle() && queue.poll_done().is_none());
        let stats = device.stats();
        assert_eq!((stats.write.ops, stats.write.bytes), (1, 4096));
    }
}
