//! A device over a file, which goes the way that images go: requests become ops, cut where the image is.

use std::collections::VecDeque;
use std::error::Error;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};

use iomgr_core::{
    Action, Busy, CancelOutcome, Device, DeviceQueue, Done, Errno, FileHandle, FileSlot, Limits, Op, OpDone, OpQueue,
    Operation, Owner, Pass, QueueContext, Request, SECTOR_BYTES, SectorCount, Tag, Token,
};

/// Sectors of a block. Blocks of odd number are not there: they read as zeros.
pub(super) const BLOCK: u64 = 8;

/// A file of blocks, every other of which is a hole.
#[derive(Debug)]
pub(super) struct FileDevice {
    file: File,
    limits: Limits,
    /// The next write panics.
    bomb: Arc<AtomicBool>,
    /// A flush keeps its thread: until somebody has come here, and until he has come once more.
    meeting: Arc<Barrier>,
}

impl FileDevice {
    pub(super) fn new(len: u64, limits: Limits) -> Self {
        let file = tempfile::tempfile().unwrap();
        file.set_len(len).unwrap();
        Self {
            file,
            limits: Limits {
                size: SectorCount::from_bytes_floor(len),
                needs_bytes: false,
                ..limits
            },
            bomb: Arc::default(),
            meeting: Arc::new(Barrier::new(2)),
        }
    }

    /// The next write kills its thread.
    pub(super) fn explode(&self) {
        self.bomb.store(true, Ordering::SeqCst);
    }

    /// Waits until a thread is in a flush, does something, and lets it go on.
    pub(super) fn in_a_flush(&self, does: impl FnOnce()) {
        self.meeting.wait();
        does();
        self.meeting.wait();
    }

    pub(super) fn bytes(&self, sector: u64, sectors: usize) -> Vec<u8> {
        let mut bytes = vec![0; sectors * 512];
        self.file.read_exact_at(&mut bytes, sector * SECTOR_BYTES).unwrap();
        bytes
    }

    pub(super) fn fill(&self, sector: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, sector * SECTOR_BYTES).unwrap();
    }
}

impl Device for FileDevice {
    fn name(&self) -> &'static str {
        "file"
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn open_queue(&self, cx: QueueContext<'_>) -> Result<Box<dyn DeviceQueue>, Box<dyn Error + Send + Sync>> {
        let file = cx.io.add_file(&FileHandle::new(self.file.try_clone()?))?;
        Ok(Box::new(FileQueue {
            file,
            owner: cx.owner,
            slots: (0..cx.depth).map(|_| (0, Ok(()))).collect(),
            done: VecDeque::new(),
            bomb: Arc::clone(&self.bomb),
            meeting: Arc::clone(&self.meeting),
        }))
    }
}

#[derive(Debug)]
struct FileQueue {
    file: FileSlot,
    owner: Owner,
    /// By tag: ops under way, and the first error.
    slots: Vec<(u32, Result<(), Errno>)>,
    done: VecDeque<Done>,
    bomb: Arc<AtomicBool>,
    meeting: Arc<Barrier>,
}

impl FileQueue {
    fn push(&mut self, io: &mut dyn OpQueue, tag: Tag, file: FileSlot, action: Action) {
        let token = Token::new(self.owner, tag.0.into());
        io.push(Op { token, file, action }).unwrap();
        self.slots[tag.0 as usize].0 += 1;
    }

    fn transfer(&mut self, io: &mut dyn OpQueue, request: &Request) {
        let (mut at, end) = (request.range.start().0, request.range.end().0);
        while at < end {
            let next = end.min((at / BLOCK + 1) * BLOCK);
            let bytes = |sectors: u64| u32::try_from(sectors * SECTOR_BYTES).unwrap();
            let data = request
                .data
                .slice(bytes(at - request.range.start().0), bytes(next - at));
            let offset = at * SECTOR_BYTES;
            let is_hole = at / BLOCK % 2 == 1;
            match request.op {
                Operation::Read if is_hole && io.fill_zeros(data) => {}
                Operation::Read if is_hole => {
                    let zeros = io.zeros().expect("there is memory out of reach");
                    self.push(io, request.tag, zeros, Action::Read { offset: 0, data });
                }
                Operation::Read => self.push(io, request.tag, self.file, Action::Read { offset, data }),
                _ => {
                    let durable = false;
                    self.push(io, request.tag, self.file, Action::Write { offset, data, durable });
                }
            }
            at = next;
        }
    }

    fn settle(&mut self, tag: Tag) {
        let slot = &mut self.slots[tag.0 as usize];
        if slot.0 == 0 {
            let result = std::mem::replace(&mut slot.1, Ok(()));
            self.done.push_back(Done { tag, result });
        }
    }
}

impl DeviceQueue for FileQueue {
    fn submit(&mut self, pass: &mut Pass<'_>, request: Request) -> Result<(), Busy> {
        let explodes = request.op == Operation::Write && self.bomb.swap(false, Ordering::SeqCst);
        assert!(!explodes, "it was told to explode");
        match request.op {
            Operation::Read | Operation::Write => self.transfer(pass.io, &request),
            Operation::Flush => {
                self.meeting.wait();
                self.meeting.wait();
            }
            _ => {}
        }
        self.settle(request.tag);
        Ok(())
    }

    fn op_done(&mut self, _pass: &mut Pass<'_>, done: OpDone) {
        let tag = Tag(u32::try_from(done.token.value()).unwrap());
        let slot = &mut self.slots[tag.0 as usize];
        slot.0 -= 1;
        slot.1 = slot.1.and(done.result.map_err(|error| error.errno()));
        self.settle(tag);
    }

    fn kick(&mut self, _pass: &mut Pass<'_>) {}

    fn poll_done(&mut self) -> Option<Done> {
        self.done.pop_front()
    }

    fn busy(&self) -> bool {
        false
    }

    fn cancel(&mut self, _pass: &mut Pass<'_>, _tag: Tag) -> CancelOutcome {
        CancelOutcome::Detached
    }

    fn is_idle(&self) -> bool {
        self.done.is_empty() && self.slots.iter().all(|slot| slot.0 == 0)
    }

    fn close(self: Box<Self>, io: &mut dyn OpQueue) {
        io.remove_file(self.file);
    }
}
