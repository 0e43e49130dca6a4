//! A manager for tests: counts every hook, and checks that they are called as the contract says (S0-1, S0-2).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, PoisonError};

use super::{DeviceId, DeviceInfo, Head, Manager, Refusal, Verdict, Wait};
use crate::Timestamp;
use crate::shim::{Mutex, MutexGuard};

/// Counts, checks, and says what it was told to say.
///
/// It writes down each call that breaks the contract: a hook for a device that was not started, an `alloc` or `oo_abort`
/// without a grant, a `free` without an `alloc`, a `dev_stop` while something is still out.
pub struct CountingManager {
    name: String,
    policy: Policy,
    state: Mutex<State>,
}

type Policy = Box<dyn Fn(&Ask) -> Verdict + Send + Sync>;

/// What a test's policy is asked.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// Which device.
    pub device: DeviceId,
    /// The request.
    pub head: Head,
    /// The time.
    pub now: Timestamp,
    /// Grants and started requests that are out, over all devices.
    pub in_flight: u64,
}

/// How often each hook was called, and what is out now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// `dev_start`.
    pub starts: u64,
    /// `dev_stop`.
    pub stops: u64,
    /// `waiting_request`.
    pub looks: u64,
    /// `allow_request`, answered with go.
    pub grants: u64,
    /// `allow_request`, answered with no.
    pub ngs: u64,
    /// `alloc_request`.
    pub allocs: u64,
    /// `oo_abort_request`.
    pub aborts: u64,
    /// `free_request`.
    pub frees: u64,
    /// Granted, and neither started nor given back.
    pub granted: u64,
    /// Started and not ended.
    pub pending: u64,
}

#[derive(Debug, Default)]
struct State {
    seen: Seen,
    devices: BTreeMap<DeviceId, Out>,
    refused: Option<String>,
    violations: Vec<String>,
}

/// What is out for one device that was started.
#[derive(Debug, Default)]
struct Out {
    granted: u64,
    pending: u64,
}

impl CountingManager {
    /// A manager that always says go.
    pub fn new(name: &str) -> Arc<Self> {
        Self::with_policy(name, |_| Verdict::Go)
    }

    /// A manager that lets `max` requests be out at a time, over all devices, and holds the rest until one is freed.
    pub fn with_limit(name: &str, max: u64) -> Arc<Self> {
        Self::with_policy(name, move |ask| match ask.in_flight < max {
            true => Verdict::Go,
            false => Verdict::No(Wait::Freed),
        })
    }

    /// A manager that says what `policy` says. It is called under the manager's lock.
    pub fn with_policy(name: &str, policy: impl Fn(&Ask) -> Verdict + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            policy: Box::new(policy),
            state: Mutex::default(),
        })
    }

    /// Refuses the device of this name from now on.
    pub fn refuse(&self, device: &str) {
        self.lock().refused = Some(device.to_owned());
    }

    /// What was called so far.
    pub fn seen(&self) -> Seen {
        self.lock().seen
    }

    /// Each call that broke the contract, in words.
    pub fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }

    /// Checks that the contract was kept and nothing is out.
    ///
    /// # Panics
    /// If not.
    pub fn assert_quiet(&self) {
        let state = self.lock();
        assert!(state.violations.is_empty(), "{}: {:#?}", self.name, state.violations);
        let Seen { granted, pending, .. } = state.seen;
        assert_eq!(
            (granted, pending),
            (0, 0),
            "{}: granted and pending, in {:?}",
            self.name,
            state.seen
        );
    }

    /// As [`assert_quiet`](Self::assert_quiet), and every device was stopped.
    ///
    /// # Panics
    /// If not.
    pub fn assert_over(&self) {
        self.assert_quiet();
        let state = self.lock();
        assert!(
            state.devices.is_empty(),
            "{}: not stopped: {:?}",
            self.name,
            state.devices
        );
        assert_eq!(state.seen.starts, state.seen.stops, "{}: starts and stops", self.name);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Changes what is out for `device`; `change` says whether it could be.
    fn step(&mut self, hook: &str, device: &DeviceInfo, change: impl FnOnce(&mut Out) -> Option<()>) {
        let done = self.devices.get_mut(&device.id()).map(change);
        let wrong = match done {
            Some(Some(())) => None,
            Some(None) => Some("nothing to do it to"),
            None => Some("the device was not started"),
        };
        self.violations
            .extend(wrong.map(|wrong| format!("{hook} for {}: {wrong}", device.name())));
        self.seen.granted = self.devices.values().map(|out| out.granted).sum();
        self.seen.pending = self.devices.values().map(|out| out.pending).sum();
    }
}

fn take_one(count: &mut u64) -> Option<()> {
    *count = count.checked_sub(1)?;
    Some(())
}

impl Manager for CountingManager {
    fn name(&self) -> &str {
        &self.name
    }

    fn dev_start(&self, device: &DeviceInfo) -> Result<(), Refusal> {
        let mut state = self.lock();
        if state.refused.as_deref() == Some(device.name()) {
            return Err(Refusal::new("told to refuse it"));
        }
        state.seen.starts += 1;
        if state.devices.insert(device.id(), Out::default()).is_some() {
            state
                .violations
                .push(format!("dev_start for {}: it was started before", device.name()));
        }
        Ok(())
    }

    fn waiting_request(&self, device: &DeviceInfo, _: Timestamp) -> Verdict {
        let mut state = self.lock();
        state.seen.looks += 1;
        state.step("waiting_request", device, |_| Some(()));
        Verdict::Go
    }

    fn allow_request(&self, device: &DeviceInfo, head: &Head, now: Timestamp) -> Verdict {
        let mut state = self.lock();
        let in_flight = state.seen.granted + state.seen.pending;
        let verdict = (self.policy)(&Ask {
            device: device.id(),
            head: *head,
            now,
            in_flight,
        });
        let go = u64::from(verdict == Verdict::Go);
        state.seen.grants += go;
        state.seen.ngs += 1 - go;
        state.step("allow_request", device, |out| {
            out.granted += go;
            Some(())
        });
        verdict
    }

    fn alloc_request(&self, device: &DeviceInfo, _: &Head, _: Timestamp) {
        let mut state = self.lock();
        state.seen.allocs += 1;
        state.step("alloc_request", device, |out| {
            take_one(&mut out.granted)?;
            out.pending += 1;
            Some(())
        });
    }

    fn oo_abort_request(&self, device: &DeviceInfo, _: &Head, _: Timestamp) {
        let mut state = self.lock();
        state.seen.aborts += 1;
        state.step("oo_abort_request", device, |out| take_one(&mut out.granted));
    }

    fn free_request(&self, device: &DeviceInfo, _: &Head, _: Timestamp) {
        let mut state = self.lock();
        state.seen.frees += 1;
        state.step("free_request", device, |out| take_one(&mut out.pending));
    }

    fn dev_stop(&self, device: &DeviceInfo) {
        let mut state = self.lock();
        state.seen.stops += 1;
        state.step("dev_stop", device, |out| {
            (out.granted == 0 && out.pending == 0).then_some(())
        });
        state.devices.remove(&device.id());
    }
}

impl fmt::Debug for CountingManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CountingManager")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
