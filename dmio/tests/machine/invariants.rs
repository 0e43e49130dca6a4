//! The invariants of a client, as far as the machine alone can show them, each by a watcher that knows nothing else.

use std::collections::HashMap;

use dmio::{Cancelled, Event, LegId, Machine, Reason, RegionEvent, RegionState, RequestId, Submission};
use iomgr_core::Timestamp;

use crate::seen::{Call, Watch};

/// S3-1: notifications of a region match `T?(O|E|C)`.
#[derive(Default)]
pub(crate) struct Notifications(HashMap<(RequestId, usize), Option<RegionState>>);

impl Watch for Notifications {
    fn see(&mut self, _now: Timestamp, call: &Call<'_>, _machine: &Machine) {
        match call {
            Call::Start(io, Ok(id)) => {
                for region in 0..io.regions.len() {
                    assert_eq!(self.0.insert((*id, region), None), None, "a name is used once");
                }
            }
            Call::Event(Some(Event::Region(event))) => {
                let last = self.0.get_mut(&(event.request, event.region)).expect("it was started");
                assert!(
                    last.is_none_or(|last| last.may_precede(event.state)),
                    "{last:?} {event:?}"
                );
                *last = Some(event.state);
            }
            _ => {}
        }
    }

    fn at_the_end(&mut self, _machine: &Machine) {
        for (region, last) in &self.0 {
            assert!(last.is_some_and(RegionState::is_terminal), "{region:?}: {last:?}");
        }
    }
}

/// S3-2: the terminal states add up to the regions, always.
#[derive(Default)]
pub(crate) struct Sum {
    /// Each request and its regions.
    started: Vec<(RequestId, usize)>,
    /// Ends that were told: good ones, errors, cancelled ones.
    told: [u64; 3],
}

impl Watch for Sum {
    fn see(&mut self, _now: Timestamp, call: &Call<'_>, machine: &Machine) {
        match call {
            Call::Start(io, Ok(id)) => self.started.push((*id, io.regions.len())),
            Call::Event(Some(Event::Region(event))) => match event.state {
                RegionState::Timeout => {}
                RegionState::Ok => self.told[0] += 1,
                RegionState::Error(_) => self.told[1] += 1,
                RegionState::Cancelled(_) => self.told[2] += 1,
            },
            _ => {}
        }
        let (counted, taken) = (machine.counters(), machine.occupancy());
        let regions = self.started.iter().map(|(_, regions)| *regions as u64).sum::<u64>();
        assert_eq!(counted.regions, regions);
        assert_eq!(
            counted.ok + counted.failed + counted.cancelled + u64::from(taken.running),
            regions
        );
    }

    fn at_the_end(&mut self, machine: &Machine) {
        let counted = machine.counters();
        assert_eq!(self.told, [counted.ok, counted.failed, counted.cancelled]);
    }
}

/// S3-6: no two outstanding writes overlap.
#[derive(Default)]
pub(crate) struct Writes(Vec<Submission>);

impl Watch for Writes {
    fn see(&mut self, _now: Timestamp, call: &Call<'_>, _machine: &Machine) {
        match call {
            Call::Submit(Some(new)) if new.op.is_write() => {
                let same = |old: &&Submission| (old.device, old.generation) == (new.device, new.generation);
                for old in self.0.iter().filter(same) {
                    assert!(!old.range.overlaps(new.range), "{old:?} {new:?}");
                }
                self.0.push(*new);
            }
            Call::Busy(leg, true) | Call::Answer(leg, ..) => self.0.retain(|old| old.leg != *leg),
            _ => {}
        }
    }
}

/// S3-7: free + used + orphaned = capacity, and no cell has two users.
#[derive(Default)]
pub(crate) struct Memory(HashMap<LegId, Submission>);

impl Watch for Memory {
    fn see(&mut self, _now: Timestamp, call: &Call<'_>, machine: &Machine) {
        match call {
            Call::Submit(Some(new)) => {
                let mut others = self.0.values().filter(|old| new.cell.is_some() && old.cell == new.cell);
                assert!(others.all(|old| old.request == new.request), "{new:?}");
                let mut others = self.0.values().filter(|old| new.cell.is_some() && old.cell == new.cell);
                let is_read = !new.op.is_write();
                assert!(
                    !is_read || others.next().is_none(),
                    "candidates have memory of their own"
                );
                assert!(new.cell.is_none_or(|cell| cell.0 < machine.cells()));
                assert!(self.0.insert(new.leg, *new).is_none(), "its number is taken");
            }
            Call::Busy(leg, true) | Call::Answer(leg, ..) => {
                self.0.remove(leg);
            }
            _ => {}
        }
        let taken = machine.occupancy();
        let sum = taken.cells_free + taken.cells_used + taken.cells_orphaned;
        assert_eq!(sum, machine.cells());
        let mut at_devices: Vec<_> = self.0.values().filter_map(|leg| leg.cell).collect();
        at_devices.sort_unstable();
        at_devices.dedup();
        assert!(at_devices.len() <= (taken.cells_used + taken.cells_orphaned) as usize);
    }

    fn at_the_end(&mut self, machine: &Machine) {
        assert_eq!(machine.occupancy().cells_free, machine.cells(), "all is back");
        assert!(self.0.is_empty());
    }
}

/// S3-9: a request is over if and only if all of its regions are, and its last notification is the last.
#[derive(Default)]
pub(crate) struct Over {
    /// Each request that was not forgotten, its regions, and how many ends of them were told.
    started: HashMap<RequestId, (usize, usize)>,
}

impl Watch for Over {
    fn see(&mut self, _now: Timestamp, call: &Call<'_>, machine: &Machine) {
        match call {
            Call::Start(io, Ok(id)) => {
                self.started.insert(*id, (io.regions.len(), 0));
            }
            Call::Event(Some(Event::Region(event))) if event.state.is_terminal() => {
                let (regions, told) = self.started.get_mut(&event.request).expect("it was started");
                *told += 1;
                assert_eq!(event.is_last, told == regions, "{event:?}");
            }
            _ => {}
        }
        self.started.retain(|&id, (regions, told)| {
            let remembered = machine.regions(id) != 0;
            let is_terminal = |region| machine.state(id, region).is_some_and(RegionState::is_terminal);
            let all = (0..*regions).all(is_terminal);
            assert_eq!(machine.is_over(id), all || !remembered, "{id:?}");
            assert!(remembered || told == regions, "it is forgotten when all was told");
            remembered
        });
    }
}

/// What was told of a cancelled region stays true; a late answer follows where its device has it, and none where it never started.
#[derive(Default)]
pub(crate) struct Lates {
    /// What cancelled regions were told of requests that are not forgotten.
    told: HashMap<(RequestId, usize), Cancelled>,
    /// Late answers that are awaited.
    awaited: usize,
}

impl Watch for Lates {
    fn see(&mut self, _now: Timestamp, call: &Call<'_>, machine: &Machine) {
        match call {
            Call::Event(Some(Event::Region(event))) => {
                if let RegionState::Cancelled(cancelled) = event.state {
                    self.told.insert((event.request, event.region), cancelled);
                    self.awaited += usize::from(!cancelled.never_started);
                }
            }
            Call::Event(Some(Event::Late(late))) => {
                let told = self
                    .told
                    .remove(&(late.request, late.region))
                    .expect("its end was told");
                assert!(!told.never_started, "{late:?}");
                self.awaited -= 1;
            }
            _ => {}
        }
        self.told.retain(|&(id, region), told| {
            let state = machine.state(id, region);
            assert!(
                state.is_none_or(|state| state == RegionState::Cancelled(*told)),
                "{state:?}"
            );
            state.is_some()
        });
    }

    fn at_the_end(&mut self, _machine: &Machine) {
        assert_eq!(self.awaited, 0, "each that a device has is answered late");
    }
}

/// S3-11: CANCELLED arrives at once, whatever devices do: with the time of the cancel, before there is nothing more to tell.
#[derive(Default)]
pub(crate) struct AtOnce {
    /// Regions that run, and since when those are cancelled that are not told yet.
    running: HashMap<RequestId, Vec<usize>>,
    cancelled: HashMap<(RequestId, usize), Timestamp>,
}

impl Watch for AtOnce {
    fn see(&mut self, now: Timestamp, call: &Call<'_>, machine: &Machine) {
        match call {
            Call::Start(io, Ok(id)) => {
                self.running.insert(*id, (0..io.regions.len()).collect());
            }
            Call::Cancel(id, Ok(moved)) => {
                let running = &self.running[id];
                assert_eq!(running.len(), *moved as usize);
                assert!(machine.is_over(*id));
                self.cancelled
                    .extend(running.iter().map(|&region| ((*id, region), now)));
            }
            Call::Event(None) => assert!(self.cancelled.is_empty(), "{:?}", self.cancelled),
            Call::Event(Some(Event::Region(event))) => self.told(event),
            _ => {}
        }
        for (&id, running) in &mut self.running {
            let is_over = |region| machine.state(id, region).is_some_and(RegionState::is_terminal);
            running.retain(|&region| !is_over(region));
        }
    }
}

impl AtOnce {
    fn told(&mut self, event: &RegionEvent) {
        let cancelled = self.cancelled.get(&(event.request, event.region));
        let by_handle = matches!(
            event.state,
            RegionState::Cancelled(Cancelled {
                reason: Reason::Handle,
                ..
            })
        );
        if event.state != RegionState::Timeout {
            assert_eq!(cancelled.is_some(), by_handle, "{event:?}");
            assert_eq!(cancelled.copied().unwrap_or(event.at), event.at, "{event:?}");
            self.cancelled.remove(&(event.request, event.region));
        }
    }
}
