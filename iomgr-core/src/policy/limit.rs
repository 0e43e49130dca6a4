//! `limit`: requests in flight stay below a bound, of each device and of all together.
//!
//! In flight is what was granted and has neither ended nor been given back. The counts are atomic: a grant first takes its
//! place, and gives it back if it was one too many, so no number of threads gets past a bound.
//!
//! Where the total is the bound, devices stand in *line*: one that was told no is served before those who come after it, and
//! what is free belongs to the first in line. One in line that does not come within 2 ms loses its turn to the others, not
//! its place.
//!
//! # Parameters
//! [`LimitConfig`]: `max` requests of each device, `max-total` of all. Flushes count as others do.
//!
//! # Contract
//! - In flight ≤ max, and ≤ max-total, at any instant. After a bound was lowered it holds as soon as enough has ended.
//! - No device starves: where the total is the bound, each device in line gets one request through before any gets two.
//!
//! # References
//! A counting semaphore with a queue. Xen's block back-end (`blkback`) bounded its requests by a common pool; here the pool is
//! fair.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::config::{BadConfig, at_least};
use super::devices::Devices;
use super::{Policy, PolicyConfig, PolicyName};
use crate::Timestamp;
use crate::manager::{DeviceId, DeviceInfo, Head, Manager, Refusal, Verdict, Wait};

/// How long a free place is kept for who is first in line.
const GRACE: Duration = Duration::from_millis(2);

/// `limit`: requests in flight, at most.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(default, deny_unknown_fields)
)]
pub struct LimitConfig {
    /// On each device, from 1; no bound if not given.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub max: Option<u32>,
    /// On all of them together, from 1; no bound if not given.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub max_total: Option<u32>,
}

impl LimitConfig {
    pub(super) fn check(&self) -> Result<(), BadConfig> {
        if self.max.is_none() && self.max_total.is_none() {
            return Err(BadConfig::new("limit needs max, max-total or both"));
        }
        at_least(
            1,
            [
                ("max", self.max.unwrap_or(1)),
                ("max-total", self.max_total.unwrap_or(1)),
            ],
        )
    }
}

/// The policy.
#[derive(Debug)]
pub(super) struct Limit {
    config: Mutex<LimitConfig>,
    max: AtomicU32,
    max_total: AtomicU32,
    total: Count,
    devices: Devices<Count>,
    line: Line,
}

/// Stands for no bound.
const UNBOUNDED: u32 = u32::MAX;

/// What is in flight, on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Count(AtomicU32);

/// Devices that were told no for the sake of the total; few.
#[derive(Debug, Default)]
struct Line {
    /// How many; changed under the lock, read without it.
    len: AtomicUsize,
    places: Mutex<Vec<Place>>,
}

/// A device's place in line.
#[derive(Debug)]
struct Place {
    device: DeviceId,
    /// Until when what is free is kept for it; counts from when somebody else was told so.
    kept_until: Option<Timestamp>,
}

impl Limit {
    pub(super) fn new(config: &LimitConfig) -> Self {
        let limit = Self {
            config: Mutex::default(),
            max: AtomicU32::new(UNBOUNDED),
            max_total: AtomicU32::new(UNBOUNDED),
            total: Count::default(),
            devices: Devices::default(),
            line: Line::default(),
        };
        limit.tell(config);
        limit
    }

    /// Takes new bounds over.
    pub(super) fn tell(&self, config: &LimitConfig) {
        let mut own = lock(&self.config);
        self.max.store(config.max.unwrap_or(UNBOUNDED), Ordering::Relaxed);
        self.max_total
            .store(config.max_total.unwrap_or(UNBOUNDED), Ordering::Relaxed);
        *own = config.clone();
    }

    pub(super) fn told(&self) -> LimitConfig {
        lock(&self.config).clone()
    }

    /// Is there room for one more request of the device? If not, it stands in line from now on.
    pub(super) fn look(&self, device: &DeviceInfo, now: Timestamp) -> Result<(), Wait> {
        self.devices.with(device.id(), |own| self.look_with(own, device, now))
    }

    /// Takes a place for a request, after a look. That it fails is the doing of a request that is granted at this moment, and
    /// will be freed.
    pub(super) fn take(&self, device: &DeviceInfo) -> Result<(), Wait> {
        self.devices.with(device.id(), |own| self.take_with(own, device))
    }

    pub(super) fn give_back(&self, device: &DeviceInfo) {
        self.devices.with(device.id(), Count::give_back);
        self.total.give_back();
    }

    fn look_with(&self, own: &Count, device: &DeviceInfo, now: Timestamp) -> Result<(), Wait> {
        if own.room(self.max.load(Ordering::Relaxed)) == 0 {
            self.leave(device);
            return Err(Wait::Freed);
        }
        let room = self.total.room(self.max_total.load(Ordering::Relaxed));
        match room > 0 && self.line.is_empty() {
            true => Ok(()),
            false => self.line.stand(device.id(), room, now),
        }
    }

    fn take_with(&self, own: &Count, device: &DeviceInfo) -> Result<(), Wait> {
        if !self.total.take(self.max_total.load(Ordering::Relaxed)) {
            return Err(Wait::Freed);
        }
        // Last, so that who finds the device's bound reached finds grants, and not attempts.
        if !own.take(self.max.load(Ordering::Relaxed)) {
            self.total.give_back();
            return Err(Wait::Freed);
        }
        self.leave(device);
        Ok(())
    }

    /// The device wants no place now.
    pub(super) fn leave(&self, device: &DeviceInfo) {
        if !self.line.is_empty() {
            self.line.leave(device.id());
        }
    }
}

impl Manager for Limit {
    fn name(&self) -> &str {
        PolicyName::Limit.as_str()
    }

    fn dev_start(&self, device: &DeviceInfo) -> Result<(), Refusal> {
        self.devices.insert(device.id(), Count::default());
        Ok(())
    }

    fn allow_request(&self, device: &DeviceInfo, _: &Head, now: Timestamp) -> Verdict {
        let taken = self.devices.with(device.id(), |own| {
            self.look_with(own, device, now)?;
            self.take_with(own, device)
        });
        taken.map_or_else(Verdict::No, |()| Verdict::Go)
    }

    fn oo_abort_request(&self, device: &DeviceInfo, _: &Head, _: Timestamp) {
        self.give_back(device);
    }

    fn free_request(&self, device: &DeviceInfo, _: &Head, _: Timestamp) {
        self.give_back(device);
    }

    fn dev_stop(&self, device: &DeviceInfo) {
        self.leave(device);
        self.devices.remove(device.id());
    }
}

impl Policy for Limit {
    fn config(&self) -> PolicyConfig {
        PolicyConfig::Limit(self.told())
    }

    fn reconfigure(&self, config: &PolicyConfig) -> bool {
        match config {
            PolicyConfig::Limit(config) => {
                self.tell(config);
                true
            }
            _ => false,
        }
    }
}

impl Count {
    fn room(&self, max: u32) -> u32 {
        max.saturating_sub(self.0.load(Ordering::Relaxed))
    }

    /// One more, if that is not too many.
    fn take(&self, max: u32) -> bool {
        let one_more = |count| (count < max).then(|| count + 1);
        self.0
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, one_more)
            .is_ok()
    }

    fn give_back(&self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Line {
    fn is_empty(&self) -> bool {
        self.len.load(Ordering::Relaxed) == 0
    }

    /// Is it the device's turn, with room for so many more? If not, it has a place from now on.
    fn stand(&self, device: DeviceId, room: u32, now: Timestamp) -> Result<(), Wait> {
        let mut places = lock(&self.places);
        let mine = places.iter().position(|place| place.device == device);
        let before = mine.unwrap_or(places.len());
        let mut left = room;
        for place in &mut places[..before] {
            left -= u32::from(left > 0 && place.keeps(now));
        }
        if left > 0 {
            return Ok(());
        }
        let place = Place {
            device,
            kept_until: None,
        };
        match mine {
            Some(index) => places[index] = place,
            None => places.push(place),
        }
        self.len.store(places.len(), Ordering::Relaxed);
        // Those before it are expected to come first; if nobody does, each is there one grace after the one before.
        let patience = GRACE * u32::try_from(before).unwrap_or(u32::MAX);
        Err(match room {
            0 => Wait::Freed,
            _ => Wait::FreedOr(now + patience),
        })
    }

    fn leave(&self, device: DeviceId) {
        let mut places = lock(&self.places);
        places.retain(|place| place.device != device);
        self.len.store(places.len(), Ordering::Relaxed);
    }
}

impl Place {
    /// Is something that is free kept for it? Somebody else wants to know, and is told no if so.
    fn keeps(&mut self, now: Timestamp) -> bool {
        now < *self.kept_until.get_or_insert(now + GRACE)
    }
}

/// Nothing under these locks panics half way, so poison means nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
