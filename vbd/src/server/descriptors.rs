//! Descriptors: clients of the disks take only so many that the control socket and further images find some.

use blkdev_nbd::ConnectionLimits;
use rustix::process::{Resource, getrlimit};

/// Kept for clients of the control socket, and for images that are attached or resumed.
const KEPT: u64 = 64;
/// Of the frontend itself, whatever comes, and for each of its threads.
const FRONTEND: u64 = 4;
const THREAD: u64 = 2;

/// Limits with no more connections than there are descriptors for.
pub(super) fn bound(limits: &ConnectionLimits, threads: u16) -> ConnectionLimits {
    let limit = getrlimit(Resource::Nofile).current;
    let connections = limit.map_or(limits.connections, |limit| {
        let free = limit.saturating_sub(used() + FRONTEND + THREAD * u64::from(threads));
        limits.connections.min(connections(free))
    });
    if connections < limits.connections {
        tracing::warn!(
            "connections_bounded: --max-connections {} is more than the limit of open files (`ulimit -n`), which is {}, has room \
             for: {connections} are taken at the same time",
            limits.connections,
            limit.unwrap_or_default(),
        );
    }
    ConnectionLimits {
        connections,
        ..limits.clone()
    }
}

/// For how many connections so many free descriptors are: where they are few, for half as many.
fn connections(free: u64) -> u32 {
    let connections = free - KEPT.min(free.div_ceil(2));
    u32::try_from(connections).unwrap_or(u32::MAX).max(1)
}

/// Those that this process has open.
fn used() -> u64 {
    // One is what they are read by. Where they can't be read, the few of a server that has just begun are among those kept.
    std::fs::read_dir("/proc/self/fd").map_or(0, |open| open.count() as u64 - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_are_kept_and_one_client_always_gets_in() {
        for (free, expected) in [(0, 1), (1, 1), (8, 4), (128, 64), (129, 65), (1000, 936)] {
            assert_eq!(connections(free), expected, "{free}");
        }
    }
}
