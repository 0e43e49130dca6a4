//! A hundred swaps a second among all policies, under verified load on four disks.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use iomgr_core::policy::{
    DeadlineConfig, Governor, LatencyConfig, LimitConfig, ManagerConfig, PolicyConfig, Rate, Rates, ThrottleConfig,
    TurnConfig, WfqConfig,
};
use iomgr_tests::{TempDir, Tool, need};
use vbd::{CreateOptions, Disk, DiskExport, DiskOptions, Server, ServerOptions, create};

use crate::disk::soak;

const DISKS: usize = 4;
const SIZE_BYTES: u64 = 32 << 20;
/// From one swap to the next.
const BEAT: Duration = Duration::from_millis(10);

#[test]
fn managers_are_swapped_a_hundred_times_a_second_under_verified_load() {
    if !need::tools(&["fio"]) {
        return;
    }
    let dir = TempDir::new();
    let server = serve(&dir);
    let registry = server.registry().clone();
    let governor = Governor::new(registry.clone());
    let time = Duration::from_secs(if soak() { 60 } else { 10 });
    let over = AtomicBool::new(false);
    let (rounds, swaps) = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut rounds = 0;
            while !over.load(Ordering::Relaxed) {
                fio_verify(&server);
                rounds += 1;
            }
            rounds
        });
        let swaps = swap(&governor, time);
        over.store(true, Ordering::Relaxed);
        governor.unset(None).unwrap();
        (load.join().unwrap(), swaps)
    });
    let counters = registry.counters();
    println!(
        "{swaps} swaps during {rounds} rounds of fio: {} requests, {} waited",
        counters.frees, counters.waits
    );
    server.stop().unwrap();
    assert_eq!(registry.pending_total(), 0, "S0-2: nothing is pending at the end");
    let counters = registry.counters();
    assert_eq!(
        (counters.grants, counters.allocs),
        (counters.allocs + counters.aborts, counters.frees),
        "S0-1: every grant was used once, every request ended once"
    );
    assert!(counters.frees > 1000, "{counters:?}");
}

fn serve(dir: &TempDir) -> Server {
    let exports = (0..DISKS).map(|disk| {
        let path = dir.join(format!("disk{disk}.{}", ["vhd", "img"][disk % 2]));
        create(&path, &CreateOptions::new(SIZE_BYTES)).unwrap();
        DiskExport::from(Disk::open(&path, &DiskOptions::default()).unwrap())
    });
    let options = ServerOptions {
        socket: Some(dir.join("nbd")),
        control: Some(dir.join("control")),
        threads: 2,
        ..ServerOptions::default()
    };
    Server::start_all(exports.collect(), &options).unwrap()
}

/// Each disk has a job of its own at depth 64, whose every block is verified.
fn fio_verify(server: &Server) {
    let common = [
        "--ioengine=nbd",
        "--rw=randwrite",
        "--iodepth=64",
        "--bssplit=512/10:4k/60:64k/30",
        "--size=16M",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--verify_state_save=0",
        "--do_verify=1",
        "--output-format=terse",
    ];
    let jobs = (0..DISKS).flat_map(|disk| {
        let uri = server.addresses()[0].uri(&format!("disk{disk}"));
        [format!("--name=disk{disk}"), format!("--uri={uri}")]
    });
    Tool::new("fio").args(common).args(jobs).run();
}

/// Swaps among all policies, each now and then with other parameters, as often as beats fit into the time, however late; says how
/// often that was.
fn swap(governor: &Governor, time: Duration) -> u32 {
    let begin = Instant::now();
    let mut swaps = 0;
    for next in policies().cycle() {
        let beat = begin + BEAT * swaps;
        if beat >= begin + time {
            break;
        }
        // Not to wait for anything: swaps are to be spread over the load.
        std::thread::sleep(beat.saturating_duration_since(Instant::now()));
        governor.set(&next).unwrap();
        swaps += 1;
    }
    swaps
}

/// Parameters that hold requests up now and then, none of them for longer than until the next swap.
fn policies() -> impl Iterator<Item = ManagerConfig> + Clone {
    let few = LimitConfig {
        max: Some(8),
        max_total: Some(24),
    };
    let slow = Rates {
        iops: Some(Rate::new(2000)),
        ..Rates::default()
    };
    let alone = [
        PolicyConfig::Limit(few.clone()),
        PolicyConfig::Throttle(Box::new(ThrottleConfig {
            default: slow,
            ..ThrottleConfig::default()
        })),
        PolicyConfig::Wfq(WfqConfig::default()),
        PolicyConfig::Turn(TurnConfig::default()),
        PolicyConfig::None,
        PolicyConfig::Deadline(DeadlineConfig::default()),
        PolicyConfig::Latency(LatencyConfig {
            protect: ["disk0".to_owned()].into(),
            target_us: 100,
            window_ms: 10,
            ..LatencyConfig::default()
        }),
        // Twice the same: reconfigured, not swapped.
        PolicyConfig::Wfq(WfqConfig::default()),
        PolicyConfig::Wfq(WfqConfig {
            depth: 4,
            ..WfqConfig::default()
        }),
    ];
    let stacked = ManagerConfig {
        policy: PolicyConfig::Wfq(WfqConfig::default()),
        limit: Some(few),
    };
    alone
        .into_iter()
        .map(|policy| ManagerConfig { policy, limit: None })
        .chain([stacked])
}
