//! `throttle`: requests and bytes per second stay below bounds, of each device and of groups of devices, with bursts.
//!
//! Each bound is a leaky [bucket] (two, if bursts are allowed); a request goes when every bucket that counts it, of its
//! device and of the device's group, says so, and is taken from all of them then. Who is held is told the instant at which
//! it is his turn, so that nobody polls, and those who share a bound share it evenly (see [pool]).
//!
//! # Parameters
//! [`ThrottleConfig`]: requests (`iops`) and bytes (`bps`) per second, of all requests, of reads, of writes. `max` is the rate
//! of a burst, `max-length` how long one lasts at most. With `iops-size` a request of more bytes counts as several.
//!
//! A flush is free, and passes. A prefetch is a read. A discard and a write-zeroes are each one write without bytes: they
//! carry no data, and a file system may discard a whole disk at once.
//!
//! # Contract
//! - In any time T no more than average · T + bucket goes, where the bucket is what a burst holds above the average,
//!   (max − average) · max-length, 50 ms of the largest rate, and one request. In a burst, no more than max · T + 50 ms of
//!   it + one request.
//! - A request goes however large it is; those behind it wait until it is paid for.
//! - Members of a group that always wait get the same of it. What a member leaves unused the others may have.
//! - Reads and writes of a device hold each other up only for a bound that counts both.
//! - A wake-up that is up to 50 ms late costs nothing of the rate.
//! - New parameters apply at once, to what waits as well. What was saved up and what is owed stays so, as far as the new
//!   buckets go. Where nothing waits, the time since the last request counts at the new rate: as much may be saved up then as
//!   under a policy that was just set.
//! - Devices that share no group share no memory that is written.
//!
//! # References
//! The leaky bucket with a burst of limited length is QEMU's (`docs/throttle.txt`, `util/throttle.c`); here integers take the
//! place of its floating point, and computed instants that of its groups' token and timers. The order of waiting is that of
//! P. Goyal, H. Vin, H. Cheng: "Start-time Fair Queuing" (SIGCOMM 1996).

mod bucket;
mod config;
mod pool;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::bucket::Span;
use self::pool::{Ask, Pool};
use super::devices::Devices;
use super::{Policy, PolicyConfig, PolicyName};
use crate::manager::{DeviceInfo, Head, Manager, Refusal, Verdict, Wait};
use crate::{Class, Timestamp};

pub use config::{Rate, Rates, ThrottleConfig, ThrottleGroup};

/// The policy. Lock order: `control`, a device, its group. Hooks of the data path take the last two only.
#[derive(Debug)]
pub(super) struct Throttle {
    control: Mutex<Control>,
    devices: Devices<Device>,
}

#[derive(Debug)]
struct Control {
    config: ThrottleConfig,
    groups: BTreeMap<String, Arc<Group>>,
}

/// A device, on cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
struct Device {
    id: u32,
    name: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    own: Pool,
    /// Where the last read ends there, and the last write.
    ends: [Span; 2],
    member: Option<Member>,
}

/// A device's part in a group.
#[derive(Debug)]
struct Member {
    group: Arc<Group>,
    /// Where its last request ends there.
    end: Span,
}

#[derive(Debug)]
#[repr(align(128))]
struct Group(Mutex<Pool>);

impl Throttle {
    pub(super) fn new(config: &ThrottleConfig) -> Self {
        Self {
            control: Mutex::new(Control {
                config: config.clone(),
                groups: groups(config, &BTreeMap::new()),
            }),
            devices: Devices::default(),
        }
    }
}

/// The groups of a configuration; those that are there already go on.
fn groups(config: &ThrottleConfig, old: &BTreeMap<String, Arc<Group>>) -> BTreeMap<String, Arc<Group>> {
    let groups = config.groups.iter().map(|(name, group)| {
        let kept = old.get(name).inspect(|old| lock(&old.0).retune(&group.rates));
        let group = kept.map_or_else(|| Arc::new(Group(Mutex::new(Pool::new(&group.rates)))), Arc::clone);
        (name.clone(), group)
    });
    groups.collect()
}

impl Control {
    fn group_of(&self, device: &str) -> Option<&Arc<Group>> {
        let is_in = |group: &ThrottleGroup| group.members.contains(device);
        let (name, _) = self.config.groups.iter().find(|(_, group)| is_in(group))?;
        self.groups.get(name)
    }

    /// A device's own rates.
    fn rates_of(&self, device: &str) -> Rates {
        let named = self.config.devices.get(device).copied();
        named.unwrap_or_else(|| match self.group_of(device) {
            Some(_) => Rates::default(),
            None => self.config.default,
        })
    }
}

impl Manager for Throttle {
    fn name(&self) -> &str {
        PolicyName::Throttle.as_str()
    }

    fn dev_start(&self, device: &DeviceInfo) -> Result<(), Refusal> {
        let control = lock(&self.control);
        let mut state = State {
            own: Pool::new(&control.rates_of(device.name())),
            ends: Default::default(),
            member: None,
        };
        let id = device.id().0;
        state.join(id, control.group_of(device.name()));
        let name = device.name().to_owned();
        let state = Mutex::new(state);
        self.devices.insert(device.id(), Device { id, name, state });
        Ok(())
    }

    fn allow_request(&self, device: &DeviceInfo, head: &Head, now: Timestamp) -> Verdict {
        if head.class == Class::Other {
            return Verdict::Go;
        }
        self.devices
            .with(device.id(), |known| lock(&known.state).ask(device.id().0, head, now))
    }

    fn oo_abort_request(&self, device: &DeviceInfo, head: &Head, _: Timestamp) {
        if head.class != Class::Other {
            self.devices
                .with(device.id(), |known| lock(&known.state).give_back(head));
        }
    }

    fn dev_stop(&self, device: &DeviceInfo) {
        if let Some(gone) = self.devices.remove(device.id()) {
            lock(&gone.state).leave(gone.id);
        }
    }
}

impl Policy for Throttle {
    fn config(&self) -> PolicyConfig {
        PolicyConfig::Throttle(Box::new(lock(&self.control).config.clone()))
    }

    fn reconfigure(&self, config: &PolicyConfig) -> bool {
        let PolicyConfig::Throttle(config) = config else {
            return false;
        };
        let mut control = lock(&self.control);
        control.groups = groups(config, &control.groups);
        control.config = ThrottleConfig::clone(config);
        for device in self.devices.all() {
            let mut state = lock(&device.state);
            state.own.retune(&control.rates_of(&device.name));
            state.join(device.id, control.group_of(&device.name));
        }
        true
    }
}

impl State {
    /// Becomes a member of the group, or of none.
    fn join(&mut self, device: u32, group: Option<&Arc<Group>>) {
        let stays = |member: &Member| group.is_some_and(|group| Arc::ptr_eq(&member.group, group));
        if self.member.as_ref().is_some_and(stays) {
            return;
        }
        self.leave(device);
        self.member = group.map(|group| Member {
            group: Arc::clone(group),
            end: Span::default(),
        });
    }

    /// Is a member of no group any more.
    fn leave(&mut self, device: u32) {
        if let Some(member) = self.member.take() {
            lock(&member.group.0).forget(device);
        }
    }

    #[inline]
    fn ask(&mut self, device: u32, head: &Head, now: Timestamp) -> Verdict {
        let flow = direction(head);
        let end = &mut self.ends[flow];
        let own = Ask {
            flow: u32::from(flow == 1),
            head,
            now,
        };
        let held = self.own.look(&own, end);
        if let Some(Member { group, end }) = &mut self.member {
            let shared = Ask { flow: device, ..own };
            let mut group = lock(&group.0);
            if held.is_some() {
                group.step_aside(&shared);
            } else if let Some(due) = group.look(&shared, end) {
                self.own.step_aside(&own);
                return Verdict::No(Wait::Until(due));
            } else {
                group.take(&shared, end);
            }
        }
        match held {
            Some(due) => Verdict::No(Wait::Until(due)),
            None => {
                self.own.take(&own, end);
                Verdict::Go
            }
        }
    }

    fn give_back(&mut self, head: &Head) {
        self.own.give_back(head, &mut self.ends[direction(head)]);
        if let Some(Member { group, end }) = &mut self.member {
            lock(&group.0).give_back(head, end);
        }
    }
}

/// 0 for a read, 1 for a write.
fn direction(head: &Head) -> usize {
    usize::from(head.class == Class::Write)
}

/// Nothing under these locks panics half way, so poison means nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
