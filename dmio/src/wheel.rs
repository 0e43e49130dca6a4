//! One deadline for each of a fixed number of keys: a hierarchical timing wheel.
//!
//! ```text
//!  level 0   64 slots of 1 tick        all slots of a level lie ahead of now, within the slot
//!  level 1   64 slots of 64 ticks      of the level above that holds now; a deadline sits on the
//!   …                                  lowest level where its slot is not now's slot, and moves
//!  level 7   64 slots of 64^7 ticks    down when the time of its slot has come
//! ```
//!
//! A tick is 2^20 ns, about a millisecond, and eight levels reach to the end of time, so that no deadline is too far away. Each
//! slot is a list; a bitmap of a level says which of its slots hold anything, and the first bit of the lowest level that has one is
//! what comes next. Deadlines of one tick are always in the same slot.
//!
//! # Contract
//! - A deadline never expires early, and at most one tick late if [`Wheel::expire`] is called whenever [`Wheel::next`] says so.
//! - Deadlines of one tick expire in the order in which they were armed.
//! - [`Wheel::next`] may be earlier than any deadline, by which far ones move down: at most seven times for each.
//! - Nothing allocates after [`Wheel::new`]. Disarming what is not armed does nothing.

use iomgr_core::Timestamp;

use crate::slots::{Links, List};

/// log2 of the nanoseconds in a tick.
pub const TICK_SHIFT: u32 = 20;
/// log2 of the slots of a level.
const SLOT_SHIFT: u32 = 6;
const SLOTS: usize = 1 << SLOT_SHIFT;
/// 2^64 ns are 2^44 ticks.
const LEVELS: usize = 8;
/// The slot of what is not armed.
const NOWHERE: u16 = u16::MAX;

/// See the module.
#[derive(Debug)]
pub struct Wheel {
    /// The tick up to which everything has expired.
    elapsed: u64,
    /// Which levels hold anything.
    levels: u8,
    /// Which slots of a level do.
    occupied: [u64; LEVELS],
    slots: [List; LEVELS * SLOTS],
    links: Links,
    /// For each key.
    entries: Vec<Entry>,
}

/// A deadline.
#[derive(Clone, Copy, Debug)]
struct Entry {
    tick: u64,
    /// Where it is.
    slot: u16,
}

impl Wheel {
    /// For keys below `keys`.
    pub fn new(keys: u32) -> Self {
        let entry = Entry { tick: 0, slot: NOWHERE };
        Self {
            elapsed: 0,
            levels: 0,
            occupied: [0; LEVELS],
            slots: [List::EMPTY; LEVELS * SLOTS],
            links: Links::new(keys),
            entries: vec![entry; keys as usize],
        }
    }

    /// Sets the deadline of `key`, which loses the one that it had.
    pub fn arm(&mut self, key: u32, deadline: Timestamp) {
        self.disarm(key);
        let tick = deadline.as_nanos().div_ceil(1 << TICK_SHIFT);
        self.entries[key as usize].tick = tick.max(self.elapsed);
        self.link(key);
    }

    /// Takes the deadline of `key` away.
    pub fn disarm(&mut self, key: u32) {
        if self.is_armed(key) {
            self.unlink(key);
        }
    }

    /// Has `key` a deadline?
    pub fn is_armed(&self, key: u32) -> bool {
        self.entries[key as usize].slot != NOWHERE
    }

    /// When to call [`expire`](Self::expire); `None` when nothing is armed.
    pub fn next(&self) -> Option<Timestamp> {
        let (_, _, tick) = self.first_slot()?;
        Some(Timestamp::from_nanos(tick.saturating_mul(1 << TICK_SHIFT)))
    }

    /// A key whose deadline has come; it has none any more. Call it until there is none.
    pub fn expire(&mut self, now: Timestamp) -> Option<u32> {
        let now = now.as_nanos() >> TICK_SHIFT;
        while let Some((level, slot, tick)) = self.first_slot()
            && tick <= now
        {
            self.elapsed = tick;
            while let Some(first) = self.slots[level * SLOTS + slot].front() {
                self.unlink(first);
                if level == 0 {
                    return Some(first);
                }
                // The slot's time has come: what is in it goes to lower levels.
                self.link(first);
            }
        }
        self.elapsed = self.elapsed.max(now);
        None
    }

    /// The slot that comes next: its level, its place there, and its first tick.
    fn first_slot(&self) -> Option<(usize, usize, u64)> {
        if self.levels == 0 {
            return None;
        }
        let level = self.levels.trailing_zeros();
        let slot = self.occupied[level as usize].trailing_zeros();
        let shift = level * SLOT_SHIFT;
        let above = self.elapsed >> (shift + SLOT_SHIFT) << (shift + SLOT_SHIFT);
        Some((level as usize, slot as usize, above | u64::from(slot) << shift))
    }

    #[expect(clippy::cast_possible_truncation, reason = "slots are far fewer than 2^16")]
    fn link(&mut self, key: u32) {
        let tick = self.entries[key as usize].tick;
        let differs = (tick ^ self.elapsed) | (SLOTS as u64 - 1);
        let level = (u64::BITS - 1 - differs.leading_zeros()) / SLOT_SHIFT;
        let slot = (tick >> (level * SLOT_SHIFT)) & (SLOTS as u64 - 1);
        let index = level as usize * SLOTS + slot as usize;
        self.slots[index].push_back(&mut self.links, key);
        self.entries[key as usize].slot = index as u16;
        self.occupied[level as usize] |= 1 << slot;
        self.levels |= 1 << level;
    }

    fn unlink(&mut self, key: u32) {
        let index = usize::from(std::mem::replace(&mut self.entries[key as usize].slot, NOWHERE));
        self.slots[index].remove(&mut self.links, key);
        if self.slots[index].is_empty() {
            let level = index / SLOTS;
            self.occupied[level] &= !(1 << (index % SLOTS));
            self.levels &= !(u8::from(self.occupied[level] == 0) << level);
        }
    }
}

#[cfg(test)]
mod tests;
