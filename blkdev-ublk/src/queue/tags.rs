//! The tags of a queue: where each is, and its buffer: memory that the driver copies to and from; or, with zero copy, the
//! place in the ring's table where the driver registers the pages of the tag's request.
//!
//! ```text
//!  fetch ─► Fetching ─ delivered ─► Serving ─ commit ─► Fetching ─ aborted ─► Gone
//! ```

use iomgr_core::{Data, DataHome, Lease, OpQueue, Owner, Token};
use tqueue::Queue;

use crate::{Error, ErrorKind};

/// The frontend's own ops.
pub(super) const FRONTEND: Owner = Owner(0);

/// Of all buffers of a queue together: the front of each, where short requests lie, is registered with the ring. It is locked into
/// memory, so it is not much.
const REGISTERED_BYTES: u32 = 4 << 20;

/// All tags of a queue.
#[derive(Debug)]
pub(super) struct Tags {
    tags: Box<[Tag]>,
    /// Bytes of the largest request.
    buffer_bytes: u32,
    /// How much of each buffer is worth being registered.
    front_bytes: u32,
    gone: usize,
}

#[derive(Debug)]
struct Tag {
    /// `None` with zero copy.
    memory: Option<Lease>,
    state: TagState,
    /// A request came for it before.
    was_served: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TagState {
    /// The kernel has it.
    Fetching,
    /// We have its request.
    Serving,
    /// The kernel wants it no more.
    Gone,
}

impl Tags {
    /// `depth` tags, each with a buffer as long as the device's largest request, which the kernel has from now on.
    pub(super) fn new(depth: u16, buffer_bytes: u32, queue: &mut Queue) -> Result<Self, Error> {
        let leases: Option<Vec<_>> = (0..depth).map(|_| queue.alloc_large(buffer_bytes).map(Some)).collect();
        let leases =
            leases.ok_or_else(|| Error::new(ErrorKind::Config, "the arena has no room for the tags' buffers"))?;
        Ok(Self::of(leases.into_iter(), buffer_bytes))
    }

    /// The same with no memory: requests bring their own.
    pub(super) fn without_memory(depth: u16, buffer_bytes: u32) -> Self {
        Self::of((0..depth).map(|_| None), buffer_bytes)
    }

    fn of(memory: impl Iterator<Item = Option<Lease>>, buffer_bytes: u32) -> Self {
        let tag = |memory| Tag {
            memory,
            state: TagState::Fetching,
            was_served: false,
        };
        let tags: Box<[_]> = memory.map(tag).collect();
        let share = REGISTERED_BYTES / u32::try_from(tags.len()).expect("tags are few");
        Self {
            tags,
            buffer_bytes,
            front_bytes: share.next_multiple_of(4096).min(buffer_bytes),
            gone: 0,
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> u16 {
        u16::try_from(self.tags.len()).expect("made from a u16")
    }

    /// A tag's buffer.
    pub(super) fn buffer(&self, tag: u16) -> Data {
        self.tags[usize::from(tag)].buffer(tag, self.buffer_bytes)
    }

    /// A request came for a tag, whose buffer it is to use. With the first one that is worth being registered.
    pub(super) fn serve(&mut self, number: u16, queue: &mut Queue) -> Data {
        let (front, bytes) = (self.front_bytes, self.buffer_bytes);
        let tag = self.change(number, TagState::Fetching, TagState::Serving);
        if !std::mem::replace(&mut tag.was_served, true)
            && let Some(lease) = &tag.memory
        {
            queue.register(lease, front);
        }
        tag.buffer(number, bytes)
    }

    /// Its request was committed.
    pub(super) fn fetch(&mut self, tag: u16) {
        self.change(tag, TagState::Serving, TagState::Fetching);
    }

    /// Its fetch was aborted.
    pub(super) fn abort(&mut self, tag: u16) {
        self.change(tag, TagState::Fetching, TagState::Gone);
        self.gone += 1;
    }

    /// Will nothing more come?
    pub(super) fn are_gone(&self) -> bool {
        self.gone == self.tags.len()
    }

    fn change(&mut self, number: u16, from: TagState, to: TagState) -> &mut Tag {
        let tag = &mut self.tags[usize::from(number)];
        assert!(tag.state == from, "tag {number} goes from {from:?} to {to:?}");
        tag.state = to;
        tag
    }

    /// Gives the buffers back.
    pub(super) fn free(self, queue: &mut Queue) {
        let leases = self.tags.into_iter().filter_map(|tag| tag.memory);
        leases.for_each(|lease| queue.free(lease));
    }
}

impl Tag {
    /// The buffer of a tag of this number, of so many bytes.
    fn buffer(&self, number: u16, bytes: u32) -> Data {
        match &self.memory {
            Some(lease) => lease.data(),
            None => Data {
                home: DataHome::Registered(number.into()),
                offset: 0,
                len: bytes,
            },
        }
    }
}

/// What one of the frontend's ops is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrontOp {
    /// A tag's fetch or commit.
    Tag(u16),
    /// The waker's poll.
    Wake,
}

/// Beyond all tags.
const WAKE: u64 = 1 << 16;

impl FrontOp {
    pub(super) fn token(self) -> Token {
        let value = match self {
            Self::Tag(tag) => tag.into(),
            Self::Wake => WAKE,
        };
        Token::new(FRONTEND, value)
    }

    pub(super) fn of(token: Token) -> Self {
        match u16::try_from(token.value()) {
            Ok(tag) => Self::Tag(tag),
            Err(_) => Self::Wake,
        }
    }
}
