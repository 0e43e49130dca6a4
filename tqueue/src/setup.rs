//! How a ring is set up: which flags are tried in which order, and what a refusal means.

use std::fs;
use std::io;

use io_uring::{IoUring, Probe, opcode};
use rustix::io::Errno;

use crate::config::{Config, Features};
use crate::{Error, ErrorKind};

/// Sets up a ring with the best flags that the kernel takes.
pub(crate) fn ring(config: &Config) -> Result<(IoUring, Features), Error> {
    let mut refused = Errno::INVAL;
    for flags in candidates(config.mask) {
        match build(config, flags) {
            Ok(uring) => return check(uring, flags, config.mask),
            Err(error) => refused = Errno::from_io_error(&error).unwrap_or(Errno::IO),
        }
        // Only "I do not know this flag" is answered by trying without.
        if refused != Errno::INVAL {
            break;
        }
    }
    Err(why_no_ring(refused, config.size, disabled_setting()))
}

/// Sets of flags to try, best first.
fn candidates(mask: Features) -> impl Iterator<Item = Features> {
    let best = Features::SINGLE_ISSUER | Features::DEFER_TASKRUN;
    let sets = [
        best,
        Features::SINGLE_ISSUER | Features::COOP_TASKRUN,
        Features::COOP_TASKRUN,
        Features::empty(),
    ];
    // Deferring needs a single issuer.
    let without = if mask.contains(Features::SINGLE_ISSUER) {
        mask | Features::DEFER_TASKRUN
    } else {
        mask
    };
    sets.into_iter().filter_map(move |set| {
        let left = set.difference(without);
        let useless = left.is_empty() && !set.is_empty() || set == best && left != best;
        (!useless).then_some(left)
    })
}

fn build(config: &Config, flags: Features) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    // Every op and a cancel for each, and the alarm: nothing ever overflows.
    let results = 2 * (config.size + config.net_ops).max(config.max_ops + config.net_ops) + 1;
    builder
        .setup_cqsize(results.next_power_of_two())
        .dontfork()
        .setup_clamp();
    if flags.contains(Features::SINGLE_ISSUER) {
        builder.setup_single_issuer();
    }
    if flags.contains(Features::DEFER_TASKRUN) {
        builder.setup_defer_taskrun();
    }
    if flags.contains(Features::COOP_TASKRUN) {
        builder.setup_coop_taskrun();
    }
    if !flags.is_empty() {
        builder.setup_submit_all().setup_taskrun_flag();
    }
    builder.build(config.size.next_power_of_two())
}

/// Refuses kernels without what we cannot do without.
fn check(uring: IoUring, flags: Features, mask: Features) -> Result<(IoUring, Features), Error> {
    let params = uring.params();
    if !params.is_feature_ext_arg() || !params.is_feature_nodrop() || !params.is_feature_submit_stable() {
        return Err(Error::unsupported(
            "the kernel is older than 5.11; 6.1 or newer is needed",
        ));
    }
    let quiet = params.is_feature_skip_cqe_on_success() && !mask.contains(Features::QUIET_SENDS);
    let features = if quiet { flags | Features::QUIET_SENDS } else { flags };
    Ok((uring, features))
}

/// Lets the kernel have so many threads for ops that wait; without, it goes on with as many as it likes.
pub(crate) fn workers(uring: &IoUring, count: u32, notes: &mut Vec<String>) {
    // None is no change: of threads for sockets and the like.
    if count > 0
        && let Err(error) = uring.submitter().register_iowq_max_workers(&mut [count, 0])
    {
        tracing::warn!(%error, count, "workers_unset");
        notes.push(format!(
            "the kernel has four threads for each CPU for ops that wait: {error}"
        ));
    }
}

/// Makes an empty table of registered files.
pub(crate) fn file_table(uring: &IoUring, files: u32, notes: &mut Vec<String>) -> bool {
    match uring.submitter().register_files_sparse(files) {
        Ok(()) => true,
        Err(error) => {
            let note = format!("files are not registered: {error} (a table of {files}; see `ulimit -n`)");
            tracing::warn!(%error, files, "files_unregistered");
            notes.push(note);
            false
        }
    }
}

/// Makes an empty table of registered buffers, for a driver to put requests into.
pub(crate) fn driver_buffers(uring: &IoUring, count: u16) -> Result<(), Error> {
    let made = uring.submitter().register_buffers_sparse(count.into());
    made.map_err(|error| {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
        Error::new(ErrorKind::Os, format!("a table of {count} buffers for a driver"), errno)
    })
}

/// Can merged ops use registered buffers? The kernel lists the ops that it knows.
pub(crate) fn has_registered_vectors(uring: &IoUring) -> bool {
    let mut probe = Probe::new();
    let known = uring.submitter().register_probe(&mut probe).is_ok();
    known && probe.is_supported(opcode::ReadvFixed::CODE) && probe.is_supported(opcode::WritevFixed::CODE)
}

/// Why buffers are not registered, for people; it is logged once.
pub(crate) fn why_not_registered(len: u32, error: &io::Error) -> String {
    let note = match Errno::from_io_error(error) {
        Some(Errno::NOMEM) => format!(
            "buffers are not registered: {} KiB would have to be locked into memory, and the limit is lower (`ulimit -l`, or CAP_IPC_LOCK)",
            len >> 10
        ),
        _ => format!("buffers are not registered: {error}"),
    };
    tracing::warn!(%error, bytes = len, "buffers_unregistered: {note}");
    note
}

/// What `kernel.io_uring_disabled` says, if the kernel has it.
fn disabled_setting() -> Option<u32> {
    fs::read_to_string("/proc/sys/kernel/io_uring_disabled")
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// A setup that was refused.
pub(crate) fn no_ring(error: &io::Error, size: u32) -> Error {
    let errno = Errno::from_io_error(error).unwrap_or(Errno::IO);
    why_no_ring(errno, size, disabled_setting())
}

/// What a refused setup means.
fn why_no_ring(errno: Errno, size: u32, disabled: Option<u32>) -> Error {
    let (kind, text) = match (errno, disabled) {
        (Errno::NOSYS, _) => (
            ErrorKind::Unsupported,
            "this kernel has no io_uring, or a seccomp filter hides it".to_owned(),
        ),
        (Errno::PERM, Some(2)) => (
            ErrorKind::Denied,
            "switched off for everybody (sysctl kernel.io_uring_disabled is 2)".to_owned(),
        ),
        (Errno::PERM, Some(1)) => (
            ErrorKind::Denied,
            "reserved for CAP_SYS_ADMIN and members of kernel.io_uring_group (sysctl kernel.io_uring_disabled is 1)"
                .to_owned(),
        ),
        (Errno::PERM | Errno::ACCESS, _) => (
            ErrorKind::Denied,
            "a seccomp filter or security module forbids it (container runtimes do by default)".to_owned(),
        ),
        (Errno::NOMEM, _) => (
            ErrorKind::Memory,
            format!(
                "a ring of {size} entries does not fit the limit on locked memory (`ulimit -l`, or CAP_IPC_LOCK) or that of the cgroup"
            ),
        ),
        (Errno::MFILE | Errno::NFILE, _) => (ErrorKind::Files, "no descriptor for the ring (`ulimit -n`)".to_owned()),
        (Errno::INVAL, _) => (
            ErrorKind::Unsupported,
            format!("the kernel refuses a ring of {size} entries"),
        ),
        _ => (ErrorKind::Os, format!("setting up a ring of {size} entries")),
    };
    Error::new(kind, text, errno)
}

/// An enter that failed for good.
pub(crate) fn enter_failed(errno: Errno) -> Error {
    Error::new(ErrorKind::Os, "io_uring_enter", errno)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use insta::assert_snapshot;

    use super::*;

    #[test]
    fn flags_are_tried_best_first_and_masked_ones_never() {
        let show = |mask| {
            let sets = candidates(mask).map(|set| set.iter_names().map(|(name, _)| name).collect::<Vec<_>>().join("+"));
            sets.collect::<Vec<_>>().join(" > ")
        };
        assert_snapshot!(show(Features::empty()), @"SINGLE_ISSUER+DEFER_TASKRUN > SINGLE_ISSUER+COOP_TASKRUN > COOP_TASKRUN > ");
        assert_snapshot!(show(Features::DEFER_TASKRUN), @"SINGLE_ISSUER+COOP_TASKRUN > COOP_TASKRUN > ");
        assert_snapshot!(show(Features::SINGLE_ISSUER), @"COOP_TASKRUN > COOP_TASKRUN > ");
        assert_snapshot!(show(Features::all()), @"");
    }

    #[test]
    fn refusals_name_the_limit() {
        let cases = [
            (Errno::NOSYS, None),
            (Errno::PERM, Some(2)),
            (Errno::PERM, Some(1)),
            (Errno::PERM, Some(0)),
            (Errno::NOMEM, None),
            (Errno::MFILE, None),
            (Errno::INVAL, None),
        ];
        let mut text = String::new();
        for (errno, disabled) in cases {
            let error = why_no_ring(errno, 128, disabled);
            writeln!(text, "{:?}: {error}", error.kind()).unwrap();
        }
        assert_snapshot!(text, @r"
        Unsupported: io_uring is not supported: this kernel has no io_uring, or a seccomp filter hides it
        Denied: io_uring is not permitted: switched off for everybody (sysctl kernel.io_uring_disabled is 2)
        Denied: io_uring is not permitted: reserved for CAP_SYS_ADMIN and members of kernel.io_uring_group (sysctl kernel.io_uring_disabled is 1)
        Denied: io_uring is not permitted: a seccomp filter or security module forbids it (container runtimes do by default)
        Memory: out of memory for the queue: a ring of 128 entries does not fit the limit on locked memory (`ulimit -l`, or CAP_IPC_LOCK) or that of the cgroup
        Files: out of file descriptors for the queue: no descriptor for the ring (`ulimit -n`)
        Unsupported: io_uring is not supported: the kernel refuses a ring of 128 entries
        ");
    }
}
