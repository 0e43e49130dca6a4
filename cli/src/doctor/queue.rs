//! What runs the I/O: io_uring, or blocking calls where it cannot be had; and how much memory may be locked for it.

use std::error::Error;

use rustix::process::{Resource, getrlimit};
use vbd::tqueue::{Config, EngineKind, Features, Queue};

use super::{Check, Verdict};
use crate::failure::causes;

/// Tries a queue such as `serve` makes.
pub(super) fn checks() -> Vec<Check> {
    let tried = Queue::new(&config(EngineKind::Uring));
    let memlock = memlock(
        tried
            .as_ref()
            .ok()
            .is_none_or(|queue| has(queue, Features::REGISTERED_BUFFERS)),
    );
    let queue = match tried {
        Ok(queue) => uring(&queue),
        Err(error) => without_uring(&error),
    };
    vec![queue, memlock]
}

fn config(engine: EngineKind) -> Config {
    Config {
        engine,
        ..Config::default()
    }
}

fn has(queue: &Queue, feature: Features) -> bool {
    queue.info().features.contains(feature)
}

fn uring(queue: &Queue) -> Check {
    let verdict = if has(queue, Features::REGISTERED_BUFFERS) {
        Verdict::Ok
    } else {
        Verdict::Limited
    };
    Check::new("io_uring", verdict, queue.info().to_string())
}

fn without_uring(error: &dyn Error) -> Check {
    let found = format!("cannot be used: {}", chain(error));
    match Queue::new(&config(EngineKind::Sync)) {
        Ok(_) => Check::new("io_uring", Verdict::Limited, found).advise(
            "blocking calls are used instead, one at a time; `sysctl kernel.io_uring_disabled` should be 0, and a \
             container's seccomp profile must allow the system calls 425 to 427",
        ),
        Err(sync) => Check::new(
            "io_uring",
            Verdict::Fatal,
            format!("{found}; nor can blocking calls: {}", chain(&sync)),
        ),
    }
}

/// The soft limit alone decides nothing: root is above it.
fn memlock(registered: bool) -> Check {
    let limit = getrlimit(Resource::Memlock).current;
    let found = limit.map_or("unlimited".to_owned(), |bytes| {
        format!("{} KiB may be locked", bytes >> 10)
    });
    if registered {
        return Check::new("memlock", Verdict::Ok, found);
    }
    Check::new("memlock", Verdict::Limited, found).advise(
        "too little to register buffers, which costs some CPU per request; raise it with `ulimit -l unlimited`, \
         /etc/security/limits.conf (memlock), LimitMEMLOCK= in a systemd unit, or CAP_IPC_LOCK",
    )
}

fn chain(error: &dyn Error) -> String {
    std::iter::once(error.to_string())
        .chain(causes(error))
        .collect::<Vec<_>>()
        .join(": ")
}
