//! Synchronous requests.

use std::rc::Rc;

use iomgr_core::Errno;
use tqueue::{Borrowed, Queue};

use super::Client;
use super::deliver::{Entry, Given};
use super::request::{IoRequest, Refused};
use crate::{Error, ErrorKind, Handle, IoFlags, Memory, Notify, Payload, REGIONS_MAX, RegionState, RequestId};

/// What a synchronous request came to.
#[derive(Debug)]
pub struct Outcome {
    /// A bit for each region that did not end well; 0 when all did.
    pub error_mask: u64,
    /// Each region's end.
    pub states: States,
    /// What the request was given. None, if an orphan has it: then it returns to the pool by itself.
    pub memory: Memory,
}

/// The ends of a request's regions, in order.
#[derive(Clone, Copy, Debug)]
pub struct States {
    states: [RegionState; REGIONS_MAX],
    count: usize,
}

impl std::ops::Deref for States {
    type Target = [RegionState];

    fn deref(&self) -> &[RegionState] {
        &self.states[..self.count]
    }
}

/// A request that somebody waits for.
#[derive(Debug)]
pub(super) struct Awaited {
    request: RequestId,
    /// Its memory, once it is over.
    memory: Option<Memory>,
}

/// The client as the owner of its queue: for memory that is borrowed from the caller.
struct Lending<'a>(&'a mut Client);

impl AsMut<Queue> for Lending<'_> {
    fn as_mut(&mut self) -> &mut Queue {
        &mut self.0.queue
    }
}

impl Client {
    /// Runs a request and returns when every region is over, after their notifications. Other requests are told of meanwhile.
    ///
    /// With a timeout: without `notify`, regions that run then are cancelled; with it, they are told of and waited for, unless
    /// [`CANCEL_ON_TIMEOUT`](IoFlags::CANCEL_ON_TIMEOUT) is set.
    ///
    /// # Errors
    /// [`Deadlock`](crate::ErrorKind::Deadlock) from inside a notification; [`Invalid`](crate::ErrorKind::Invalid) besides what any
    /// request can have wrong: a timeout with memory that cannot be given up; [`Device`](crate::ErrorKind::Device) when the queue of
    /// ops fails: the request was taken, and goes on as one that nobody waits for.
    pub fn io_sync(&mut self, request: IoRequest<'_>, notify: Option<Rc<dyn Notify>>) -> Result<Outcome, Refused> {
        let request = match self.check_sync(&request, notify.is_some()) {
            Ok(flags) => request.flags(flags),
            Err(error) => {
                let memory = request.memory;
                return Err(Refused { error, memory });
            }
        };
        let request = self.launch(request, notify)?;
        self.finish_sync(&self.handle(request)).map_err(|error| Refused {
            error,
            memory: Memory::None,
        })
    }

    /// The same on memory that is borrowed from the caller, without any copy: parts of whole logical blocks, as well aligned as the
    /// devices want it. The request has no other memory, and no timeout.
    ///
    /// # Errors
    /// As for [`io_sync`](Self::io_sync); [`Full`](crate::ErrorKind::Full) while other requests on memory of the caller's own take all
    /// the room.
    pub fn io_sync_borrowed(
        &mut self,
        request: IoRequest<'_>,
        memory: Borrowed<'_, '_>,
        notify: Option<Rc<dyn Notify>>,
    ) -> Result<Outcome, Refused> {
        let flags = match self.check_borrowed(&request, &memory, notify.is_some()) {
            Ok(flags) => flags,
            Err(error) => {
                let memory = request.memory;
                return Err(Refused { error, memory });
            }
        };
        let io = request.flags(flags).io();
        let run = |lending: &mut Lending<'_>, parts: &[_]| {
            let client = &mut *lending.0;
            let entry = Entry::new(notify, Given::Nothing);
            let id = client
                .begin(&io, Payload::List(parts), entry)
                .map_err(|refused| refused.error)?;
            client.finish_sync(&client.handle(id))
        };
        let ended = Queue::borrowed(&mut Lending(self), memory, run).unwrap_or_else(|errno| Err(not_borrowed(errno)));
        ended.map_err(|error| Refused {
            error,
            memory: Memory::None,
        })
    }

    fn check_borrowed(
        &self,
        request: &IoRequest<'_>,
        memory: &Borrowed<'_, '_>,
        is_notified: bool,
    ) -> Result<IoFlags, Error> {
        let flags = self.check_sync(request, is_notified)?;
        if request.timeout.is_some() || !matches!(request.memory, Memory::None) {
            let what = "borrowed memory allows for no timeout, and for no other memory";
            return Err(Error::invalid(what));
        }
        let parts = match memory {
            Borrowed::Shared(parts) => parts.len(),
            Borrowed::Mut(parts) => parts.len(),
        };
        if parts > self.lender.borrowed_max {
            let what = "borrowed memory has more parts than the client was made for; have it copied instead";
            return Err(Error::invalid(what));
        }
        Ok(flags)
    }

    /// Checks what is about synchronous requests only; says which flags they get.
    fn check_sync(&self, request: &IoRequest<'_>, is_notified: bool) -> Result<IoFlags, Error> {
        self.refuse_inside()?;
        if request.timeout.is_none() {
            return Ok(IoFlags::SYNC);
        }
        if matches!(request.memory, Memory::Owned(_)) {
            let what =
                "a synchronous request with a timeout needs memory that can be given up: the pool's, or bounce memory";
            return Err(Error::invalid(what));
        }
        Ok(match is_notified {
            true => IoFlags::SYNC,
            false => IoFlags::SYNC | IoFlags::CANCEL_ON_TIMEOUT,
        })
    }

    fn finish_sync(&mut self, handle: &Handle) -> Result<Outcome, Error> {
        let request = handle.id();
        // Of a call that a panic ended.
        let left = self.awaited.replace(Awaited { request, memory: None });
        self.give_back(left.and_then(|left| left.memory).unwrap_or_default());
        while self.awaited.as_ref().is_some_and(|awaited| awaited.memory.is_none()) {
            if let Err(error) = self.poll_until(None) {
                self.awaited = None;
                let what = "the queue of ops failed, and the request goes on: its memory comes back with its end";
                return Err(Error::new(ErrorKind::Device, what).because(error));
            }
        }
        let memory = self
            .awaited
            .take()
            .and_then(|awaited| awaited.memory)
            .unwrap_or_default();
        Ok(outcome(handle, memory))
    }

    pub(super) fn is_awaited(&self, request: RequestId) -> bool {
        self.awaited.as_ref().is_some_and(|awaited| awaited.request == request)
    }

    pub(super) fn end_wait(&mut self, memory: Memory) {
        if let Some(awaited) = &mut self.awaited {
            awaited.memory = Some(memory);
        }
    }
}

/// Why memory could not be borrowed, of which there are not too many parts.
fn not_borrowed(errno: Errno) -> Error {
    let error = match errno {
        Errno::NOBUFS => Error::new(
            ErrorKind::Full,
            "others have too much memory of their own at devices now",
        ),
        _ => Error::invalid("borrowed memory: a part is empty or too long"),
    };
    error.because(errno)
}

fn outcome(handle: &Handle, memory: Memory) -> Outcome {
    let count = handle.regions();
    let mut states = [RegionState::Ok; REGIONS_MAX];
    let mut error_mask = 0;
    for (region, place) in states.iter_mut().enumerate().take(count) {
        *place = handle.state(region).expect("it is over");
        error_mask |= u64::from(*place != RegionState::Ok) << region;
    }
    Outcome {
        error_mask,
        states: States { states, count },
        memory,
    }
}
