//! Requests as callers write them, and how they start.

use std::rc::Rc;
use std::time::Duration;

use iomgr_core::{Operation, RequestFlags};

use super::Client;
use super::deliver::{Entry, Given};
use crate::{Error, Handle, Io, IoFlags, Memory, MemoryKind, Notify, Payload, Region, RequestId};

/// What is to be done to regions. Made by its operation, then refined.
#[derive(Debug)]
#[must_use = "it does nothing until a client takes it"]
pub struct IoRequest<'a> {
    /// What to do.
    pub op: Operation,
    /// How devices are to do it.
    pub request_flags: RequestFlags,
    /// Where: 1 to 64 regions.
    pub regions: &'a [Region],
    /// The regions hold the same: the first that can be read is enough.
    pub choice: bool,
    /// What to read into, or write.
    pub memory: Memory,
    /// When to be told that a region still runs.
    pub timeout: Option<Duration>,
    /// How to run it.
    pub flags: IoFlags,
}

/// The request was not taken: nothing happened, and here is what came with it. Only of a [synchronous](crate::Client::io_sync) one
/// it may also mean that it was taken, and cannot be waited for.
#[derive(Debug)]
pub struct Refused {
    /// Why.
    pub error: Error,
    /// The request's memory.
    pub memory: Memory,
}

impl<'a> IoRequest<'a> {
    /// Does `op` to all regions.
    pub fn new(op: Operation, regions: &'a [Region], memory: Memory) -> Self {
        Self {
            op,
            request_flags: RequestFlags::empty(),
            regions,
            choice: false,
            memory,
            timeout: None,
            flags: IoFlags::empty(),
        }
    }

    /// Reads a region; of several, which hold the same, the first that can be read.
    pub fn read(regions: &'a [Region], memory: Memory) -> Self {
        Self {
            choice: regions.len() > 1,
            ..Self::new(Operation::Read, regions, memory)
        }
    }

    /// Writes the same to all regions.
    pub fn write(regions: &'a [Region], memory: Memory) -> Self {
        Self::new(Operation::Write, regions, memory)
    }

    /// Flushes the devices of the regions, which are empty.
    pub fn flush(regions: &'a [Region]) -> Self {
        Self::new(Operation::Flush, regions, Memory::None)
    }

    /// Discards all regions.
    pub fn discard(regions: &'a [Region]) -> Self {
        Self::new(Operation::Discard, regions, Memory::None)
    }

    /// Writes zeros to all regions.
    pub fn write_zeroes(regions: &'a [Region]) -> Self {
        Self::new(Operation::WriteZeroes, regions, Memory::None)
    }

    /// Has each region end only when it survives a power cut.
    pub fn fua(self) -> Self {
        Self {
            request_flags: self.request_flags | RequestFlags::FUA,
            ..self
        }
    }

    /// Tells when a region still runs after so long.
    pub fn timeout(self, timeout: Duration) -> Self {
        Self {
            timeout: Some(timeout),
            ..self
        }
    }

    /// Adds flags.
    pub fn flags(self, flags: IoFlags) -> Self {
        Self {
            flags: self.flags | flags,
            ..self
        }
    }

    /// As the runner takes it.
    pub(super) fn io(&self) -> Io<'a> {
        Io {
            op: self.op,
            request_flags: self.request_flags,
            regions: self.regions,
            choice: self.choice,
            timeout: self.timeout,
            flags: self.flags,
            memory: MemoryKind::None,
        }
    }
}

impl Client {
    /// Starts a request, with whatever memory came with it.
    pub(super) fn launch(
        &mut self,
        mut request: IoRequest<'_>,
        notify: Option<Rc<dyn Notify>>,
    ) -> Result<RequestId, Refused> {
        let memory = std::mem::take(&mut request.memory);
        let io = request.io();
        match memory {
            Memory::None => self.begin(&io, Payload::None, Entry::new(notify, Given::Nothing)),
            Memory::Bounce(buffers) => self.begin(&io, Payload::Bounce(buffers), Entry::new(notify, Given::Nothing)),
            Memory::Pool(lease) => {
                let payload = Payload::Whole {
                    data: lease.data(),
                    cancellable: true,
                };
                self.begin(&io, payload, Entry::new(notify, Given::Pool(lease)))
            }
            Memory::Owned(buffers) => self.begin_owned(&io, buffers, notify),
        }
    }

    /// A handle of what has just begun.
    pub(super) fn handle(&self, request: RequestId) -> Handle {
        let handle = self.runner().handle(request);
        handle.expect("a request that nobody was told the end of is not forgotten")
    }

    pub(super) fn begin(&mut self, io: &Io<'_>, payload: Payload<'_>, entry: Entry) -> Result<RequestId, Refused> {
        // A timeout counts from this very moment, and what fails at once ends now.
        let now = self.queue.now();
        self.runner_mut().start(now, io, payload, entry).map_err(|refused| {
            let (error, payload, entry) = refused;
            let memory = self.reclaim(payload, entry.given, None);
            Refused { error, memory }
        })
    }
}
