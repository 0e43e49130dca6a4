//! `deadline`: reads go first, writes are not starved, and nothing waits much longer than its time.
//!
//! Devices compete for the places of one depth. While there are fewer requests in flight than that, everything goes at
//! once. When there is a choice, requests go in batches of one direction, and in a batch the oldest of all devices goes
//! first:
//!
//! ```text
//!  the batch is not full, and its direction has a request ─yes─► go on with it
//!    │ no
//!    ▼
//!  a request's time is over ─yes─► a batch of its direction (of several, that of the one whose time was over first)
//!    │ no
//!    ▼
//!  there are reads, and `writes-starved` batches of them did not pass waiting writes yet ─yes─► a batch of reads
//!    │ no
//!    ▼
//!  a batch of writes
//! ```
//!
//! What can be chosen is the head of each class of each device that was told no and is awake, since something was freed
//! meanwhile, and whoever asks now. One that sleeps is not waited for.
//!
//! # Parameters
//! - `read-expire-ms`, `write-expire-ms`: milliseconds that a request should wait at most, from its arrival.
//! - `fifo-batch`: requests of one direction in a row, from 1.
//! - `writes-starved`: batches of reads that may pass waiting writes, from 1.
//! - `depth`: requests in flight on all devices together, from 1.
//!
//! # Contract
//! - With a load that is feasible (what has arrived can be served within its time, in the order of its ends), nothing waits
//!   longer than its time and one batch.
//! - Reads and writes in flight never exceed `depth`; flushes always go, and are not counted.
//! - A place is kept for somebody who is awake until something else is freed, and for a millisecond at most; if its frontend
//!   is busy or gone, it is not waited for any more until it asks. Places stay empty for that long where many requests end
//!   at one instant and fewer than that go first.
//! - "No, until a free" is only said when `depth` requests are in flight, so a free will come.
//!
//! # Cancellation
//! What is given back frees its place; the batch that it was counted in stays as it is.
//!
//! # References
//! block/mq-deadline.c (Linux), without its sectors: a manager sees heads only, so within a batch the oldest goes first, where
//! Linux goes by sector until a request's time is over.

mod config;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::grace::{Expected, Guard, Told};
use super::per_device::PerDevice;
use super::{Policy, PolicyConfig, PolicyName};
use crate::manager::{DeviceId, DeviceInfo, Head, Manager, Refusal, Verdict, Wait};
use crate::{Class, Timestamp};

pub use config::DeadlineConfig;

/// See the [module's page](self).
#[derive(Debug)]
pub(super) struct Deadline(Mutex<Order>);

/// Who goes next.
#[derive(Debug)]
struct Order {
    config: DeadlineConfig,
    devices: PerDevice<Device>,
    /// Reads and writes granted and not freed.
    in_flight: u32,
    /// Requests freed or given back: each wakes all who were told no before.
    freed: u64,
    guard: Guard,
    batch: Batch,
    /// Batches of reads that passed waiting writes, since the last write.
    starved: u32,
}

/// The current batch.
#[derive(Clone, Copy, Debug)]
struct Batch {
    direction: Direction,
    /// How many more may go.
    left: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Read,
    Write,
}

#[derive(Debug, Default)]
struct Device {
    in_flight: u32,
    /// The heads that were told no, by direction; the older one where several queues have one.
    held: [Option<Held>; 2],
}

/// A head that was told no, and was not granted since.
#[derive(Clone, Copy, Debug)]
struct Held {
    arrival: Timestamp,
    told: Told,
}

/// The oldest of each direction that may go now, and since when they are waited for.
type Choice = [Option<Candidate>; 2];

#[derive(Clone, Copy, Debug)]
struct Candidate {
    arrival: Timestamp,
    /// Until when it is waited for; `None` is who asks.
    until: Option<Timestamp>,
}

impl Deadline {
    pub(super) fn new(config: DeadlineConfig) -> Self {
        Self(Mutex::new(Order::new(config)))
    }

    /// No hook leaves the order half changed, so poison means nothing.
    fn lock(&self) -> MutexGuard<'_, Order> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Policy for Deadline {
    fn config(&self) -> PolicyConfig {
        PolicyConfig::Deadline(self.lock().config.clone())
    }

    fn reconfigure(&self, config: &PolicyConfig) -> bool {
        match config {
            PolicyConfig::Deadline(config) => self.lock().config = config.clone(),
            _ => return false,
        }
        true
    }
}

impl Manager for Deadline {
    fn name(&self) -> &str {
        PolicyName::Deadline.as_str()
    }

    fn dev_start(&self, device: &DeviceInfo) -> Result<(), Refusal> {
        self.lock().devices.insert(device.id(), Device::default());
        Ok(())
    }

    fn allow_request(&self, device: &DeviceInfo, head: &Head, now: Timestamp) -> Verdict {
        match Direction::of(head) {
            Some(direction) => self.lock().ask(device.id(), direction, head, now),
            None => Verdict::Go,
        }
    }

    fn oo_abort_request(&self, device: &DeviceInfo, head: &Head, now: Timestamp) {
        self.free_request(device, head, now);
    }

    fn free_request(&self, device: &DeviceInfo, head: &Head, _: Timestamp) {
        self.lock().free(device.id(), Direction::of(head).is_some());
    }

    fn dev_stop(&self, device: &DeviceInfo) {
        let mut order = self.lock();
        let gone = order.devices.remove(device.id());
        order.in_flight -= gone.map_or(0, |device| device.in_flight);
    }
}

impl Order {
    fn new(config: DeadlineConfig) -> Self {
        Self {
            config,
            devices: PerDevice::default(),
            in_flight: 0,
            freed: 0,
            guard: Guard::default(),
            batch: Batch {
                direction: Direction::Read,
                left: 0,
            },
            starved: 0,
        }
    }

    /// May this head go?
    fn ask(&mut self, id: DeviceId, direction: Direction, head: &Head, now: Timestamp) -> Verdict {
        let wait = match self.in_flight >= self.config.depth {
            true => Some(Wait::Freed),
            false => self.behind_another(id, direction, head, now),
        };
        let (arrival, freed) = (head.arrival, self.freed);
        let device = self.devices.of(id);
        let held = &mut device.held[direction as usize];
        if let Some(wait) = wait {
            let told = Told::new(wait, freed);
            if held.is_none_or(|held| held.arrival >= arrival) {
                *held = Some(Held { arrival, told });
            }
            return Verdict::No(wait);
        }
        held.take_if(|held| held.arrival == arrival);
        device.in_flight += 1;
        self.in_flight += 1;
        self.count(direction);
        Verdict::Go
    }

    fn free(&mut self, id: DeviceId, is_counted: bool) {
        self.freed += 1;
        self.devices.of(id).in_flight -= u32::from(is_counted);
        self.in_flight -= u32::from(is_counted);
    }

    /// What this head waits for, if another one goes before it.
    fn behind_another(&mut self, id: DeviceId, direction: Direction, head: &Head, now: Timestamp) -> Option<Wait> {
        let arrival = head.arrival;
        let me = Candidate { arrival, until: None };
        let mut choice = self.candidates(now);
        let mine = &mut choice[direction as usize];
        *mine = mine.filter(|other| other.arrival < arrival).or(Some(me));
        let next = self.next_direction(&choice, now);
        let until = choice[next as usize]?.until?;
        Some(self.guard.wait(id, head, self.freed, until))
    }

    /// The oldest of each direction among those who are awake.
    fn candidates(&mut self, now: Timestamp) -> Choice {
        let freed = self.freed;
        let mut choice = Choice::default();
        for device in self.devices.iter_mut() {
            for (held, best) in device.held.iter_mut().zip(&mut choice) {
                let Some(Held { arrival, told }) = held else {
                    continue;
                };
                let arrival = *arrival;
                match told.expected(freed, now) {
                    Expected::Until(until) if best.is_none_or(|best: Candidate| arrival < best.arrival) => {
                        let until = Some(until);
                        *best = Some(Candidate { arrival, until });
                    }
                    Expected::Until(_) | Expected::Asleep => {}
                    Expected::Gone => *held = None,
                }
            }
        }
        choice
    }

    /// The direction of the next request, one of those that there are.
    fn next_direction(&self, choice: &Choice, now: Timestamp) -> Direction {
        let has = |direction: Direction| choice[direction as usize].is_some();
        if self.batch.left > 0 && has(self.batch.direction) {
            return self.batch.direction;
        }
        let ends = Direction::ALL.into_iter().filter_map(|direction| {
            let candidate = choice[direction as usize]?;
            Some((candidate.arrival + self.expire(direction), direction))
        });
        if let Some((_, direction)) = ends.filter(|(end, _)| *end <= now).min_by_key(|(end, _)| *end) {
            return direction;
        }
        match has(Direction::Read) && !(has(Direction::Write) && self.starved >= self.config.writes_starved) {
            true => Direction::Read,
            false => Direction::Write,
        }
    }

    /// A request of this direction goes: is it of the batch, or the first of another?
    fn count(&mut self, direction: Direction) {
        if self.batch.direction == direction && self.batch.left > 0 {
            self.batch.left -= 1;
            return;
        }
        let left = self.config.fifo_batch - 1;
        self.batch = Batch { direction, left };
        let writes_wait = || {
            self.devices
                .iter()
                .any(|device| device.held[Direction::Write as usize].is_some())
        };
        self.starved = match direction {
            Direction::Read if writes_wait() => self.starved + 1,
            _ => 0,
        };
    }

    fn expire(&self, direction: Direction) -> Duration {
        let ms = match direction {
            Direction::Read => self.config.read_expire_ms,
            Direction::Write => self.config.write_expire_ms,
        };
        Duration::from_millis(ms.into())
    }
}

impl Direction {
    const ALL: [Self; 2] = [Self::Read, Self::Write];

    /// A flush has none.
    fn of(head: &Head) -> Option<Self> {
        match head.class {
            Class::Read => Some(Self::Read),
            Class::Write => Some(Self::Write),
            Class::Other => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;
    use crate::{Operation, SectorRange};

    fn ms(ms: u64) -> Timestamp {
        Timestamp::from_nanos(ms * 1_000_000)
    }

    fn ask(order: &mut Order, device: u32, direction: Direction, arrival: Timestamp, now: Timestamp) -> Verdict {
        let op = match direction {
            Direction::Read => Operation::Read,
            Direction::Write => Operation::Write,
        };
        let head = Head::new(op, SectorRange::default(), arrival);
        order.ask(DeviceId(device), direction, &head, now)
    }

    fn order(devices: u32, config: DeadlineConfig) -> Order {
        let mut order = Order::new(config);
        (0..devices).for_each(|n| order.devices.insert(DeviceId(n), Device::default()));
        order
    }

    #[test]
    fn a_place_is_kept_for_who_goes_before_and_not_for_ever() {
        let config = DeadlineConfig {
            depth: 1,
            fifo_batch: 1,
            ..DeadlineConfig::default()
        };
        let (mut order, read, write) = (order(2, config), Direction::Read, Direction::Write);
        assert_eq!(ask(&mut order, 0, write, ms(1), ms(1)), Verdict::Go);
        assert_eq!(ask(&mut order, 1, read, ms(2), ms(2)), Verdict::No(Wait::Freed));
        order.free(DeviceId(0), true);
        let kept = Verdict::No(Wait::FreedOr(ms(4)));
        assert_eq!(
            ask(&mut order, 0, write, ms(1), ms(3)),
            kept,
            "it is a read's turn, which is awake"
        );
        assert_eq!(ask(&mut order, 0, write, ms(1), ms(4)), Verdict::Go);
    }

    #[test]
    fn who_sleeps_is_not_waited_for() {
        let (mut order, read, write) = (order(2, DeadlineConfig::default()), Direction::Read, Direction::Write);
        order.config.depth = 0;
        assert_eq!(ask(&mut order, 1, read, ms(2), ms(2)), Verdict::No(Wait::Freed));
        order.config.depth = 1;
        assert_eq!(ask(&mut order, 0, write, ms(1), ms(3)), Verdict::Go);
    }

    /// What there is to choose from, and the rules of the page above, without devices that come and go.
    #[derive(Default)]
    struct Naive {
        queues: Vec<[VecDeque<Timestamp>; 2]>,
        batch: Option<(usize, u32)>,
        starved: u32,
    }

    impl Naive {
        fn oldest(&self, direction: usize) -> Option<(Timestamp, usize)> {
            let heads = self.queues.iter().enumerate();
            heads
                .filter_map(|(device, queues)| Some((*queues[direction].front()?, device)))
                .min()
        }

        /// Takes the next one out; `None` if there is none.
        fn next(&mut self, config: &DeadlineConfig, now: Timestamp) -> Option<(usize, usize)> {
            let heads = [self.oldest(0), self.oldest(1)];
            heads[0].or(heads[1])?;
            let expire = [config.read_expire_ms, config.write_expire_ms].map(|ms| Duration::from_millis(ms.into()));
            let end = |direction: usize| heads[direction].map(|(arrival, _)| arrival + expire[direction]);
            let late = [0, 1]
                .into_iter()
                .filter(|direction| end(*direction).is_some_and(|end| end <= now));
            let direction = match (self.batch, late.min_by_key(|direction| end(*direction))) {
                (Some((direction, left)), _) if left > 0 && heads[direction].is_some() => {
                    self.batch = Some((direction, left - 1));
                    direction
                }
                (_, late) => {
                    let may_read = heads[0].is_some() && (heads[1].is_none() || self.starved < config.writes_starved);
                    let direction = late.unwrap_or(usize::from(!may_read));
                    self.batch = Some((direction, config.fifo_batch - 1));
                    self.starved = if direction == 0 && heads[1].is_some() {
                        self.starved + 1
                    } else {
                        0
                    };
                    direction
                }
            };
            let device = heads[direction]?.1;
            self.queues[device][direction].pop_front();
            Some((device, direction))
        }
    }

    /// Requests that arrive before the next is freed (whose, and is it a write), the time that takes, and who asks first.
    type Step = (Vec<(usize, bool)>, u64, usize);

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let arrivals = prop::collection::vec((0..3usize, any::<bool>()), 0..4);
        prop::collection::vec((arrivals, 0..30u64, 0..6usize), 1..300)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

        /// With one place, and all heads known, the one that goes is the one that the rules name, whoever asks first.
        #[test]
        fn the_next_one_is_that_of_the_rules(steps in steps(), fifo_batch in 1..6u32, writes_starved in 1..4u32) {
            let config = DeadlineConfig { read_expire_ms: 50, write_expire_ms: 150, fifo_batch, writes_starved, depth: 1 };
            let mut order = order(3, config.clone());
            let mut naive = Naive { queues: vec![Default::default(); 3], ..Naive::default() };
            let (mut now, mut arrivals) = (ms(1000), 0);
            for (arrived, later, first) in steps {
                for (device, is_write) in arrived {
                    arrivals += 1;
                    naive.queues[device][usize::from(is_write)].push_back(now + Duration::from_nanos(arrivals));
                }
                order.in_flight = 1;
                order.devices.of(DeviceId(0)).in_flight = 1;
                let heads = (0..6usize).map(|n| ((n + first) % 3, (n + first) % 6 / 3));
                let heads: Vec<_> = heads
                    .filter_map(|(device, direction)| Some((device, direction, *naive.queues[device][direction].front()?)))
                    .collect();
                let ask_one = |order: &mut Order, (device, direction, arrival)| {
                    ask(order, u32::try_from(device).unwrap(), Direction::ALL[direction], arrival, now)
                };
                for head in &heads {
                    prop_assert_eq!(ask_one(&mut order, *head), Verdict::No(Wait::Freed));
                }
                order.free(DeviceId(0), true);
                let went = heads.iter().filter(|head| ask_one(&mut order, **head) == Verdict::Go);
                let went: Vec<_> = went.map(|(device, direction, _)| (*device, *direction)).collect();
                prop_assert_eq!(went, Vec::from_iter(naive.next(&config, now)));
                order.devices.iter_mut().for_each(|device| device.in_flight = 0);
                now = now + Duration::from_millis(later);
            }
        }
    }
}
