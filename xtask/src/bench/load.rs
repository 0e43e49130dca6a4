//! One measurement: fio's NBD engine against one server.

use std::process::Command;

use super::daemon::Daemon;
use super::enters::Enters;
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
