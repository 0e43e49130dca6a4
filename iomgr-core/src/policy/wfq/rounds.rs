//! The rounds: who may spend how much, and when the next one begins.

use super::super::grace::{Expected, Guard, Told};
use super::super::per_device::PerDevice;
use crate::manager::{DeviceId, Head, Verdict, Wait};
use crate::policy::WfqConfig;
use crate::{Class, Operation, Timestamp};

/// Fractions of the unit of cost in which accounts are kept, so that the smallest weight beside the largest has a quantum.
const FRACTIONS: i64 = 1 << 14;
/// More than any request costs, and far enough from overflow.
const CHARGE_MAX: i64 = 1 << 60;
/// What a quantum is measured by: a request of so many sectors.
const NOMINAL_SECTORS: i64 = 8;
const SECTORS_PER_KIB: i64 = 2;

/// What flushes cost at most between two other requests of a device, in quanta, and as many of them as count in any case.
const FLUSH_QUANTA: i64 = 4;
const FLUSHES: i64 = 16;
/// Quanta that a device finds when it comes back from where nobody heard of it.
const CATCH_UP: i64 = 4;

/// All devices' accounts.
#[derive(Debug)]
pub(super) struct Rounds {
    config: WfqConfig,
    devices: PerDevice<Account>,
    /// Of any device that is started.
    weight_max: u16,
    /// Reads and writes granted and not freed.
    in_flight: u32,
    /// Rounds begun, and one: an account's 0 is before all of them.
    round: u64,
    /// Requests freed or given back: each wakes all who were told no before.
    freed: u64,
    guard: Guard,
}

/// One device's.
#[derive(Debug)]
struct Account {
    name: String,
    weight: u16,
    in_flight: u32,
    /// What is left of its quantum, in fractions; below zero it is owed.
    left: i64,
    /// Requests granted on credit since it had something left.
    on_credit: u32,
    /// What was charged for flushes since another request of it was granted.
    flushed: i64,
    /// The classes that were told no and got no grant since: it has a backlog if there are any.
    held: u8,
    /// The round in which it asked last.
    asked: u64,
    /// When it was told no last.
    told: Told,
    /// It had a backlog, and was not heard of for longer than the others wait.
    is_absent: bool,
}

/// Whom a device that has nothing left finds before it.
enum Ahead {
    /// Somebody who was woken and is yet to ask, at the latest at this instant.
    Awake(Timestamp),
    /// Somebody who sleeps until something is freed, or until a while has passed.
    Asleep,
    Nobody,
}

impl Rounds {
    pub(super) fn new(config: WfqConfig) -> Self {
        Self {
            config,
            devices: PerDevice::default(),
            weight_max: 1,
            in_flight: 0,
            round: 1,
            freed: 0,
            guard: Guard::default(),
        }
    }

    pub(super) fn config(&self) -> &WfqConfig {
        &self.config
    }

    pub(super) fn reconfigure(&mut self, config: WfqConfig) {
        self.config = config;
        for account in self.devices.iter_mut() {
            account.weight = weight(&self.config, &account.name);
        }
        self.find_weight_max();
        let unit = self.unit();
        for account in self.devices.iter_mut() {
            account.left = account.left.min(account.quantum(unit).saturating_mul(2));
        }
    }

    pub(super) fn start(&mut self, id: DeviceId, name: &str) {
        let account = Account {
            name: name.to_owned(),
            weight: weight(&self.config, name),
            in_flight: 0,
            left: 0,
            on_credit: 0,
            flushed: 0,
            held: 0,
            asked: 0,
            told: Told::default(),
            is_absent: false,
        };
        self.devices.insert(id, account);
        self.find_weight_max();
    }

    pub(super) fn stop(&mut self, id: DeviceId) {
        let gone = self.devices.remove(id);
        self.in_flight -= gone.map_or(0, |account| account.in_flight);
        self.find_weight_max();
    }

    /// May this request go?
    pub(super) fn ask(&mut self, id: DeviceId, head: &Head, now: Timestamp) -> Verdict {
        let (charge, freed) = (self.charge(head), self.freed);
        if is_flush(head) {
            let unit = self.unit();
            self.devices.of(id).spend_for_flush(charge, unit);
            return Verdict::Go;
        }
        let account = self.devices.of(id);
        let wait = match self.in_flight >= self.config.depth {
            true => Some(Wait::Freed),
            false if account.left > 0 => None,
            false => self.ahead_of(id, head, now),
        };
        let account = self.devices.of(id);
        account.asked = self.round;
        account.is_absent = false;
        let class = class_bit(head);
        if let Some(wait) = wait {
            account.held |= class;
            account.told = Told::new(wait, freed);
            return Verdict::No(wait);
        }
        account.held &= !class;
        account.flushed = 0;
        account.on_credit = match account.left > 0 {
            true => 0,
            false => account.on_credit.saturating_add(1),
        };
        account.spend(charge);
        account.in_flight += 1;
        self.in_flight += 1;
        Verdict::Go
    }

    /// What was granted did not start.
    pub(super) fn give_back(&mut self, id: DeviceId, head: &Head) {
        let charge = self.charge(head);
        let account = self.devices.of(id);
        match is_flush(head) {
            true => account.take_flush_back(charge),
            false => account.spend(-charge),
        }
        self.free(id, head);
    }

    pub(super) fn free(&mut self, id: DeviceId, head: &Head) {
        self.freed += 1;
        if !is_flush(head) {
            self.devices.of(id).in_flight -= 1;
            self.in_flight -= 1;
        }
    }

    /// What a device with nothing left waits for, if it waits: new rounds begin until somebody has something left.
    fn ahead_of(&mut self, id: DeviceId, head: &Head, now: Timestamp) -> Option<Wait> {
        self.devices.of(id).held |= class_bit(head);
        if let Ahead::Nobody = self.ahead(id, now) {
            self.turn();
        }
        if self.devices.of(id).left > 0 {
            return None;
        }
        match self.ahead(id, now) {
            Ahead::Awake(until) => Some(self.guard.wait(id, head, self.freed, until)),
            Ahead::Asleep | Ahead::Nobody => None,
        }
    }

    /// Who has a backlog and something left, besides this device? One who kept silent for too long has no backlog. Past who
    /// sleeps a device has credit for no more requests than are in flight together: the order in which devices ask may be
    /// such that the same one sleeps whenever there are places.
    fn ahead(&mut self, id: DeviceId, now: Timestamp) -> Ahead {
        let freed = self.freed;
        let has_credit = self.devices.of(id).on_credit < self.config.depth;
        let mut ahead = Ahead::Nobody;
        for other in self
            .devices
            .others(id)
            .filter(|other| other.held != 0 && other.left > 0)
        {
            let expected = match has_credit {
                true => other.told.expected(freed, now),
                false => other.told.expected_by_itself(freed, now),
            };
            match (expected, &ahead) {
                (Expected::Until(until), _) => ahead = Ahead::Awake(until),
                (Expected::Asleep, Ahead::Nobody) => ahead = Ahead::Asleep,
                (Expected::Asleep, _) => {}
                (Expected::Gone, _) => {
                    other.held = 0;
                    other.is_absent = true;
                }
            }
        }
        ahead
    }

    /// Begins as many rounds as it takes until a device with a backlog has something left. Who asked in the last one, and
    /// is perhaps between two requests, keeps what it has left of it; who did not has nothing to keep, unless it is absent.
    fn turn(&mut self) {
        let (unit, round) = (self.unit(), self.round);
        let backlogged = self.devices.iter().filter(|account| account.held != 0);
        let rounds = backlogged.map(|account| account.rounds_owed(unit)).min().unwrap_or(1);
        for account in self.devices.iter_mut() {
            let quantum = account.quantum(unit);
            let more = quantum.saturating_mul(rounds);
            let takes_part = account.held != 0 || account.asked == round;
            account.left = match (takes_part, account.is_absent) {
                (true, _) => account.left.min(quantum).saturating_add(more),
                (false, true) => account.left.saturating_add(more).min(quantum.saturating_mul(CATCH_UP)),
                (false, false) => account.left.saturating_add(more).min(0),
            };
        }
        self.round += 1;
    }

    /// What one of weight 1 may spend in a round, in fractions.
    fn unit(&self) -> i64 {
        let nominal = i64::from(self.config.cost_base)
            + i64::from(self.config.cost_per_kib) * (NOMINAL_SECTORS / SECTORS_PER_KIB);
        let depth = i64::from(self.config.depth.min(1024));
        (nominal * depth * FRACTIONS / i64::from(self.weight_max)).max(1)
    }

    fn charge(&self, head: &Head) -> i64 {
        let sectors = match head.op {
            Operation::Read | Operation::Write | Operation::Prefetch => head.range.count().0,
            Operation::Flush | Operation::Discard | Operation::WriteZeroes => 0,
        };
        let sectors = i64::try_from(sectors).unwrap_or(i64::MAX);
        let moved = (i64::from(self.config.cost_per_kib) * (FRACTIONS / SECTORS_PER_KIB)).saturating_mul(sectors);
        moved
            .saturating_add(i64::from(self.config.cost_base) * FRACTIONS)
            .min(CHARGE_MAX)
    }

    fn find_weight_max(&mut self) {
        self.weight_max = self.devices.iter().map(|account| account.weight).max().unwrap_or(1);
    }
}

impl Account {
    fn spend(&mut self, charge: i64) {
        self.left = self.left.saturating_sub(charge);
    }

    /// It may flush for hours while nobody else has a backlog, and so no round begins; that must not starve it later.
    fn spend_for_flush(&mut self, charge: i64, unit: i64) {
        let most = self
            .quantum(unit)
            .saturating_mul(FLUSH_QUANTA)
            .max(charge.saturating_mul(FLUSHES));
        let counted = charge.min(most.saturating_sub(self.flushed).max(0));
        self.flushed = self.flushed.saturating_add(counted);
        self.spend(counted);
    }

    fn take_flush_back(&mut self, charge: i64) {
        let counted = charge.min(self.flushed);
        self.flushed -= counted;
        self.spend(-counted);
    }

    fn quantum(&self, unit: i64) -> i64 {
        unit.saturating_mul(i64::from(self.weight))
    }

    /// The fewest rounds after which something is left.
    fn rounds_owed(&self, unit: i64) -> i64 {
        (self.left.min(0).saturating_neg() / self.quantum(unit)).saturating_add(1)
    }
}

fn weight(config: &WfqConfig, name: &str) -> u16 {
    config.weights.get(name).copied().unwrap_or(config.default_weight)
}

fn is_flush(head: &Head) -> bool {
    head.class == Class::Other
}

fn class_bit(head: &Head) -> u8 {
    1 << head.class.index()
}
