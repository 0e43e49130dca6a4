//! Content that costs memory only where something was written.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of a piece.
const PAGE: u64 = 4096;

type Page = Arc<[u8; PAGE as usize]>;

/// Bytes from 0 to a length; what was never written is zeros. Clones share pages until one of them changes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sparse {
    pages: BTreeMap<u64, Page>,
    len: u64,
}

impl Sparse {
    pub(crate) fn new(len: u64) -> Self {
        Self {
            pages: BTreeMap::new(),
            len,
        }
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Fills `buf` from `offset`; behind the end it reads zeros.
    pub(crate) fn read(&self, offset: u64, buf: &mut [u8]) {
        for_pages(offset, buf.len(), |page, start, range| {
            let len = range.len();
            match self.pages.get(&page) {
                Some(bytes) => buf[range].copy_from_slice(&bytes[start..start + len]),
                None => buf[range].fill(0),
            }
        });
    }

    /// Puts bytes in place, and makes the content longer where needed.
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) {
        for_pages(offset, bytes.len(), |page, start, range| {
            let len = range.len();
            self.page_mut(page)[start..start + len].copy_from_slice(&bytes[range]);
        });
        self.len = self.len.max(offset + bytes.len() as u64);
    }

    /// Makes bytes zeros; the length stays.
    pub(crate) fn zero(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len);
        let (first, last) = (offset.div_ceil(PAGE), end / PAGE);
        if first > last {
            return self.zero_within(offset, end - offset);
        }
        let inside: Vec<u64> = self.pages.range(first..last).map(|(page, _)| *page).collect();
        inside.iter().for_each(|page| drop(self.pages.remove(page)));
        self.zero_within(offset, first * PAGE - offset);
        self.zero_within(last * PAGE, end - last * PAGE);
    }

    /// Cuts it, or makes it longer with zeros.
    pub(crate) fn set_len(&mut self, len: u64) {
        self.zero(len, u64::MAX - len);
        self.len = len;
    }

    /// Where in `offset..offset + len` something other than zeros may be: first bytes of pages.
    pub(crate) fn written_pages(&self, offset: u64, len: u64) -> Vec<u64> {
        let end = offset.saturating_add(len).div_ceil(PAGE);
        self.pages
            .range(offset / PAGE..end)
            .map(|(page, _)| page * PAGE)
            .collect()
    }

    /// Zeros part of one page, if it is there.
    fn zero_within(&mut self, offset: u64, len: u64) {
        let (page, start) = (offset / PAGE, (offset % PAGE) as usize);
        if len > 0 && self.pages.contains_key(&page) {
            self.page_mut(page)[start..start + len as usize].fill(0);
        }
    }

    fn page_mut(&mut self, page: u64) -> &mut [u8; PAGE as usize] {
        Arc::make_mut(self.pages.entry(page).or_insert_with(|| Arc::new([0; PAGE as usize])))
    }
}

/// Calls `each` with page, first byte in the page, and range in the buffer, for all pages that a run touches.
fn for_pages(offset: u64, len: usize, mut each: impl FnMut(u64, usize, std::ops::Range<usize>)) {
    let mut at = 0;
    while at < len {
        let position = offset + at as u64;
        let start = (position % PAGE) as usize;
        let part = (PAGE as usize - start).min(len - at);
        each(position / PAGE, start, at..at + part);
        at += part;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_vector_of_bytes(steps in prop::collection::vec((0u8..3, 0u64..20_000, 0u64..10_000), 0..40)) {
            let mut sparse = Sparse::new(0);
            let mut model: Vec<u8> = Vec::new();
            for (i, (step, offset, len)) in (1u8..).zip(steps) {
                match step {
                    0 => {
                        sparse.write(offset, &vec![i; len as usize]);
                        model.resize(model.len().max((offset + len) as usize), 0);
                        model[offset as usize..][..len as usize].fill(i);
                    }
                    1 => {
                        sparse.zero(offset, len);
                        let end = model.len().min((offset + len) as usize);
                        model[(offset as usize).min(end)..end].fill(0);
                    }
                    _ => {
                        sparse.set_len(offset);
                        model.resize(offset as usize, 0);
                    }
                }
                let mut all = vec![0xee; model.len()];
                sparse.read(0, &mut all);
                prop_assert!(sparse.len() == model.len() as u64 && all == model);
            }
        }
    }

    #[test]
    fn terabytes_of_nothing_cost_nothing() {
        let mut sparse = Sparse::new(0);
        sparse.write((2 << 40) - 1, &[1]);
        sparse.zero(0, 1 << 40);
        assert_eq!((sparse.pages.len(), sparse.len()), (1, 2 << 40));
    }
}
