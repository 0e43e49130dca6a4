//! The generations that an intake still has to do with: the current one, and those whose requests are on their way.

use super::generation::Binding;
use super::ledger::Account;
use crate::shim::Arc;

/// Rarely more than two are alive; more than this many cost an allocation each.
const EXPECTED: usize = 8;

/// A small slab; grants and tickets name its slots.
#[derive(Debug)]
pub(super) struct LiveTable {
    slots: Vec<Option<Live>>,
    current: usize,
    /// How many of them have hooks.
    hooked: u32,
}

/// One generation as this intake sees it.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) binding: Arc<Binding>,
    /// Are there hooks to call?
    pub(super) hooked: bool,
    /// What this intake counts under it.
    pub(super) account: Account,
    /// Grants and tickets that name it.
    pins: u32,
}

impl Live {
    fn new(binding: Arc<Binding>) -> Self {
        Self {
            hooked: binding.generation.is_hooked(),
            account: binding.account(),
            binding,
            pins: 0,
        }
    }
}

impl LiveTable {
    pub(super) fn new(binding: Arc<Binding>) -> Self {
        let mut slots = Vec::with_capacity(EXPECTED);
        let live = Live::new(binding);
        let hooked = u32::from(live.hooked);
        slots.push(Some(live));
        Self {
            slots,
            current: 0,
            hooked,
        }
    }

    /// A generation whose hooks are called here, the current one before others.
    #[inline]
    pub(super) fn hooked(&self) -> Option<&Live> {
        match self.hooked {
            0 => None,
            _ => self.some_hooked(),
        }
    }

    fn some_hooked(&self) -> Option<&Live> {
        let mut all = [self.current()].into_iter().chain(self.slots.iter().flatten());
        all.find(|live| live.hooked)
    }

    #[inline]
    pub(super) fn current(&self) -> &Live {
        self.slots[self.current]
            .as_ref()
            .expect("the current slot is always in use")
    }

    /// New requests go with `binding` from now on.
    pub(super) fn move_to(&mut self, binding: Arc<Binding>) {
        let old = self.current;
        self.current = self.vacant();
        let live = Live::new(binding);
        self.hooked += u32::from(live.hooked);
        self.slots[self.current] = Some(live);
        self.let_go(old);
    }

    /// The slot of the current generation, for [`pinned`](Self::pinned).
    #[inline]
    pub(super) fn current_slot(&self) -> u32 {
        u32::try_from(self.current).expect("as many generations as requests at most, and those are counted in 32 bits")
    }

    /// Pins the current generation.
    #[inline]
    pub(super) fn pin(&mut self) -> &Live {
        let live = self.slots[self.current].as_mut();
        let live = live.expect("the current slot is always in use");
        live.pins += 1;
        live
    }

    #[inline]
    pub(super) fn pinned(&self, slot: u32) -> &Live {
        self.slots[slot as usize].as_ref().expect("a pinned slot is in use")
    }

    /// Ends a pin; the last one of a generation of the past lets go of it, which may stop the device with it.
    #[inline]
    pub(super) fn unpin(&mut self, slot: u32) {
        let slot = slot as usize;
        let live = self.slots[slot].as_mut().expect("a pinned slot is in use");
        live.pins -= 1;
        if live.pins == 0 && slot != self.current {
            self.let_go(slot);
        }
    }

    /// How many grants and tickets are out.
    pub(super) fn pins(&self) -> u64 {
        self.slots.iter().flatten().map(|live| u64::from(live.pins)).sum()
    }

    fn let_go(&mut self, slot: usize) {
        if let Some(live) = self.slots[slot].take_if(|live| live.pins == 0) {
            self.hooked -= u32::from(live.hooked);
        }
    }

    fn vacant(&mut self) -> usize {
        self.slots.iter().position(Option::is_none).unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        })
    }
}
