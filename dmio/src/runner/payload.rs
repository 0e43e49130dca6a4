//! What a request works on, and what is known of it besides.

use iomgr_core::Data;

use crate::memory::Cuts;
use crate::{Buffers, Io, MemoryKind};

/// The memory of a request, by the names that the thread's queue of ops has for it.
#[derive(Debug, Default)]
pub enum Payload<'a> {
    /// None.
    #[default]
    None,
    /// A run of it.
    Whole {
        /// Which.
        data: Data,
        /// May devices keep it when the request is over?
        cancellable: bool,
    },
    /// Several runs, one behind the other. They are not cancellable.
    List(&'a [Data]),
    /// Buffers that are copied from, or to.
    Bounce(Buffers<Vec<u8>>),
}

impl Payload<'_> {
    /// As the machine sees it.
    pub(super) fn kind(&self) -> MemoryKind {
        match self {
            Self::None => MemoryKind::None,
            Self::Whole { cancellable, .. } => MemoryKind::Lent {
                cancellable: *cancellable,
            },
            Self::List(_) => MemoryKind::Lent { cancellable: false },
            Self::Bounce(_) => MemoryKind::Bounce,
        }
    }

    /// What is kept of it: a list's parts are the caller's.
    pub(super) fn kept(self) -> Payload<'static> {
        match self {
            Self::Bounce(buffers) => Payload::Bounce(buffers),
            Self::Whole { data, cancellable } => Payload::Whole { data, cancellable },
            Self::None | Self::List(_) => Payload::None,
        }
    }

    /// How many bytes there are.
    pub(super) fn len_bytes(&self) -> u64 {
        match self {
            Self::None => 0,
            Self::Whole { data, .. } => data.len.into(),
            Self::List(parts) => parts.iter().map(|part| u64::from(part.len)).sum(),
            Self::Bounce(buffers) => buffers.len_bytes() as u64,
        }
    }
}

/// A request, as far as the machine does not know it.
#[derive(Debug)]
pub(super) struct Slot<T> {
    /// None for a list.
    pub(super) payload: Payload<'static>,
    /// The parts of a list; never grows.
    pub(super) list: Vec<Data>,
    /// Its bytes could not be copied to bounce memory: no leg of it is to write what is there.
    pub(super) is_unfilled: bool,
    /// Parts at devices that are reserved for it.
    pub(super) parts: u32,
    pub(super) value: Option<T>,
}

impl<T> Slot<T> {
    pub(super) fn new(list_max: u32) -> Self {
        Self {
            payload: Payload::None,
            list: Vec::with_capacity(list_max as usize),
            is_unfilled: false,
            parts: 0,
            value: None,
        }
    }

    /// Takes a request whose memory was found to be good.
    pub(super) fn fill(&mut self, io: &Io<'_>, payload: Payload<'_>, value: T, parts: u32) {
        self.list.clear();
        if let Payload::List(parts) = payload {
            let len = io.regions.first().map_or(0, |region| region.range.len_bytes());
            let len = usize::try_from(len).expect("regions are short");
            self.list.extend(cut(parts, len));
        }
        self.payload = payload.kept();
        self.is_unfilled = false;
        self.parts = parts;
        self.value = Some(value);
    }
}

/// What the first `len` bytes have of each part.
pub(super) fn cut(parts: &[Data], len: usize) -> impl Iterator<Item = Data> {
    let mut cuts = Cuts::new(0, len);
    parts.iter().filter_map(move |part| {
        let (from, to) = cuts.next(part.len as usize)?;
        let small = |bytes| u32::try_from(bytes).expect("within a part");
        Some(part.slice(small(from), small(to - from)))
    })
}
