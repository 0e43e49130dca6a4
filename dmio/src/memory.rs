//! The memory of requests: whose it is, and how its parts are walked.
//!
//! | memory | copied | timeouts | cancellable | comes back |
//! |---|---|---|---|---|
//! | pool | no | yes | yes | with the last notification, unless an orphan has it: then it returns to the pool by itself |
//! | owned | no | told only | no | with the last notification |
//! | bounce | yes | yes | yes | with the last notification |
//! | borrowed (synchronous calls) | no | no | no | with the call |
//!
//! # Contract
//! - Memory is at least as long as a region; what is longer is left alone.
//! - Bounce memory may be in parts of any length. Parts of owned and borrowed memory are whole logical blocks of every device they go
//!   to, as each part is a request there; for direct I/O their addresses are aligned as well, which an [`AlignedBuf`] always is.
//! - A read into bounce memory that did not end well leaves it as it was.

use std::fmt;
use std::ops::{Deref, DerefMut};

use iomgr_core::Lease;
use tqueue::AlignedBuf;

/// Memory in one of three shapes.
#[derive(Clone, PartialEq, Eq)]
pub enum Buffers<B> {
    /// One buffer.
    One(B),
    /// Several, one behind the other.
    Vector(Vec<B>),
    /// Pages, one behind the other, without the first bytes.
    Pages {
        /// The pages; of any length.
        pages: Vec<B>,
        /// How many bytes are left out.
        offset: usize,
    },
}

/// The memory of an asynchronous request.
#[derive(Debug, Default)]
pub enum Memory {
    /// None: flush, discard, write-zeroes.
    #[default]
    None,
    /// A buffer of the client's pool (`Client::alloc`).
    Pool(Lease),
    /// Buffers that are moved in.
    Owned(Buffers<AlignedBuf>),
    /// Buffers that are copied from, or to.
    Bounce(Buffers<Vec<u8>>),
}

impl<B> Buffers<B> {
    /// The buffers, and how many bytes of them are left out at the start.
    pub(crate) fn parts(&self) -> (&[B], usize) {
        match self {
            Self::One(one) => (std::slice::from_ref(one), 0),
            Self::Vector(parts) => (parts, 0),
            Self::Pages { pages, offset } => (pages, *offset),
        }
    }

    fn parts_mut(&mut self) -> (&mut [B], usize) {
        match self {
            Self::One(one) => (std::slice::from_mut(one), 0),
            Self::Vector(parts) => (parts, 0),
            Self::Pages { pages, offset } => (pages, *offset),
        }
    }
}

impl<B: Deref<Target = [u8]>> Buffers<B> {
    /// How many bytes there are.
    pub fn len_bytes(&self) -> usize {
        let (parts, offset) = self.parts();
        let all: usize = parts.iter().map(|part| part.len()).sum();
        all.saturating_sub(offset)
    }

    /// The segments: what there is of each buffer, those without any left out.
    pub(crate) fn segments(&self) -> impl Iterator<Item = &[u8]> {
        let (parts, offset) = self.parts();
        let cuts = Cuts::new(offset, usize::MAX);
        walk(cuts, parts.iter().map(|part| &**part), |part, from, to| &part[from..to])
    }

    /// Fills `to` from the start.
    pub(crate) fn copy_to(&self, mut to: &mut [u8]) {
        for segment in self.segments() {
            let len = segment.len().min(to.len());
            to[..len].copy_from_slice(&segment[..len]);
            to = &mut to[len..];
        }
    }
}

impl<B: DerefMut<Target = [u8]>> Buffers<B> {
    /// Puts `from` at the start.
    pub(crate) fn copy_from(&mut self, mut from: &[u8]) {
        let (parts, offset) = self.parts_mut();
        let cuts = Cuts::new(offset, from.len());
        for segment in walk(cuts, parts.iter_mut().map(|part| &mut **part), |part, start, end| {
            &mut part[start..end]
        }) {
            segment.copy_from_slice(&from[..segment.len()]);
            from = &from[segment.len()..];
        }
    }
}

/// Without the bytes.
impl<B: Deref<Target = [u8]>> fmt::Debug for Buffers<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (parts, _) = self.parts();
        let name = match self {
            Self::One(_) => "One",
            Self::Vector(_) => "Vector",
            Self::Pages { .. } => "Pages",
        };
        write!(f, "{name}({} bytes in {} parts)", self.len_bytes(), parts.len())
    }
}

/// Cuts a list of parts to a run of bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cuts {
    /// Bytes to leave out before the run.
    skip: usize,
    /// Bytes of it that are left.
    left: usize,
}

impl Cuts {
    /// The run that leaves out `skip` bytes and has `len` at most.
    pub(crate) fn new(skip: usize, len: usize) -> Self {
        Self { skip, left: len }
    }

    /// From where to where the next part, of `len` bytes, belongs to the run; `None` if it does not at all.
    pub(crate) fn next(&mut self, len: usize) -> Option<(usize, usize)> {
        let from = self.skip.min(len);
        self.skip -= from;
        let count = (len - from).min(self.left);
        self.left -= count;
        (count > 0).then_some((from, from + count))
    }
}

/// What a run has of each part. The one place that walks parts.
fn walk<P: Deref<Target = [u8]>, S>(
    mut cuts: Cuts,
    parts: impl Iterator<Item = P>,
    cut: impl Fn(P, usize, usize) -> S,
) -> impl Iterator<Item = S> {
    parts.filter_map(move |part| {
        let (from, to) = cuts.next(part.len())?;
        Some(cut(part, from, to))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(offset: usize) -> Buffers<Vec<u8>> {
        let pages = vec![vec![1, 2, 3], vec![], vec![4, 5, 6], vec![7, 8, 9]];
        Buffers::Pages { pages, offset }
    }

    #[test]
    fn the_offset_is_left_out_even_over_whole_pages() {
        for (offset, len) in [(0, 9), (2, 7), (3, 6), (8, 1), (9, 0), (12, 0)] {
            let buffers = pages(offset);
            let mut all = vec![0; 9];
            buffers.copy_to(&mut all);
            let rest: Vec<u8> = (1..=9).skip(offset).collect();
            assert_eq!((buffers.len_bytes(), &all[..len]), (len, &rest[..]), "{offset}");
            assert!(buffers.segments().all(|segment| !segment.is_empty()));
        }
    }

    #[test]
    fn what_is_copied_in_leaves_the_rest_alone() {
        let mut buffers = pages(2);
        buffers.copy_from(&[10, 11, 12]);
        let expected = vec![vec![1, 2, 10], vec![], vec![11, 12, 6], vec![7, 8, 9]];
        assert_eq!(buffers.parts().0, expected);
    }

    #[test]
    fn its_debug_form_shows_no_bytes() {
        assert_eq!(format!("{:?}", pages(2)), "Pages(7 bytes in 4 parts)");
    }

    #[test]
    fn one_and_vectors_are_walked_from_their_start() {
        let mut one = Buffers::One(vec![0; 4]);
        one.copy_from(&[1, 2]);
        assert_eq!(one, Buffers::One(vec![1, 2, 0, 0]));
        let mut vector = Buffers::Vector(vec![vec![0; 1], vec![0; 2]]);
        vector.copy_from(&[1, 2, 3]);
        let mut out = [0; 2];
        vector.copy_to(&mut out);
        assert_eq!((out, vector.len_bytes()), ([1, 2], 3));
    }
}
