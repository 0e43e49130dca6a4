//! Counting a server's `io_uring_enter` calls, which no noise touches.
//!
//! By a histogram in the kernel (tracefs), which costs next to nothing; else by strace, which slows the server down and
//! so makes its batches larger than they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::daemon::Daemon;
use crate::{Result, cmd};

const TRACEFS: &str = "/sys/kernel/tracing";
const EVENT: &str = "/sys/kernel/tracing/events/syscalls/sys_enter_io_uring_enter";
const HISTOGRAM: &str = "hist:keys=common_pid";

/// A running count.
#[derive(Debug)]
pub(super) enum Enters {
    Kernel(Histogram),
    Strace(Strace),
}

impl Enters {
    /// Starts to count; none when neither way is open here.
    pub(super) fn watch(server: &Daemon) -> Result<Option<Enters>> {
        if let Some(histogram) = Histogram::start(server.pid()) {
            return Ok(Some(Enters::Kernel(histogram)));
        }
        if cmd::which("strace").is_none() {
            return Ok(None);
        }
        Strace::start(server.pid()).map(|strace| Some(Enters::Strace(strace)))
    }

    /// Ends the count.
    pub(super) fn count(self) -> Result<f64> {
        match self {
            Enters::Kernel(histogram) => histogram.count(),
            Enters::Strace(strace) => strace.count(),
        }
    }
}

/// A trigger on the system call's trace event; taken away when dropped.
#[derive(Debug)]
pub(super) struct Histogram {
    pid: u32,
    mounted: bool,
}

impl Histogram {
    fn start(pid: u32) -> Option<Histogram> {
        let mounted = !Path::new(EVENT).exists() && mount();
        let histogram = Histogram { pid, mounted };
        fs::write(trigger(), HISTOGRAM).is_ok().then_some(histogram)
    }

    fn count(self) -> Result<f64> {
        let histogram = fs::read_to_string(Path::new(EVENT).join("hist"))?;
        Ok(in_histogram(&histogram, &threads(self.pid)?))
    }
}

impl Drop for Histogram {
    fn drop(&mut self) {
        let _ = fs::write(trigger(), format!("!{HISTOGRAM}"));
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

fn trigger() -> PathBuf {
    Path::new(EVENT).join("trigger")
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

/// `{ common_pid:       4242 } hitcount:       1234`
fn in_histogram(histogram: &str, threads: &[u32]) -> f64 {
    let hits = histogram.lines().filter_map(|line| {
        let (key, hits) = line.split_once("} hitcount:")?;
        let thread: u32 = key.rsplit(':').next()?.trim().parse().ok()?;
        threads
            .contains(&thread)
            .then(|| hits.trim().parse::<f64>().ok())
            .flatten()
    });
    hits.sum()
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
    fn a_histogram_is_summed_over_the_servers_threads() {
        let histogram = "# event histogram\n{ common_pid:       7 } hitcount:       40\n\
                         { common_pid:       9 } hitcount:       2\n{ common_pid:       8 } hitcount:       100\n";
        assert!((in_histogram(histogram, &[7, 9]) - 42.0).abs() < f64::EPSILON);
    }

    #[test]
    fn straces_table_gives_the_calls() {
        let text = "% time     seconds  usecs/call     calls    errors syscall\n\
                    100.00    0.123456           3     40000           io_uring_enter\n";
        assert_eq!(in_strace(text), Some(40000.0));
    }
}
