//! `latency`: protected devices keep their latency; when it is too high, the others get less depth.
//!
//! Time is cut into windows. At the end of each, the latency that 99 of 100 requests of a protected device did not exceed
//! (of several devices, the worst) decides about the depth that each of the others has:
//!
//! ```text
//!  depth ▲ max ────────╮                                   ╭────── max
//!        │             │ x target/p99,                  ╭──╯
//!        │             ╰──╮ an eighth at least       ╭──╯ + step, + 2 steps, + 3 steps …
//!        │  min            ╰──╮  ╭──────────────╮╭───╯
//!        └─────────────────────────────────────────────────────────────► windows
//!                      above target   held: near it     below target, or nobody to protect
//! ```
//!
//! Above the target the depth shrinks in proportion, for what a request waits for grows with what was let go before it.
//! Below three quarters of it the depth grows, by more from window to window, so that it is back soon whatever it fell to; but
//! while it holds somebody up by three tenths at most, so that what is well does not get bad in one window. In between it stays,
//! unless it holds nobody up. Where the others did nothing, or nothing of a protected device ended and
//! nothing of it is late, there is nothing to protect: the depth grows.
//!
//! # Parameters
//! - `protect`: names of devices.
//! - `target-us`: microseconds, from 1. Counted from a read's or write's arrival to its end; flushes are not counted, for they
//!   take as long as what they flush.
//! - `window-ms`: milliseconds, from 10. There should be some dozens of protected requests in a window.
//! - `min-depth`, `max-depth`: reads and writes in flight that each of the others has at least, and at most.
//!
//! # Contract
//! - Protected devices, and flushes, always go.
//! - When another device makes a protected one miss its target, it is met again within five windows, if it can be met with
//!   `min-depth`; when that device leaves, depth is back at `max-depth` within two seconds (and two windows, if that is
//!   longer), or within twenty windows if others want it.
//! - No timer: windows end when a hook is called after their time. Several that ended meanwhile end together.
//! - "No, until a free" is only said to a device that has `min-depth` requests in flight itself.
//! - Nothing is allocated but when a device is started, or parameters change.
//!
//! # Cancellation
//! What is given back has no latency.
//!
//! # References
//! block/blk-iolatency.c and block/kyber-iosched.c (Linux): targets, windows, and depth as what is given and taken; additive
//! increase and multiplicative decrease are Jacobson's and Chiu's (1988, 1989).

mod config;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

use super::per_device::PerDevice;
use super::{Policy, PolicyConfig, PolicyName};
use crate::manager::{DeviceId, DeviceInfo, Head, Manager, Refusal, Verdict, Wait};
use crate::{Class, Timestamp};

pub use config::LatencyConfig;

/// How long it may take to grow from `min-depth` to `max-depth`, so that it is done in two seconds.
const RECOVERY_MS: u32 = 1500;
/// Windows that are looked at one by one when no hook was called for longer: the depth is back by then.
const SILENT_WINDOWS_MAX: u64 = 150;
/// Latencies are kept between these, in nanoseconds, with an error below 1 %.
const LATENCY_NS: (u64, u64) = (1_000, 600_000_000_000);

/// See the [module's page](self).
#[derive(Debug)]
pub(super) struct Latency(Mutex<Control>);

/// The current window, and the depth that came of those before.
#[derive(Debug)]
struct Control {
    config: LatencyConfig,
    devices: PerDevice<Device>,
    /// What each device has that is not protected.
    depth: u32,
    begun: Timestamp,
    /// The most that one of the others had in flight in this window.
    used: u32,
    /// One of the others was told no in this window.
    held_up: bool,
    /// Windows in a row in which the depth grew.
    grown: u32,
}

#[derive(Debug)]
struct Device {
    name: String,
    /// Reads and writes.
    in_flight: u32,
    /// Since when one of those is in flight at least.
    since: Timestamp,
    /// Of those that ended in this window, if it is protected.
    latencies_ns: Option<Histogram<u32>>,
}

impl Latency {
    pub(super) fn new(config: LatencyConfig) -> Self {
        Self(Mutex::new(Control {
            depth: config.max_depth,
            config,
            devices: PerDevice::default(),
            begun: Timestamp::ZERO,
            used: 0,
            held_up: false,
            grown: 0,
        }))
    }

    /// The control, in the window of this instant. No hook leaves it half changed, so poison means nothing.
    fn at(&self, now: Timestamp) -> MutexGuard<'_, Control> {
        let mut control = self.lock();
        control.follow(now);
        control
    }

    fn lock(&self) -> MutexGuard<'_, Control> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Policy for Latency {
    fn config(&self) -> PolicyConfig {
        PolicyConfig::Latency(self.lock().config.clone())
    }

    fn reconfigure(&self, config: &PolicyConfig) -> bool {
        match config {
            PolicyConfig::Latency(config) => self.lock().reconfigure(config.clone()),
            _ => return false,
        }
        true
    }
}

impl Manager for Latency {
    fn name(&self) -> &str {
        PolicyName::Latency.as_str()
    }

    fn dev_start(&self, device: &DeviceInfo) -> Result<(), Refusal> {
        self.lock().start(device.id(), device.name());
        Ok(())
    }

    fn allow_request(&self, device: &DeviceInfo, head: &Head, now: Timestamp) -> Verdict {
        match is_flush(head) {
            true => Verdict::Go,
            false => self.at(now).ask(device.id(), now),
        }
    }

    fn oo_abort_request(&self, device: &DeviceInfo, head: &Head, now: Timestamp) {
        if !is_flush(head) {
            self.at(now).end(device.id(), now);
        }
    }

    fn free_request(&self, device: &DeviceInfo, head: &Head, now: Timestamp) {
        if !is_flush(head) {
            let mut control = self.at(now);
            let latency = now.since(head.arrival);
            control.devices.of(device.id()).record(latency);
            control.end(device.id(), now);
        }
    }

    fn dev_stop(&self, device: &DeviceInfo) {
        self.lock().devices.remove(device.id());
    }
}

impl Control {
    fn start(&mut self, id: DeviceId, name: &str) {
        let mut device = Device {
            name: name.to_owned(),
            in_flight: 0,
            since: Timestamp::ZERO,
            latencies_ns: None,
        };
        device.protect(self.config.protect.contains(name));
        self.devices.insert(id, device);
    }

    fn reconfigure(&mut self, config: LatencyConfig) {
        self.config = config;
        self.depth = self.depth.clamp(self.config.min_depth, self.config.max_depth);
        for device in self.devices.iter_mut() {
            device.protect(self.config.protect.contains(&device.name));
        }
    }

    /// May a read or write go?
    fn ask(&mut self, id: DeviceId, now: Timestamp) -> Verdict {
        let depth = self.depth;
        let device = self.devices.of(id);
        if !device.is_protected() {
            if device.in_flight >= depth {
                self.held_up = true;
                return Verdict::No(Wait::Freed);
            }
            self.used = self.used.max(device.in_flight + 1);
        }
        if device.in_flight == 0 {
            device.since = now;
        }
        device.in_flight += 1;
        Verdict::Go
    }

    fn end(&mut self, id: DeviceId, now: Timestamp) {
        let device = self.devices.of(id);
        device.in_flight -= 1;
        device.since = now;
    }

    /// Ends the windows whose time is over.
    fn follow(&mut self, now: Timestamp) {
        let window_ns = u64::from(self.config.window_ms) * 1_000_000;
        let ended = now.as_nanos().saturating_sub(self.begun.as_nanos()) / window_ns;
        for _ in 0..ended.min(SILENT_WINDOWS_MAX) {
            self.judge(now);
        }
        self.begun = Timestamp::from_nanos(self.begun.as_nanos() + ended * window_ns);
    }

    /// Ends a window: the depth follows from what was seen in it.
    fn judge(&mut self, now: Timestamp) {
        let target = Duration::from_micros(self.config.target_us.into());
        let worst = self.devices.iter().filter_map(|device| device.p99(now, target)).max();
        match worst {
            Some(worst) if self.used > 0 && worst > target => self.shrink(worst, target),
            Some(worst) if self.used > 0 && worst > target * 3 / 4 && self.held_up => self.grown = 0,
            _ => self.grow(),
        }
        self.begin();
    }

    fn shrink(&mut self, worst: Duration, target: Duration) {
        let used = u128::from(self.depth.min(self.used));
        let fit = used * target.as_nanos() / worst.as_nanos();
        let depth = u32::try_from(fit.clamp(used / 8, used * 3 / 4)).expect("less than it was");
        self.depth = depth.max(self.config.min_depth);
        self.grown = 0;
    }

    fn grow(&mut self) {
        let LatencyConfig {
            min_depth, max_depth, ..
        } = self.config;
        let windows = (RECOVERY_MS / self.config.window_ms).max(1);
        let step = (max_depth - min_depth).div_ceil(windows * (windows + 1) / 2);
        self.grown = self.grown.saturating_add(1);
        let more = step.saturating_mul(self.grown);
        let careful = (self.depth.saturating_mul(3) / 10).max(1);
        let more = if self.held_up { more.min(careful) } else { more };
        self.depth = self.depth.saturating_add(more).min(max_depth);
    }

    fn begin(&mut self) {
        let others = self.devices.iter().filter(|device| !device.is_protected());
        self.used = others.map(|device| device.in_flight).max().unwrap_or(0);
        self.held_up = false;
        let latencies = self
            .devices
            .iter_mut()
            .filter_map(|device| device.latencies_ns.as_mut());
        latencies
            .filter(|latencies| !latencies.is_empty())
            .for_each(Histogram::reset);
    }
}

impl Device {
    fn is_protected(&self) -> bool {
        self.latencies_ns.is_some()
    }

    fn protect(&mut self, protect: bool) {
        if protect != self.is_protected() {
            self.latencies_ns = protect.then(|| {
                let (min, max) = LATENCY_NS;
                Histogram::new_with_bounds(min, max, 2).expect("the bounds are valid")
            });
        }
    }

    fn record(&mut self, latency: Duration) {
        if let Some(latencies) = &mut self.latencies_ns {
            let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
            latencies.saturating_record(ns.clamp(LATENCY_NS.0, LATENCY_NS.1));
        }
    }

    /// The latency that 99 of 100 requests did not exceed, or the age of what is late and did not end yet; `None` where
    /// there is neither.
    fn p99(&self, now: Timestamp, target: Duration) -> Option<Duration> {
        let latencies = self.latencies_ns.as_ref()?;
        let ended = (!latencies.is_empty()).then(|| Duration::from_nanos(latencies.value_at_quantile(0.99)));
        let age = now.since(self.since);
        let late = (self.in_flight > 0 && age > target).then_some(age);
        ended.max(late)
    }
}

fn is_flush(head: &Head) -> bool {
    head.class == Class::Other
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const PROTECTED: DeviceId = DeviceId(0);
    const OTHER: DeviceId = DeviceId(1);

    fn us(us: u64) -> Timestamp {
        Timestamp::from_nanos(us * 1000)
    }

    /// Windows of 100 ms, a target of 5 ms; a protected device and another one.
    fn control() -> Control {
        let policy = Latency::new(LatencyConfig {
            protect: BTreeSet::from(["protected".to_owned()]),
            ..LatencyConfig::default()
        });
        let mut control = policy.0.into_inner().unwrap();
        control.start(PROTECTED, "protected");
        control.start(OTHER, "other");
        control
    }

    /// As much as the other gets.
    fn fill(control: &mut Control, now: Timestamp) -> u32 {
        let mut granted = 0;
        while control.ask(OTHER, now) == Verdict::Go {
            granted += 1;
        }
        granted
    }

    /// In the window that ends at `end_us`, the protected device sees these latencies while the other does all it may.
    fn window(control: &mut Control, end_us: u64, latencies_us: &[u64]) {
        fill(control, us(end_us - 1));
        let device = control.devices.of(PROTECTED);
        latencies_us
            .iter()
            .for_each(|us| device.record(Duration::from_micros(*us)));
        control.follow(us(end_us));
    }

    #[test]
    fn depth_falls_in_proportion_and_comes_back_in_growing_steps() {
        let mut control = control();
        window(&mut control, 100_000, &[8_000; 50]);
        assert!((79..=80).contains(&control.depth), "5/8 of 128: {}", control.depth);
        window(&mut control, 200_000, &[1_000_000; 50]);
        assert_eq!(control.depth, 9, "an eighth at least");
        let mut depths = Vec::new();
        for n in 3..20 {
            control.follow(us(n * 100_000));
            depths.push(control.depth);
        }
        assert_eq!(depths[..4], [11, 15, 21, 29]);
        assert_eq!(depths.last(), Some(&128));
    }

    #[test]
    fn depth_grows_with_care_while_somebody_is_held_up() {
        let mut control = control();
        window(&mut control, 100_000, &[1_000_000; 50]);
        control.devices.of(OTHER).in_flight = 0;
        control.depth = 1;
        for n in 2..23 {
            let before = control.depth;
            window(&mut control, n * 100_000, &[1_000; 50]);
            assert!(control.depth <= before + (before * 3 / 10).max(1));
        }
        assert_eq!(control.depth, 128);
    }

    #[test]
    fn depth_stays_where_the_target_is_near() {
        let mut control = control();
        window(&mut control, 100_000, &[10_000; 50]);
        let depth = control.depth;
        for n in 2..10 {
            window(&mut control, n * 100_000, &[4_500; 50]);
            assert_eq!(control.depth, depth);
        }
    }

    #[test]
    fn one_slow_request_of_a_hundred_is_not_the_99th() {
        let mut control = control();
        let mut latencies = vec![1_000; 199];
        latencies.extend([50_000]);
        window(&mut control, 100_000, &latencies);
        assert_eq!(control.depth, 128);
        latencies.extend([50_000, 50_000]);
        window(&mut control, 200_000, &latencies);
        assert!(control.depth < 128);
    }

    #[test]
    fn a_request_that_does_not_end_is_late() {
        let mut control = control();
        fill(&mut control, us(1));
        assert_eq!(control.ask(PROTECTED, us(10)), Verdict::Go);
        control.follow(us(100_000));
        assert_eq!(control.depth, 16, "99 ms are more than eight times 5 ms");
        control.end(PROTECTED, us(100_001));
        control.follow(us(200_000));
        assert!(
            control.depth > 16,
            "it ended in this window, and nothing is known of it"
        );
    }

    #[test]
    fn without_work_for_a_while_the_depth_is_back_at_once() {
        let mut control = control();
        window(&mut control, 100_000, &[1_000_000; 50]);
        control.devices.of(OTHER).in_flight = 0;
        control.follow(us(10_000_000));
        assert_eq!((control.depth, control.begun), (128, us(10_000_000)));
        control.follow(us(9_000_000));
        assert_eq!(
            control.begun,
            us(10_000_000),
            "a thread whose clock was read before changes nothing"
        );
    }

    #[test]
    fn who_did_nothing_is_not_to_blame() {
        let mut control = control();
        control.devices.of(PROTECTED).record(Duration::from_secs(1));
        control.follow(us(100_000));
        assert_eq!(control.depth, 128);
    }

    #[test]
    fn other_parameters_keep_what_is_in_flight() {
        let mut control = control();
        assert_eq!(fill(&mut control, us(1)), 128);
        let mut config = control.config.clone();
        config.protect = BTreeSet::from(["other".to_owned()]);
        config.max_depth = 7;
        control.reconfigure(config);
        assert_eq!(control.ask(OTHER, us(2)), Verdict::Go);
        assert!((0..7).all(|_| control.ask(PROTECTED, us(2)) == Verdict::Go));
        assert_eq!(control.ask(PROTECTED, us(2)), Verdict::No(Wait::Freed));
        (0..129).for_each(|_| control.end(OTHER, us(3)));
    }

    proptest! {
        /// The figure that decides is the 99th percentile, as sorting tells it, but for the histogram's 1 %.
        #[test]
        fn the_figure_is_that_of_sorting(mut latencies_us in prop::collection::vec(1..1_000_000u64, 1..400)) {
            let mut control = control();
            let device = control.devices.of(PROTECTED);
            latencies_us.iter().for_each(|us| device.record(Duration::from_micros(*us)));
            latencies_us.sort_unstable();
            let sorted = latencies_us[(latencies_us.len() * 99).div_ceil(100) - 1] as f64;
            let p99 = device.p99(us(0), Duration::ZERO).unwrap().as_secs_f64() * 1e6;
            prop_assert!((p99 / sorted - 1.0).abs() < 0.01, "{p99} and {sorted}");
        }
    }
}
