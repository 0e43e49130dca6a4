//! Memory of others among the arena's: buffers that were moved in, and what a scope has borrowed.
//!
//! ```text
//!  slots   ├──────── pages of the mapping ────────┤├─ places ─┤
//!  runs    0 … mapping, zeros …                    START + place · 2^32 + offset
//! ```
//!
//! A place has a slot like any other lease, so holds, zombies and generations work as ever. Only where its bytes are has to be
//! looked up.
//!
//! # Contract
//! - No run of one place touches a run of another, or of the mapping: a buffer is shorter than 4 GiB.
//! - A buffer that was moved in is dropped only when no op holds it, and never by an arena that [leaks](Arena::leak).
//! - What is borrowed for reading is never filled, by whatever name.

use iomgr_core::{BufId, Lease};

use super::aligned::AlignedBuf;
use super::{Arena, INDEX_BITS, PAGE, Slot, State};
use crate::run::Run;

/// Most places of an arena.
pub(crate) const PLACES_MAX: u16 = 1024;
/// The first page number that is a place's, behind those of the largest arena.
const FIRST_PAGE: u32 = 1 << 21;
/// The first byte that is a place's.
pub(super) const START: u64 = FIRST_PAGE as u64 * PAGE as u64;
/// Page numbers of a place, as a shift.
const PAGES_SHIFT: u32 = 20;
/// The same in bytes.
const BYTES_SHIFT: u32 = 32;

/// In place of a run's order: nobody may write there.
pub(super) const READ_ONLY: u8 = u8::MAX;
/// In place of a run's order.
const WRITABLE: u8 = 0;

/// The places, and what is at them.
#[derive(Debug)]
pub(super) struct Foreign {
    places: Box<[Place]>,
    vacant: Vec<u32>,
    /// The index of the first place's slot.
    first: u32,
}

#[derive(Debug)]
struct Place {
    base: *mut u8,
    /// The buffer, if it was moved in.
    owned: Option<AlignedBuf>,
}

impl Foreign {
    pub(super) fn new(first: u32, count: u16) -> Self {
        let vacant = Place {
            base: std::ptr::null_mut(),
            owned: None,
        };
        let mut places = Vec::with_capacity(count.into());
        places.resize_with(count.into(), || Place { owned: None, ..vacant });
        Self {
            places: places.into(),
            vacant: (0..count.into()).rev().collect(),
            first,
        }
    }

    /// Where a byte of a place is.
    pub(super) fn address(&self, start: u64) -> *mut u8 {
        let at = start - START;
        let (place, offset) = (at >> BYTES_SHIFT, at & ((1 << BYTES_SHIFT) - 1));
        let offset = usize::try_from(offset).expect("inside the buffer");
        let place = usize::try_from(place).expect("places are few");
        self.places[place].base.wrapping_add(offset)
    }

    /// Ends a lease of a place, if `page` is one's.
    pub(super) fn vacate(&mut self, page: u32) -> bool {
        let Some(place) = page.checked_sub(FIRST_PAGE).map(|page| page >> PAGES_SHIFT) else {
            return false;
        };
        self.places[place as usize].owned = None;
        self.vacant.push(place);
        true
    }

    /// Leaves all that was moved in to the kernel.
    pub(super) fn leak(&mut self) {
        let owned = self.places.iter_mut().filter_map(|place| place.owned.take());
        owned.for_each(AlignedBuf::leak);
    }
}

impl Arena {
    /// The same with room for so much memory of others.
    pub(crate) fn with_places(mut self, count: u16) -> Self {
        let first = u32::try_from(self.slots.len()).expect("as many slots as pages");
        let mut slots = std::mem::take(&mut self.slots).into_vec();
        slots.resize(slots.len() + usize::from(count), Slot::FREE);
        self.slots = slots.into();
        self.foreign = Foreign::new(first, count);
        self
    }

    /// Takes a buffer in, or hands it back where there is no place for it.
    pub(crate) fn lend(&mut self, buf: AlignedBuf) -> Result<Lease, AlignedBuf> {
        match self.occupy(buf.base(), buf.len_bytes(), WRITABLE) {
            Some((lease, place)) => {
                self.foreign.places[place as usize].owned = Some(buf);
                Ok(lease)
            }
            None => Err(buf),
        }
    }

    /// Gives a buffer back that was taken in, or the lease where it names none, and where an op holds it.
    pub(crate) fn take_back(&mut self, lease: Lease) -> Result<AlignedBuf, Lease> {
        let place = self.find(lease.id()).and_then(|index| {
            let slot = &self.slots[index as usize];
            let place = index.checked_sub(self.foreign.first)?;
            (slot.readers == 0 && slot.fillers == 0 && slot.keepers == 0).then_some(place)
        });
        match place.and_then(|place| self.foreign.places[place as usize].owned.take()) {
            Some(buf) => {
                self.free(lease);
                Ok(buf)
            }
            None => Err(lease),
        }
    }

    /// Lets ops work on memory of somebody else's, until [`end_borrow`](Self::end_borrow). `None`: there is no place for it.
    ///
    /// # Safety
    /// Until `end_borrow` has said that it is over, or for ever, there are `len` initialised bytes at `base`, which nobody else
    /// writes to, nor looks at if they are `writable`.
    pub(super) unsafe fn begin_borrow(&mut self, base: *mut u8, len: u32, writable: bool) -> Option<Lease> {
        let order = if writable { WRITABLE } else { READ_ONLY };
        Some(self.occupy(base, len, order)?.0)
    }

    /// Takes no more ops on borrowed memory. True: it is over, no op holds it.
    pub(super) fn end_borrow(&mut self, id: BufId) -> bool {
        let index = id.0 & ((1 << INDEX_BITS) - 1);
        let slot = &mut self.slots[index as usize];
        let is_over = slot.state == State::Free || u32::from(slot.generation) != id.0 >> INDEX_BITS;
        if !is_over {
            slot.state = State::Zombie;
            self.bury(index);
        }
        is_over || self.slots[index as usize].state == State::Free
    }

    fn occupy(&mut self, base: *mut u8, len: u32, order: u8) -> Option<(Lease, u32)> {
        let place = self.foreign.vacant.pop()?;
        self.foreign.places[place as usize].base = base;
        let index = self.foreign.first + place;
        let slot = &mut self.slots[index as usize];
        *slot = Slot {
            state: State::Live,
            order,
            page: FIRST_PAGE + (place << PAGES_SHIFT),
            len,
            ..*slot
        };
        let id = BufId(u32::from(slot.generation) << INDEX_BITS | index);
        Some((Lease::new(id, len), place))
    }

    /// What tells this arena from all others that there are.
    pub(super) fn identity(&self) -> usize {
        self.address(Run::EMPTY).addr()
    }
}

#[cfg(test)]
mod tests;
