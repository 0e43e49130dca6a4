//! A buddy allocator over numbered pages: which runs of the arena are free. It touches no memory itself.
//!
//! Runs are powers of two of pages. The smallest free run that fits is cut, so large runs stay whole as long as they can.
//! A range that is no power of two is taken as its binary parts: 48 MiB is a run of 32 MiB and one of 16 MiB.

/// No page.
const NIL: u32 = u32::MAX;
/// Orders that page numbers below 2^31 can need.
const ORDERS: u8 = 32;

/// The free runs of `pages` pages.
#[derive(Debug)]
pub(crate) struct Buddy {
    /// First free run per order.
    heads: [u32; ORDERS as usize],
    /// Per page: is it the first of a free run, and of which order?
    links: Box<[Link]>,
    /// Pages in free runs.
    free: u32,
}

/// A page's place in the list of free runs of its order.
#[derive(Clone, Copy, Debug)]
struct Link {
    next: u32,
    prev: u32,
    /// Order of the free run that starts here; `NOT_FREE` otherwise.
    order: u8,
}

const NOT_FREE: u8 = u8::MAX;

/// The order of the smallest run that holds `pages` pages.
pub(crate) fn order_for(pages: u32) -> u8 {
    let order = pages.max(1).next_power_of_two().trailing_zeros();
    u8::try_from(order).expect("below 32")
}

impl Buddy {
    /// All of `pages` pages free.
    pub(crate) fn new(pages: u32) -> Self {
        assert!(pages < 1 << (ORDERS - 1), "page numbers have 31 bits");
        let link = Link {
            next: NIL,
            prev: NIL,
            order: NOT_FREE,
        };
        let mut buddy = Self {
            heads: [NIL; ORDERS as usize],
            links: vec![link; pages as usize].into(),
            free: 0,
        };
        let mut at = 0;
        for order in (0..ORDERS - 1).rev() {
            if pages & (1 << order) != 0 {
                buddy.insert(at, order);
                at += 1 << order;
            }
        }
        buddy
    }

    /// Takes a run of 2^`order` pages; its first page.
    pub(crate) fn take(&mut self, order: u8) -> Option<u32> {
        let found = (order..ORDERS).find(|&o| self.heads[usize::from(o)] != NIL)?;
        let page = self.heads[usize::from(found)];
        self.remove(page);
        for half in (order..found).rev() {
            self.insert(page + (1 << half), half);
        }
        Some(page)
    }

    /// Gives a run back that [`take`](Self::take) handed out.
    pub(crate) fn give(&mut self, mut page: u32, mut order: u8) {
        assert!(
            self.links[page as usize].order == NOT_FREE,
            "a run is given back once only"
        );
        while let Some(buddy) = self.free_buddy(page, order) {
            self.remove(buddy);
            page = page.min(buddy);
            order += 1;
        }
        self.insert(page, order);
    }

    /// The order of the largest free run.
    pub(crate) fn largest(&self) -> Option<u8> {
        (0..ORDERS).rev().find(|&o| self.heads[usize::from(o)] != NIL)
    }

    /// Pages that are free.
    pub(crate) fn free_pages(&self) -> u32 {
        self.free
    }

    /// The other half of the next larger run, if it is free as a whole.
    fn free_buddy(&self, page: u32, order: u8) -> Option<u32> {
        let buddy = page ^ (1 << order);
        (self.links.get(buddy as usize)?.order == order).then_some(buddy)
    }

    fn insert(&mut self, page: u32, order: u8) {
        let head = std::mem::replace(&mut self.heads[usize::from(order)], page);
        if head != NIL {
            self.links[head as usize].prev = page;
        }
        self.links[page as usize] = Link {
            next: head,
            prev: NIL,
            order,
        };
        self.free += 1 << order;
    }

    fn remove(&mut self, page: u32) {
        let Link { next, prev, order } = self.links[page as usize];
        if prev == NIL {
            self.heads[usize::from(order)] = next;
        } else {
            self.links[prev as usize].next = next;
        }
        if next != NIL {
            self.links[next as usize].prev = prev;
        }
        self.links[page as usize].order = NOT_FREE;
        self.free -= 1 << order;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn odd_sizes_are_their_binary_parts() {
        let mut buddy = Buddy::new(12288);
        assert_eq!(buddy.largest(), Some(13));
        assert_eq!(
            (buddy.take(0), buddy.largest()),
            (Some(8192), Some(13)),
            "the smaller part is cut first"
        );
        assert!(buddy.take(13).is_some());
        assert_eq!(buddy.take(13), None);
    }

    #[test]
    fn orders_round_up() {
        assert_eq!([0, 1, 2, 3, 4, 5].map(order_for), [0, 0, 1, 2, 2, 3]);
    }

    proptest! {
        /// Against the naive model: a flag per page.
        #[test]
        fn runs_are_aligned_disjoint_and_merge_back(
            pages in 1u32..300,
            steps in prop::collection::vec((any::<bool>(), 0u8..9, any::<prop::sample::Index>()), 0..200),
        ) {
            let mut buddy = Buddy::new(pages);
            let mut used = vec![false; pages as usize];
            let mut live: Vec<(u32, u8)> = Vec::new();
            for (take, order, pick) in steps {
                if take || live.is_empty() {
                    let Some(page) = buddy.take(order) else {
                        prop_assert!(no_aligned_run(&used, order), "refused although a run is free");
                        continue;
                    };
                    let run = page as usize..page as usize + (1 << order);
                    prop_assert!(page.is_multiple_of(1 << order) && run.end <= used.len());
                    prop_assert!(used[run.clone()].iter().all(|&used| !used), "taken twice");
                    used[run].fill(true);
                    live.push((page, order));
                } else {
                    let (page, order) = live.swap_remove(pick.index(live.len()));
                    buddy.give(page, order);
                    used[page as usize..][..1 << order].fill(false);
                }
                let free = used.iter().filter(|&&used| !used).count();
                prop_assert_eq!(buddy.free_pages() as usize, free);
            }
        }
    }

    /// Is there no aligned run of 2^order pages that is wholly unused?
    fn no_aligned_run(used: &[bool], order: u8) -> bool {
        !used.chunks_exact(1 << order).any(|run| run.iter().all(|&used| !used))
    }
}
