//! The character device of the driver that is played, and its queues.

use std::sync::Arc;
use std::thread;

use iomgr_core::{Data, Errno, FileSlot, Lease, OpError, OpQueue, Owner, Token};
use tqueue::{Interest, NetFull, Queue};

use super::{Shared, Stage, State, allocations};
use crate::abi::Descriptor;
use crate::driver::{CharDevice, Delivery, QueuePort};
use crate::{Error, ErrorKind, IoOp};

/// A reference to the device.
#[derive(Debug)]
struct Reference {
    shared: Arc<Shared>,
    device: u32,
}

impl Reference {
    fn take(shared: &Arc<Shared>, device: u32) -> Self {
        shared.lock().device(device).unwrap().references += 1;
        Self {
            shared: Arc::clone(shared),
            device,
        }
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        if let Ok(device) = self.shared.lock().device(self.device) {
            device.references -= 1;
            if device.references == 0 {
                device.released();
            }
        }
        self.shared.notify();
    }
}

/// The open character device.
#[derive(Debug)]
pub(super) struct FakeChar(Reference);

impl FakeChar {
    pub(super) fn open(shared: &Arc<Shared>, device: u32) -> Result<Self, Error> {
        let mut state = shared.lock();
        let opened = state.device(device).unwrap();
        if opened.is_open {
            return Err(Error::new(ErrorKind::Busy, "another process serves this device"));
        }
        opened.is_open = true;
        if opened.queues_ready > 0 {
            state.accuse("a device is opened whose last server was not forgotten");
        }
        drop(state);
        Ok(Self(Reference::take(shared, device)))
    }
}

impl CharDevice for FakeChar {
    fn open_queue(&self, index: u16, depth: u16, io: &mut Queue) -> Result<Box<dyn QueuePort>, Error> {
        let reference = Reference::take(&self.0.shared, self.0.device);
        let mut state = self.0.shared.lock();
        let device = state.device(self.0.device).unwrap();
        assert!(index < device.info.queues, "there is no queue {index}");
        assert_eq!(device.info.depth, depth, "the server has as many tags as there are");
        let place = device.place(index);
        let file = |tag: &super::Tag| io.add_file(&tag.event.file()).unwrap();
        let files = device.tags[place.clone()].iter().map(file).collect();
        Ok(Box::new(FakeQueue {
            reference,
            index,
            first: place.start,
            files,
            fetched: vec![(Data::NONE, Token::new(Owner(0), 0)); depth.into()],
            pages: (0..depth).map(|_| None).collect(),
            is_zero_copy: device.info.is_zero_copy(),
        }))
    }
}

/// One of its queues.
#[derive(Debug)]
struct FakeQueue {
    reference: Reference,
    index: u16,
    /// Where its tags begin.
    first: usize,
    /// What a tag's command waits for.
    files: Vec<FileSlot>,
    /// The buffer and the token that each was fetched with.
    fetched: Vec<(Data, Token)>,
    /// With zero copy, the pages of a tag's request, which stand in the ring's table.
    pages: Vec<Option<Lease>>,
    is_zero_copy: bool,
}

/// What memory has in it that nobody has filled.
const JUNK: u8 = 0xa5;

impl FakeQueue {
    fn wait(&self, io: &mut Queue, tag: u16) -> Result<(), NetFull> {
        self.reference.shared.notify();
        let tag = usize::from(tag);
        io.poll_fd(self.files[tag], Interest::READ, self.fetched[tag].1)
    }

    fn change<T>(&self, tag: u16, change: impl FnOnce(&mut State, Stage) -> (Stage, T)) -> T {
        allocations::apart(|so_far| self.change_here(tag, so_far, change))
    }

    fn change_here<T>(&self, tag: u16, allocations: u64, change: impl FnOnce(&mut State, Stage) -> (Stage, T)) -> T {
        let mut state = self.reference.shared.lock();
        state.allocations = allocations;
        let at = self.first + usize::from(tag);
        let tag = &mut state.device(self.reference.device).unwrap().tags[at];
        let stage = tag.stage.clone();
        let thread = thread::current().id();
        if *tag.server.get_or_insert(thread) != thread {
            state.accuse(format!("tag {at} is served by more than one thread"));
        }
        let (next, told) = change(&mut state, stage);
        state.device(self.reference.device).unwrap().tags[at].stage = next;
        self.reference.shared.notify();
        told
    }
}

/// Zero copy.
impl FakeQueue {
    /// Puts the pages of a request into the ring's table, if it has any.
    fn register(&mut self, io: &mut Queue, tag: u16, descriptor: Descriptor) -> Option<Data> {
        let len = descriptor.sectors.checked_mul(512).filter(|&len| len > 0)?;
        let has_data = matches!(descriptor.op(), Some(IoOp::Read | IoOp::Write));
        if !self.is_zero_copy || !has_data {
            return None;
        }
        let lease = io.alloc(len)?;
        let data = lease.data();
        io.bytes_mut(data).expect("it was leased just now").fill(JUNK);
        io.play_driver_buffer(tag, Some(data));
        self.pages[usize::from(tag)] = Some(lease);
        Some(data)
    }

    /// Takes them out again.
    fn unregister(&mut self, io: &mut Queue, tag: u16) -> Option<Lease> {
        if self.is_zero_copy {
            io.play_driver_buffer(tag, None);
        }
        self.pages[usize::from(tag)].take()
    }
}

impl QueuePort for FakeQueue {
    fn fetch(&mut self, io: &mut Queue, tag: u16, buffer: Data, token: Token) -> Result<(), Errno> {
        self.fetched[usize::from(tag)] = (buffer, token);
        let is_bad = self.reference.shared.lock().habits.bad_tag == Some((self.index, tag));
        if is_bad {
            // A file that is not there: the command ends with an error.
            let polled = io.poll_fd(FileSlot(u32::MAX), Interest::READ, token);
            return polled.map_err(|NetFull| Errno::NOBUFS);
        }
        self.change(tag, |state, stage| {
            let device = state.device(self.reference.device).unwrap();
            let fits = device.takes(tag, buffer);
            if stage != Stage::Idle {
                state.accuse(format!("tag {tag} is fetched twice"));
            }
            if !fits {
                state.accuse(format!("tag {tag} has no room for the largest request"));
            }
            (Stage::Fetched, ())
        });
        let mut state = self.reference.shared.lock();
        let device = state.device(self.reference.device).unwrap();
        let place = device.place(self.index);
        if device.tags[place].iter().all(|tag| tag.stage == Stage::Fetched) {
            device.queues_ready += 1;
        }
        drop(state);
        self.wait(io, tag).map_err(|NetFull| Errno::NOBUFS)
    }

    fn commit(&mut self, io: &mut Queue, tag: u16, result: i32) -> Result<(), NetFull> {
        let pages = self.unregister(io, tag);
        let buffer = pages.as_ref().map_or(self.fetched[usize::from(tag)].0, Lease::data);
        let read = |len: u32| io.bytes(buffer.slice(0, len)).expect("no op is at it").to_vec();
        self.change(tag, |state, stage| {
            let Stage::Served(descriptor) = stage else {
                state.accuse(format!("tag {tag} is committed without a request: {stage:?}"));
                return (Stage::Answered(Err(0)), ());
            };
            (Stage::Answered(state.judge(descriptor, result, read)), ())
        });
        if let Some(pages) = pages {
            io.free(pages);
        }
        self.wait(io, tag)
    }

    fn delivered(&mut self, io: &mut Queue, tag: u16, result: Result<u32, OpError>) -> Result<Delivery, Errno> {
        result.map_err(OpError::errno)?;
        let sent = self.change(tag, |_, stage| match &stage {
            Stage::Sent(descriptor, _) => (stage.clone(), Some(*descriptor)),
            _ => (stage, None),
        });
        let buffer = sent
            .and_then(|descriptor| self.register(io, tag, descriptor))
            .unwrap_or(self.fetched[usize::from(tag)].0);
        self.change(tag, |state, stage| match stage {
            Stage::Sent(descriptor, bytes) => {
                let at = self.first + usize::from(tag);
                state.device(self.reference.device).unwrap().tags[at].event.take();
                let len = u32::try_from(bytes.len()).unwrap();
                if len > 0 {
                    let place = io.bytes_mut(buffer.slice(0, len));
                    place.expect("the server has let go of it").copy_from_slice(&bytes);
                }
                (Stage::Served(descriptor), Ok(Delivery::Request(descriptor)))
            }
            Stage::Aborted { told: false } => (Stage::Aborted { told: true }, Ok(Delivery::Aborted)),
            other => (other, Err(Errno::PROTO)),
        })
    }

    fn close(self: Box<Self>, io: &mut Queue) {
        self.files.iter().for_each(|file| io.remove_file(*file));
    }
}

impl State {
    /// What the block layer makes of a commit.
    fn judge(&mut self, descriptor: Descriptor, result: i32, read: impl Fn(u32) -> Vec<u8>) -> Result<Vec<u8>, i32> {
        let Ok(len) = u32::try_from(result) else {
            return Err(-result);
        };
        let whole = descriptor.sectors * 512;
        let right = match descriptor.op() {
            Some(IoOp::Read | IoOp::Write) => whole,
            _ => 0,
        };
        if len != right {
            self.accuse(format!("{descriptor:?} is committed with {len}, not with {right}"));
        }
        match descriptor.op() {
            Some(IoOp::Read) => Ok(read(len)),
            _ => Ok(Vec::new()),
        }
    }
}
