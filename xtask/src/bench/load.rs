//! One measurement: fio's NBD engine against one server.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::daemon::Daemon;
use crate::Result;
use crate::cmd;

/// What the client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pattern {
    /// 4 KiB reads at random places, for the whole time.
    RandomRead,
    /// 4 KiB writes one after the other, until the time or the disk ends.
    FirstWrite,
}

/// A load: one job on one connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) pattern: Pattern,
    pub(super) depth: u32,
    pub(super) secs: u64,
    pub(super) size_bytes: u64,
}

/// What was measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    /// Server CPU time per request.
    pub(super) cpu_us: f64,
    pub(super) iops: f64,
}

impl Load {
    /// Runs it and divides the server's CPU time by the requests.
    pub(super) fn measure(&self, server: &Daemon) -> Result<Sample> {
        let before = server.cpu_us()?;
        let done = self.run(server)?;
        let cpu_us = server.cpu_us()? - before;
        Ok(Sample {
            cpu_us: cpu_us / done.requests,
            iops: done.iops,
        })
    }

    /// `io_uring_enter` calls per request; none when they cannot be counted here.
    pub(super) fn enters(&self, server: &Daemon) -> Result<Option<f64>> {
        let Some(counter) = Enters::watch(server)? else {
            return Ok(None);
        };
        let done = self.run(server)?;
        Ok(Some(counter.count()? / done.requests))
    }

    /// Runs it and counts the requests.
    pub(super) fn run(&self, server: &Daemon) -> Result<Done> {
        let (rw, job) = match self.pattern {
            Pattern::RandomRead => ("randread", "--time_based"),
            Pattern::FirstWrite => ("write", "--loops=1"),
        };
        self.fio(server, &["--rw", rw, job, "--runtime", &self.secs.to_string()])
    }

    /// Runs it for a number of requests instead of a time.
    pub(super) fn run_requests(&self, server: &Daemon, requests: u64) -> Result<Done> {
        self.fio(server, &["--rw", "randread", "--number_ios", &requests.to_string()])
    }

    fn fio(&self, server: &Daemon, args: &[&str]) -> Result<Done> {
        let mut fio = Command::new("fio");
        fio.args([
            "--name=bench",
            "--ioengine=nbd",
            "--bs=4k",
            "--norandommap",
            "--randrepeat=1",
        ])
        .args(args);
        fio.args([
            "--iodepth",
            &self.depth.to_string(),
            "--size",
            &self.size_bytes.to_string(),
        ]);
        fio.arg(format!("--uri={}", server.uri())).arg("--output-format=json");
        let text = cmd::capture(&mut fio)?;
        // fio prints a line before its JSON.
        let json = &text[text.find('{').unwrap_or(0)..];
        let result: serde_json::Value = serde_json::from_str(json)?;
        let side = &result["jobs"][0][if self.pattern == Pattern::FirstWrite {
            "write"
        } else {
            "read"
        }];
        let number = |name: &str| side[name].as_f64().ok_or_else(|| format!("fio's result has no {name}"));
        Ok(Done {
            requests: number("total_ios")?,
            iops: number("iops")?,
        })
    }
}

/// What fio reports.
#[derive(Debug, Clone, Copy)]
pub(super) struct Done {
    pub(super) requests: f64,
    pub(super) iops: f64,
}

const TRACEFS: &str = "/sys/kernel/tracing";

/// Counts a process's `io_uring_enter` calls: by a histogram in the kernel, which costs next to nothing, or by strace,
/// which slows the server down and so makes its batches larger than they are.
#[derive(Debug)]
enum Enters {
    Kernel {
        pid: u32,
    },
    Strace {
        strace: std::process::Child,
        output: std::path::PathBuf,
    },
}

impl Enters {
    fn watch(server: &Daemon) -> Result<Option<Enters>> {
        let event = Path::new(TRACEFS).join("events/syscalls/sys_enter_io_uring_enter");
        if event.join("trigger").exists() {
            fs::write(event.join("trigger"), HISTOGRAM)?;
            return Ok(Some(Enters::Kernel { pid: server.pid() }));
        }
        if cmd::which("strace").is_none() {
            return Ok(None);
        }
        let output = std::env::temp_dir().join(format!("iomgr-bench-strace-{}", std::process::id()));
        let mut strace = Command::new("strace");
        strace
            .args(["-f", "-c", "-e", "trace=io_uring_enter", "-o"])
            .arg(&output);
        strace.args(["-p", &server.pid().to_string()]).stderr(Stdio::null());
        let strace = strace.spawn()?;
        // Attached when the server names it as its tracer.
        let status = format!("/proc/{}/status", server.pid());
        let traced = || fs::read_to_string(&status).is_ok_and(|text| !text.contains("TracerPid:\t0"));
        for _ in 0..1000 {
            if traced() {
                break;
            }
            std::thread::park_timeout(std::time::Duration::from_millis(5));
        }
        Ok(Some(Enters::Strace { strace, output }))
    }

    fn count(self) -> Result<f64> {
        match self {
            Enters::Kernel { pid } => {
                let event = Path::new(TRACEFS).join("events/syscalls/sys_enter_io_uring_enter");
                let histogram = fs::read_to_string(event.join("hist"))?;
                fs::write(event.join("trigger"), format!("!{HISTOGRAM}"))?;
                Ok(in_histogram(&histogram, &threads(pid)?))
            }
            Enters::Strace { mut strace, output } => {
                let interrupted = Command::new("kill").args(["-INT", &strace.id().to_string()]).status()?;
                strace.wait()?;
                let text = fs::read_to_string(&output)?;
                fs::remove_file(&output)?;
                let calls = interrupted.success().then(|| in_strace(&text)).flatten();
                calls.ok_or_else(|| format!("strace counted nothing: {text}").into())
            }
        }
    }
}

const HISTOGRAM: &str = "hist:keys=common_pid";

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
