//! Runs of memory: what ops work on, as engines see it.

/// A run of the arena, made from a checked [`Data`](iomgr_core::Data), whose lease is held by the op that carries the run; or a
/// run of a [buffer of a driver's](crate::driver_buffers), which the driver keeps.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// In the arena; or in the driver's buffer.
    start: u64,
    len: u32,
    home: Home,
}

/// Whose memory it is; the numbers are places in the ring's table of buffers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Home {
    /// Ours. Where all of it was registered by itself, it is known under that place.
    Arena(Option<u16>),
    Driver(u16),
}

impl Run {
    /// No bytes.
    pub(crate) const EMPTY: Self = Self::new(0, 0);

    /// A run of the arena.
    pub(crate) const fn new(start: u64, len: u32) -> Self {
        Self {
            start,
            len,
            home: Home::Arena(None),
        }
    }

    /// The same, registered by itself in that place of the ring's table.
    pub(crate) fn registered_at(self, place: u16) -> Self {
        Self {
            home: Home::Arena(Some(place)),
            ..self
        }
    }

    /// The same of a driver's buffer.
    pub(crate) fn of_driver(self, index: u16) -> Self {
        Self {
            home: Home::Driver(index),
            ..self
        }
    }

    /// The first byte.
    pub(crate) fn start(self) -> u64 {
        self.start
    }

    /// How many bytes.
    pub(crate) fn len(self) -> u32 {
        self.len
    }

    /// Which of the driver's buffers it is in, if it is in one.
    pub(crate) fn driver(self) -> Option<u16> {
        match self.home {
            Home::Driver(index) => Some(index),
            Home::Arena(_) => None,
        }
    }

    /// Where the ring's table has it, by itself.
    pub(crate) fn place(self) -> Option<u16> {
        match self.home {
            Home::Driver(place) => Some(place),
            Home::Arena(place) => place,
        }
    }

    /// Do they share a byte?
    pub(crate) fn overlaps(self, other: Self) -> bool {
        self.driver() == other.driver() && self.start < other.end() && other.start < self.end()
    }

    /// Is it a part of `whole`?
    pub(crate) fn lies_in(self, whole: Self) -> bool {
        self.driver() == whole.driver() && whole.start <= self.start && self.end() <= whole.end()
    }

    /// All but the first `n` bytes.
    pub(crate) fn skip(self, n: u32) -> Self {
        assert!(n <= self.len, "no more is skipped than there is");
        Self {
            start: self.start + u64::from(n),
            len: self.len - n,
            ..self
        }
    }

    /// This and `next` in one, if `next` begins where this ends.
    pub(crate) fn joined(self, next: Self) -> Option<Self> {
        let len = self.len.checked_add(next.len)?;
        let home = if self.home == next.home {
            self.home
        } else {
            Home::Arena(None)
        };
        (self.driver() == next.driver() && self.end() == next.start).then_some(Self { len, home, ..self })
    }

    /// The first bytes, `n` at most.
    pub(crate) fn first(self, n: u32) -> Self {
        Self {
            len: self.len.min(n),
            ..self
        }
    }

    fn end(self) -> u64 {
        self.start + u64::from(self.len)
    }
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(index) = self.driver() {
            write!(f, "driver's buffer {index} ")?;
        }
        write!(f, "{}+{}", self.start, self.len)
    }
}
