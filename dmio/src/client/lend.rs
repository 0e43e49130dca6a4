//! Buffers that are moved in: lent to the queue while devices work on them.

use std::rc::Rc;

use iomgr_core::{Data, Lease};
use tqueue::{AlignedBuf, BORROWED_MAX, Queue};

use super::Client;
use super::deliver::{Entry, Given};
use super::request::Refused;
use crate::memory::Cuts;
use crate::{Buffers, Error, ErrorKind, Io, Memory, Notify, Payload, RequestId};

/// The leases of buffers that were moved in.
#[derive(Debug)]
pub(super) struct Lender {
    /// By request; none ever grows.
    lent: Box<[Vec<Lease>]>,
    /// Those of the request that is about to start, and their parts that it uses.
    starting: Vec<Lease>,
    parts: Vec<Data>,
    /// Most parts that are borrowed by a call.
    pub(super) borrowed_max: usize,
}

/// What buffers looked like.
#[derive(Debug)]
pub(super) enum Shape {
    One,
    /// The empty list that they are to be put back into.
    Vector(Vec<AlignedBuf>),
    Pages(Vec<AlignedBuf>, usize),
}

impl Lender {
    pub(super) fn new(requests: u32, list_max: u32, lent: u16) -> Self {
        let list = || Vec::with_capacity(list_max as usize);
        Self {
            lent: (0..requests).map(|_| list()).collect(),
            starting: list(),
            parts: Vec::with_capacity(list_max as usize),
            borrowed_max: BORROWED_MAX.min(lent.into()),
        }
    }

    /// Moves buffers in; if there is no room for all of them, they come back.
    fn lend(&mut self, queue: &mut Queue, buffers: Buffers<AlignedBuf>) -> Result<Shape, Buffers<AlignedBuf>> {
        let (count, offset) = (buffers.parts().0.len(), buffers.parts().1);
        if count > self.starting.capacity() {
            return Err(buffers);
        }
        let (shape, mut list) = match buffers {
            Buffers::One(one) => {
                let lent = queue.lend(one).map_err(Buffers::One)?;
                self.starting.push(lent);
                (Shape::One, Vec::new())
            }
            Buffers::Vector(list) => (Shape::Vector(Vec::new()), list),
            Buffers::Pages { pages, offset } => (Shape::Pages(Vec::new(), offset), pages),
        };
        let mut left = None;
        // From the back, where taking one away moves no other.
        while left.is_none()
            && let Some(buf) = list.pop()
        {
            match queue.lend(buf) {
                Ok(lease) => self.starting.push(lease),
                Err(buf) => left = Some(buf),
            }
        }
        if !matches!(shape, Shape::One) {
            self.starting.reverse();
        }
        let shape = shape.keeping(list);
        match left {
            None => {
                self.note_parts(offset);
                Ok(shape)
            }
            Some(left) => Err(self.take_back_starting(queue, shape, left)),
        }
    }

    /// The parts that a request uses: not what is left out at the start.
    fn note_parts(&mut self, offset: usize) {
        let mut cuts = Cuts::new(offset, usize::MAX);
        self.parts.clear();
        for lease in &self.starting {
            if let Some((from, to)) = cuts.next(lease.len_bytes() as usize) {
                let small = |bytes| u32::try_from(bytes).expect("within a buffer");
                self.parts.push(lease.data().slice(small(from), small(to - from)));
            }
        }
    }

    /// Undoes what was lent of a list: its front is still in the shape, `left` comes next.
    fn take_back_starting(&mut self, queue: &mut Queue, shape: Shape, left: AlignedBuf) -> Buffers<AlignedBuf> {
        let mut list = shape.into_list();
        let (buffers, offset) = (&mut list.0, list.1);
        buffers.push(left);
        for lease in self.starting.drain(..) {
            buffers.extend(queue.take_back(lease));
        }
        match offset {
            None => Buffers::Vector(list.0),
            Some(offset) => Buffers::Pages { pages: list.0, offset },
        }
    }

    /// Gives the buffers of a request back, in their old shape.
    fn take_back(queue: &mut Queue, leases: &mut Vec<Lease>, shape: Shape) -> Memory {
        let mut buffers = leases.drain(..).filter_map(|lease| match queue.take_back(lease) {
            Ok(buf) => Some(buf),
            Err(lease) => {
                tracing::error!(?lease, "buffer_kept: a device ended a request whose op goes on");
                iomgr_core::OpQueue::free(queue, lease);
                None
            }
        });
        match shape {
            Shape::One => buffers
                .next()
                .map_or(Memory::None, |one| Memory::Owned(Buffers::One(one))),
            Shape::Vector(mut list) => {
                list.extend(buffers);
                Memory::Owned(Buffers::Vector(list))
            }
            Shape::Pages(mut pages, offset) => {
                pages.extend(buffers);
                Memory::Owned(Buffers::Pages { pages, offset })
            }
        }
    }
}

impl Shape {
    /// With the list that was emptied.
    fn keeping(self, list: Vec<AlignedBuf>) -> Self {
        match self {
            Self::One => Self::One,
            Self::Vector(_) => Self::Vector(list),
            Self::Pages(_, offset) => Self::Pages(list, offset),
        }
    }

    fn into_list(self) -> (Vec<AlignedBuf>, Option<usize>) {
        match self {
            Self::One => (Vec::new(), None),
            Self::Vector(list) => (list, None),
            Self::Pages(list, offset) => (list, Some(offset)),
        }
    }
}

impl Client {
    /// Starts a request on buffers that are moved in.
    pub(super) fn begin_owned(
        &mut self,
        io: &Io<'_>,
        buffers: Buffers<AlignedBuf>,
        notify: Option<Rc<dyn Notify>>,
    ) -> Result<RequestId, Refused> {
        let shape = self.lender.lend(&mut self.queue, buffers).map_err(|buffers| {
            let what =
                "there is no room for so many buffers of one's own: fewer of them, or a client with more of `lent`";
            Refused {
                error: Error::new(ErrorKind::Full, what),
                memory: Memory::Owned(buffers),
            }
        })?;
        let parts = std::mem::take(&mut self.lender.parts);
        let started = self.begin(io, Payload::List(&parts), Entry::new(notify, Given::Owned(shape)));
        self.lender.parts = parts;
        let id = started?;
        let Lender { lent, starting, .. } = &mut self.lender;
        std::mem::swap(&mut lent[id.index()], starting);
        Ok(id)
    }

    /// Puts together what a request was given. `None`: it has not started.
    pub(super) fn reclaim(&mut self, payload: Payload<'static>, given: Given, id: Option<RequestId>) -> Memory {
        let Self { lender, queue, .. } = self;
        match (payload, given) {
            (_, Given::Pool(lease)) => Memory::Pool(lease),
            (_, Given::Owned(shape)) => {
                let leases = match id {
                    Some(id) => &mut lender.lent[id.index()],
                    None => &mut lender.starting,
                };
                Lender::take_back(queue, leases, shape)
            }
            (Payload::Bounce(buffers), Given::Nothing) => Memory::Bounce(buffers),
            (_, Given::Nothing) => Memory::None,
        }
    }
}
