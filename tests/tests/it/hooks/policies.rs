//! The policies under fio, on images behind a latency of 1 ms, so that it is the policy that bounds, and not the CPU.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use iomgr_core::manager::ManagedDevice;
use iomgr_core::policy::{LimitConfig, ManagerConfig, PolicyConfig, Rate, Rates, ThrottleConfig, ThrottleGroup};
use iomgr_tests::{Process, TempDir, Tool, need, wait};
use tqueue::filter::FilterConfig;
use vbd::{CreateOptions, Disk, DiskOptions, Server, ServerOptions, create};

use super::SIZE_BYTES;
use crate::disk::soak;

/// How often a figure may be missed: the machine is shared, and may give nobody any CPU for longer than a bucket lasts.
pub(super) const TRIES: usize = 3;
const DEPTH: u32 = 32;
const BYTES: u64 = 16 << 10;

/// A server in this process, of several disks.
pub(super) struct Disks {
    pub(super) server: Server,
    _dir: TempDir,
}

impl Disks {
    pub(super) fn serve(names: &[&str]) -> Self {
        Self::serve_behind("latency:1ms".parse().unwrap(), names)
    }

    pub(super) fn serve_behind(filter: FilterConfig, names: &[&str]) -> Self {
        let dir = TempDir::new();
        let disks = names.iter().map(|name| {
            let path = dir.join(format!("{name}.img"));
            create(&path, &CreateOptions::new(SIZE_BYTES)).unwrap();
            Disk::open(&path, &DiskOptions::default()).unwrap().into()
        });
        let options = ServerOptions {
            socket: Some(dir.join("nbd")),
            control: Some(dir.join("control")),
            threads: 2,
            filters: vec![filter],
            ..ServerOptions::default()
        };
        let server = Server::start_all(disks.collect(), &options).unwrap();
        Self { server, _dir: dir }
    }

    pub(super) fn set(&self, config: &ManagerConfig) {
        self.server.governor().set(config).unwrap();
    }

    pub(super) fn device(&self, name: &str) -> Arc<ManagedDevice> {
        let devices = self.server.registry().devices();
        let device = devices.into_iter().find(|device| device.info().name() == name);
        device.expect("it is served")
    }

    /// Writes at random for as long as what comes back is held, with 32 outstanding on each disk.
    pub(super) fn load(&self, names: &[&str]) -> Process {
        let fio = Tool::new("fio").args([
            "--ioengine=nbd",
            "--thread",
            "--rw=randwrite",
            "--time_based",
            "--runtime=1h",
        ]);
        let fio = fio.args([
            format!("--iodepth={DEPTH}"),
            format!("--bs={BYTES}"),
            format!("--size={SIZE_BYTES}"),
        ]);
        let jobs = names.iter().flat_map(|name| {
            let uri = self.server.addresses()[0].uri(name);
            [format!("--name={name}"), format!("--uri={uri}")]
        });
        let process = Process::start(fio.args(jobs), Stdio::null(), Stdio::inherit());
        wait::until(|| names.iter().all(|name| self.device(name).counters().frees > 0));
        process
    }

    /// Requests per second that started on each of the disks during a window.
    pub(super) fn rates(&self, names: &[&str], window: Duration) -> Vec<f64> {
        let devices: Vec<_> = names.iter().map(|name| self.device(name)).collect();
        let count = || -> Vec<_> {
            let counts = devices.iter().map(|device| (device.counters().allocs, Instant::now()));
            counts.collect()
        };
        let before = count();
        // Not to wait for anything: this is what the figure is about.
        std::thread::sleep(window);
        let spans = before.into_iter().zip(count());
        let rates = spans.map(|((from, begin), (to, end))| (to - from) as f64 / (end - begin).as_secs_f64());
        rates.collect()
    }
}

pub(super) fn window() -> Duration {
    Duration::from_secs(if soak() { 30 } else { 4 })
}

fn near(rate: f64, wanted: f64, error: f64) -> bool {
    (rate - wanted).abs() < wanted * error
}

/// A disk with 800 requests a second, one with 8 MiB a second, three that share 1200 requests a second.
fn throttle() -> ManagerConfig {
    let requests = Rates {
        iops: Some(Rate::new(800)),
        ..Rates::default()
    };
    let bytes = Rates {
        bps_write: Some(Rate::new(8 << 20)),
        ..Rates::default()
    };
    let shared = ThrottleGroup {
        rates: Rates {
            iops: Some(Rate::new(1200)),
            ..Rates::default()
        },
        members: ["g0", "g1", "g2"].map(String::from).into(),
    };
    let config = ThrottleConfig {
        devices: [("a".to_owned(), requests), ("b".to_owned(), bytes)].into(),
        groups: [("g".to_owned(), shared)].into(),
        ..ThrottleConfig::default()
    };
    ManagerConfig {
        policy: PolicyConfig::Throttle(Box::new(config)),
        limit: None,
    }
}

#[test]
fn hooks_throttle_gives_what_it_says() {
    if !need::tools(&["fio"]) {
        return;
    }
    let names = ["a", "b", "g0", "g1", "g2"];
    let disks = Disks::serve(&names);
    disks.set(&throttle());
    let load = disks.load(&names);
    let holds = (0..TRIES).any(|_| {
        let rates = disks.rates(&names, window());
        println!("requests per second of {names:?}: {rates:.1?}");
        let wanted = [
            (800.0, 0.02),
            (512.0, 0.02),
            (400.0, 0.05),
            (400.0, 0.05),
            (400.0, 0.05),
        ];
        let group: f64 = rates[2..].iter().sum();
        let mut each = rates.iter().zip(wanted);
        each.all(|(rate, (wanted, error))| near(*rate, wanted, error)) && near(group, 1200.0, 0.02)
    });
    assert!(holds, "the rates are not what they should be");
    drop(load);
    let registry = disks.server.registry().clone();
    disks.server.stop().unwrap();
    assert_eq!(registry.pending_total(), 0);
}

#[test]
fn hooks_limit_is_never_exceeded() {
    if !need::tools(&["fio"]) {
        return;
    }
    let names = ["a", "b", "c"];
    let disks = Disks::serve(&names);
    let limit = LimitConfig {
        max: Some(4),
        max_total: Some(6),
    };
    disks.set(&ManagerConfig {
        policy: PolicyConfig::Limit(limit),
        limit: None,
    });
    let load = disks.load(&names);
    let devices = names.map(|name| disks.device(name));
    let before = devices.each_ref().map(|device| device.counters().frees);
    let (end, mut samples) = (Instant::now() + window(), 0);
    let (mut most, mut most_total) = (0, 0);
    while Instant::now() < end {
        if let Some(in_flight) = in_flight(&devices) {
            samples += 1;
            most = most.max(in_flight.into_iter().max().unwrap());
            most_total = most_total.max(in_flight.iter().sum());
        }
        // Not to wait for anything: samples are to be spread over the load.
        std::thread::sleep(Duration::from_micros(500));
    }
    let after = devices.each_ref().map(|device| device.counters().frees);
    println!("in flight: {most} of a disk, {most_total} in total, in {samples} samples");
    assert!(samples > 100);
    assert!((1..=4).contains(&most) && (1..=6).contains(&most_total));
    assert!(
        before.iter().zip(after).all(|(before, after)| after > before + 100),
        "nobody starves: {before:?} {after:?}"
    );
    drop(load);
    disks.server.stop().unwrap();
}

/// What is in flight on each disk, if nothing ended meanwhile: then it was so many at least, all at the same time.
fn in_flight(devices: &[Arc<ManagedDevice>; 3]) -> Option<[u64; 3]> {
    let first = devices.each_ref().map(|device| device.counters());
    let frees = devices.each_ref().map(|device| device.counters().frees);
    (first.map(|counters| counters.frees) == frees).then(|| first.map(|counters| counters.pending()))
}
