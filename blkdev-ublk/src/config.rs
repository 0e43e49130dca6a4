//! How a device is served.

use std::sync::Arc;
use std::time::Duration;

use iomgr_core::manager::ManagedDevice;
use iomgr_core::{Device, Waker};
use tqueue::{EngineKind, Watchdog};

use crate::{Error, ErrorKind, Features, MAX_QUEUE_DEPTH};

/// How a device is served.
#[derive(Debug)]
pub struct ServerConfig {
    /// Its number; any that is free if not given.
    pub id: Option<u32>,
    /// What is served.
    pub device: Arc<dyn Device>,
    /// The same, as managers see it.
    pub managed: Arc<ManagedDevice>,
    /// Hardware queues, from 1 to 64, each with a thread of its own. The kernel makes no more of them than it has processors.
    pub queues: u16,
    /// Requests in flight in each of them, from 1 to 4096.
    pub depth: u16,
    /// Bytes of the largest request, from 4096, in pages; each request in flight has so much memory, as far as it was ever used.
    pub buffer_bytes: u32,
    /// The device belongs to this user, who needs no privilege, and is for him alone. It does not outlive its server.
    pub unprivileged: bool,
    /// What becomes of the device when its server dies.
    pub recovery: Recovery,
    /// Any number, written on the device when it is added, and compared when it is recovered: another device of the same
    /// id has another.
    pub mark: u64,
    /// The kernel hands the pages of requests over, rather than copies: nobody here sees their bytes, so neither the device nor a
    /// filter may need them. It takes Linux 6.16.
    pub zero_copy: bool,
    /// The queue of each thread. What the tags need is added.
    pub queue: tqueue::Config,
    /// Woken when the device has ended without being stopped here: somebody else stopped it, or one of its threads failed.
    pub on_end: Waker,
    /// Who tells of managers' hooks that do not return; the server has one of its own if not given.
    pub watchdog: Option<Arc<Watchdog>>,
}

/// What becomes of a device when its server dies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Recovery {
    /// It goes away, and all its requests fail.
    Off,
    /// It stays: requests wait for the next server, which gets those that were in flight once more.
    #[default]
    Reissue,
    /// It stays, but requests fail until the next server is there. Before Linux 6.13 only those in flight do; others wait.
    Fail,
}

impl Recovery {
    /// What the driver is asked for, of what it knows.
    pub(crate) fn features(self, known: Features) -> Features {
        let helpful = match self {
            Self::Off => Features::empty(),
            Self::Reissue => Features::QUIESCE,
            Self::Fail => Features::QUIESCE | Features::USER_RECOVERY_FAIL_IO,
        };
        let needed = match self {
            Self::Off => Features::empty(),
            Self::Reissue => Features::USER_RECOVERY | Features::USER_RECOVERY_REISSUE,
            Self::Fail => Features::USER_RECOVERY,
        };
        needed | helpful & known
    }

    /// What a device was made with that has these features.
    pub(crate) fn of(features: Features) -> Self {
        if !features.contains(Features::USER_RECOVERY) {
            return Self::Off;
        }
        match features.contains(Features::USER_RECOVERY_REISSUE) {
            true => Self::Reissue,
            false => Self::Fail,
        }
    }
}

/// A device is open to so many.
const QUEUES_MAX: u16 = 64;
/// Of all buffers together.
const BUFFERS_BYTES_MAX: u64 = 2 << 30;
/// How long a thread that failed waits for the disk.
const DRAIN_MAX: Duration = Duration::from_secs(2);

impl ServerConfig {
    /// Bytes of the largest request, unless somebody wants another.
    pub const BUFFER_BYTES: u32 = 512 << 10;
    /// Requests in flight in a queue, likewise.
    pub const DEPTH: u16 = 128;
    /// Hardware queues, likewise.
    pub const QUEUES: u16 = 1;

    /// What can be told to be wrong before anything is made.
    pub(crate) fn check(&self) -> Result<(), Error> {
        check_sizes(self.queues, self.depth, self.buffer_bytes)?;
        let (limits, name) = (self.device.limits(), self.device.name());
        if limits.size.is_zero() {
            return Err(bad(format!("{name:?} has no sectors")));
        }
        if self.unprivileged && self.recovery != Recovery::Off {
            return Err(bad("a device without privilege does not outlive its server".into()));
        }
        if self.unprivileged && self.zero_copy {
            return Err(bad("a device without privilege has no zero copy".into()));
        }
        if self.zero_copy && limits.needs_bytes {
            return Err(no_zero_copy(&format!("{name:?}")));
        }
        Ok(())
    }

    /// The queue of a thread: memory, and a command for each tag besides the waker's poll.
    pub(crate) fn queue_config(&self, depth: u16, buffer_bytes: u32) -> tqueue::Config {
        let tags = u32::from(depth);
        let mut queue = self.queue.clone();
        queue.engine = match queue.engine {
            // Commands need a ring.
            EngineKind::Auto => EngineKind::Uring,
            other => other,
        };
        match self.zero_copy {
            true => queue.driver_buffers = depth,
            false => {
                queue.large_bytes = tags as usize * buffer_bytes.next_power_of_two() as usize;
                queue.registered_leases = depth;
            }
        }
        queue.net_ops = tags + 8;
        queue.sends = 1;
        // A pass may bring a commit and an op for each tag.
        queue.size = queue.size.max((2 * tags).next_power_of_two()).min(4096);
        queue.max_ops = queue.max_ops.max(queue.size);
        queue.drain_max = DRAIN_MAX;
        queue
    }
}

/// Checks what a device is to be made with.
pub fn check_sizes(queues: u16, depth: u16, buffer_bytes: u32) -> Result<(), Error> {
    if !(1..=QUEUES_MAX).contains(&queues) {
        return Err(bad(format!("a device has 1 to {QUEUES_MAX} queues, not {queues}")));
    }
    if !(1..=MAX_QUEUE_DEPTH).contains(&depth) {
        return Err(bad(format!("the depth is 1 to {MAX_QUEUE_DEPTH}, not {depth}")));
    }
    if !buffer_bytes.is_power_of_two() || !(4096..=1 << 25).contains(&buffer_bytes) {
        return Err(bad(format!(
            "the buffer is a power of two from 4096 to 33554432 bytes (32 MiB), not {buffer_bytes}"
        )));
    }
    let all = u64::from(queues) * u64::from(depth) * u64::from(buffer_bytes);
    if all > BUFFERS_BYTES_MAX {
        return Err(bad(format!(
            "{queues} times {depth} buffers of {buffer_bytes} bytes are more than 2 GiB; choose fewer queues, a smaller \
             depth or buffer"
        )));
    }
    Ok(())
}

/// A part of a device looks at what zero copy puts out of reach.
pub(crate) fn no_zero_copy(part: &str) -> Error {
    bad(format!(
        "{part} needs the bytes of requests, which zero copy keeps from it"
    ))
}

fn bad(text: String) -> Error {
    Error::new(ErrorKind::Config, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_bounds() {
        check_sizes(1, 128, 512 << 10).unwrap();
        check_sizes(1, 4096, 512 << 10).unwrap();
        check_sizes(64, 64, 512 << 10).unwrap();
        for (queues, depth, bytes) in [
            (0, 1, 4096),
            (65, 1, 4096),
            (1, 0, 4096),
            (1, 4097, 4096),
            (1, 1, 0),
            (1, 1, 2048),
            (1, 1, 5000),
            (1, 4096, 1 << 20),
            (64, 65, 512 << 10),
            (1, 1, 1 << 26),
        ] {
            let error = check_sizes(queues, depth, bytes).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{queues} {depth} {bytes}");
        }
    }
}
