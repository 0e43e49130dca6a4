//! Where counts are kept: a page for each intake and generation, and the sums of pages that are closed.
//!
//! A page that is closed moves its counts to the sums of its device, of its generation and of all under the lock that
//! readers take too, so that nothing is ever counted twice, or missed.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::counters::QueueCounters;
use super::waits::QueueWaits;
use super::{Counters, DeviceId, Manager, WaitTimes};
use crate::Timestamp;

/// What one generation did, of those that are not over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenerationStats {
    /// Its number: the first "none" has 1, each swap counts one up.
    pub number: u64,
    /// The manager's name.
    pub manager: String,
    /// Is it the current one? If not, requests that it admitted are still on their way, or a queue has not moved on yet.
    pub is_current: bool,
    /// What passed its hooks.
    pub counters: Counters,
    /// How long those waited that it granted.
    pub wait_times: WaitTimes,
}

/// All counts of a registry. Lock order: innermost, held for sums only.
#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<Books>);

#[derive(Debug, Default)]
struct Books {
    open: Vec<Arc<Page>>,
    /// Of pages that are closed: all of them, those of devices that are attached, those of generations that are not over.
    closed: Totals,
    devices: BTreeMap<DeviceId, Totals>,
    reigns: Vec<(Arc<Reign>, Totals)>,
}

/// Counts of both kinds.
#[derive(Clone, Debug, Default)]
pub(super) struct Totals {
    pub(super) counters: Counters,
    pub(super) wait_times: WaitTimes,
}

/// One reign of a manager, as the books know it.
#[derive(Debug)]
pub(super) struct Reign {
    pub(super) number: u64,
    /// The manager's name, read once.
    pub(super) name: String,
    /// Where the manager is: tells managers apart.
    address: usize,
}

/// What one intake counts under one generation. Only the intake's thread may count.
#[derive(Debug)]
pub(super) struct Page {
    device: DeviceId,
    reign: u64,
    pub(super) counters: QueueCounters,
    waits: QueueWaits,
}

/// A page that is open. Dropping it closes it.
#[derive(Debug)]
pub(super) struct Account {
    page: Arc<Page>,
    ledger: Arc<Ledger>,
}

impl Ledger {
    /// Opens a page for an intake of `device` under `reign`.
    pub(super) fn open(self: &Arc<Self>, device: DeviceId, reign: &Reign) -> Account {
        let page = Arc::new(Page {
            device,
            reign: reign.number,
            counters: QueueCounters::default(),
            waits: QueueWaits::new(),
        });
        self.lock().open.push(Arc::clone(&page));
        Account {
            page,
            ledger: Arc::clone(self),
        }
    }

    fn close(&self, page: &Arc<Page>) {
        let mut books = self.lock();
        books.open.retain(|open| !Arc::ptr_eq(open, page));
        let totals = page.totals();
        books.closed += &totals;
        if let Some(device) = books.devices.get_mut(&page.device) {
            *device += &totals;
        }
        if let Some((_, reign)) = books.reigns.iter_mut().find(|(reign, _)| reign.number == page.reign) {
            *reign += &totals;
        }
    }

    /// A device is attached; its counts are kept until it is forgotten.
    pub(super) fn attach(&self, device: DeviceId) {
        self.lock().devices.insert(device, Totals::default());
    }

    /// A device is gone, and so are its intakes.
    pub(super) fn forget(&self, device: DeviceId) {
        self.lock().devices.remove(&device);
    }

    /// A generation is published.
    pub(super) fn begin(&self, reign: &Arc<Reign>) {
        self.lock().reigns.push((Arc::clone(reign), Totals::default()));
    }

    /// A generation is over, or was never published.
    pub(super) fn end(&self, reign: &Arc<Reign>) {
        self.lock().reigns.retain(|(other, _)| !Arc::ptr_eq(other, reign));
    }

    /// Is there a generation of this very manager that is not over?
    pub(super) fn has_reign_of(&self, manager: &Arc<dyn Manager>) -> bool {
        self.lock().reigns.iter().any(|(reign, _)| reign.is_of(manager))
    }

    /// What passed the hooks so far, on all devices, those that are gone included.
    pub(super) fn total(&self) -> Totals {
        let books = self.lock();
        books.sum(&books.closed, |_| true)
    }

    /// What passed the hooks so far on a device that is attached.
    pub(super) fn device(&self, device: DeviceId) -> Totals {
        let books = self.lock();
        let closed = books.devices.get(&device).cloned().unwrap_or_default();
        books.sum(&closed, |page| page.device == device)
    }

    /// What passed the hooks of each generation that is not over, the oldest first.
    pub(super) fn generations(&self, current: u64) -> Vec<GenerationStats> {
        let books = self.lock();
        let stats = |(reign, closed): &(Arc<Reign>, Totals)| {
            let Totals { counters, wait_times } = books.sum(closed, |page| page.reign == reign.number);
            GenerationStats {
                number: reign.number,
                manager: reign.name.clone(),
                is_current: reign.number == current,
                counters,
                wait_times,
            }
        };
        books.reigns.iter().map(stats).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    fn sum(&self, closed: &Totals, which: impl Fn(&Page) -> bool) -> Totals {
        let mut totals = closed.clone();
        for page in self.open.iter().filter(|page| which(page)) {
            totals += &page.totals();
        }
        totals
    }
}

impl AddAssign<&Self> for Totals {
    fn add_assign(&mut self, other: &Self) {
        self.counters += other.counters;
        self.wait_times += &other.wait_times;
    }
}

impl Reign {
    pub(super) fn new(number: u64, name: String, manager: &Arc<dyn Manager>) -> Arc<Self> {
        Arc::new(Self {
            number,
            name,
            address: address(manager),
        })
    }

    fn is_of(&self, manager: &Arc<dyn Manager>) -> bool {
        self.address == address(manager)
    }
}

fn address(manager: &Arc<dyn Manager>) -> usize {
    Arc::as_ptr(manager).cast::<()>().addr()
}

impl Page {
    fn totals(&self) -> Totals {
        Totals {
            counters: self.counters.snapshot(),
            wait_times: self.waits.snapshot(),
        }
    }
}

impl Account {
    /// The counters, to count.
    #[inline]
    pub(super) fn counters(&self) -> &QueueCounters {
        &self.page.counters
    }

    /// A request is granted that is there since `since`.
    #[inline]
    pub(super) fn granted(&self, since: Timestamp, now: Timestamp) {
        self.page.counters.grants.bump();
        if since < now {
            self.waited(since, now);
        }
    }

    fn waited(&self, since: Timestamp, now: Timestamp) {
        self.page.counters.waits.bump();
        self.page.waits.record(now.since(since));
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.ledger.close(&self.page);
    }
}
