//! Counting a server's `io_uring_enter` calls, which no noise touches.
//!
//! By a trace buffer of the kernel (tracefs), which costs next to nothing; else by strace, which slows the server down
//! and so makes its batches larger than they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::daemon::Daemon;
use crate::{Result, cmd};

const TRACEFS: &str = "/sys/kernel/tracing";
const INSTANCE: &str = "/sys/kernel/tracing/instances/iomgr-bench";
const EVENT: &str = "events/syscalls/sys_enter_io_uring_enter/enable";

/// A running count.
#[derive(Debug)]
pub(super) enum Enters {
    Kernel(Trace),
    Strace(Strace),
}

impl Enters {
    /// Starts to count; none when neither way is open here.
    pub(super) fn watch(server: &Daemon) -> Result<Option<Enters>> {
        if let Ok(trace) = Trace::start(server.pid()) {
            return Ok(Some(Enters::Kernel(trace)));
        }
        if cmd::which("strace").is_none() {
            return Ok(None);
        }
        Strace::start(server.pid()).map(|strace| Some(Enters::Strace(strace)))
    }

    /// Ends the count.
    pub(super) fn count(self) -> Result<f64> {
        match self {
            Enters::Kernel(trace) => trace.count(),
            Enters::Strace(strace) => strace.count(),
        }
    }
}

/// A trace buffer of our own that records the calls of one process's threads; removed when dropped.
///
/// The buffer may run over: the kernel counts what it holds and what it lost.
#[derive(Debug)]
pub(super) struct Trace {
    mounted: bool,
}

impl Trace {
    fn start(pid: u32) -> Result<Trace> {
        let trace = Trace {
            mounted: !Path::new(INSTANCE).parent().is_some_and(Path::exists) && mount(),
        };
        let instance = Path::new(INSTANCE);
        if !instance.exists() {
            fs::create_dir(instance)?;
        }
        let threads: Vec<_> = threads(pid)?.iter().map(u32::to_string).collect();
        fs::write(instance.join("set_event_pid"), threads.join(" "))?;
        fs::write(instance.join(EVENT), "1")?;
        Ok(trace)
    }

    fn count(self) -> Result<f64> {
        fs::write(Path::new(INSTANCE).join(EVENT), "0")?;
        let mut calls = 0.0;
        for cpu in fs::read_dir(Path::new(INSTANCE).join("per_cpu"))? {
            calls += in_stats(&fs::read_to_string(cpu?.path().join("stats"))?);
        }
        Ok(calls)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = fs::remove_dir(INSTANCE);
        if self.mounted {
            let _ = Command::new("umount").arg(TRACEFS).status();
        }
    }
}

fn mount() -> bool {
    let mount = Command::new("mount")
        .args(["-t", "tracefs", "tracefs", TRACEFS])
        .stderr(Stdio::null())
        .status();
    mount.is_ok_and(|status| status.success())
}

/// strace, attached to all threads.
#[derive(Debug)]
pub(super) struct Strace {
    child: Child,
    output: PathBuf,
}

impl Strace {
    fn start(pid: u32) -> Result<Strace> {
        let output = std::env::temp_dir().join(format!("iomgr-bench-strace-{}", std::process::id()));
        let mut command = Command::new("strace");
        command
            .args(["-f", "-c", "-e", "trace=io_uring_enter", "-o"])
            .arg(&output);
        let child = command.args(["-p", &pid.to_string()]).stderr(Stdio::null()).spawn()?;
        let mut strace = Strace { child, output };
        strace.wait_until_attached(pid)?;
        Ok(strace)
    }

    /// Attached when the server names it as its tracer.
    fn wait_until_attached(&mut self, pid: u32) -> Result {
        let status = format!("/proc/{pid}/status");
        while fs::read_to_string(&status)?.contains("TracerPid:\t0") {
            if let Some(ended) = self.child.try_wait()? {
                return Err(format!("strace cannot attach: {ended}").into());
            }
            std::thread::park_timeout(Duration::from_millis(2));
        }
        Ok(())
    }

    fn count(mut self) -> Result<f64> {
        let _ = Command::new("kill")
            .args(["-INT", &self.child.id().to_string()])
            .status()?;
        self.child.wait()?;
        let text = fs::read_to_string(&self.output)?;
        fs::remove_file(&self.output)?;
        in_strace(&text).ok_or_else(|| format!("strace counted nothing: {text}").into())
    }
}

fn threads(pid: u32) -> Result<Vec<u32>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))?.filter_map(std::result::Result::ok);
    Ok(tasks
        .filter_map(|task| task.file_name().to_str()?.parse().ok())
        .collect())
}

/// What one processor's buffer holds, ran over, and dropped: `entries: 12`, `overrun: 3`, …
fn in_stats(stats: &str) -> f64 {
    let counted = ["entries", "overrun", "commit overrun", "dropped events"];
    let lines = stats.lines().filter_map(|line| line.split_once(": "));
    lines
        .filter(|(name, _)| counted.contains(name))
        .filter_map(|(_, count)| count.trim().parse::<f64>().ok())
        .sum()
}

/// `% time  seconds  usecs/call  calls  errors  syscall`: the fourth column.
fn in_strace(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.trim_end().ends_with(" io_uring_enter"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_the_buffer_lost_count() {
        let stats =
            "entries: 40\noverrun: 2\ncommit overrun: 0\nbytes: 123456\noldest event ts:  7.5\ndropped events: 1\n";
        assert!((in_stats(stats) - 43.0).abs() < f64::EPSILON);
    }

    #[test]
    fn straces_table_gives_the_calls() {
        let text = "% time     seconds  usecs/call     calls    errors syscall\n\
                    100.00    0.123456           3     40000           io_uring_enter\n";
        assert_eq!(in_strace(text), Some(40000.0));
    }
}
