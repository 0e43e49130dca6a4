//! `fault`: lets ops fail before any engine sees them, at random but the same way for the same seed.
//!
//! Text form: `fault:rate=0.01,op=write,errno=EIO,range=1MiB-2MiB,seed=7`; every field may be left out.
//!
//! | field | is | if not given |
//! |---|---|---|
//! | `rate` | the part of the ops in its scope that fail: 0 to 1, or a percentage such as `0.5%` | 1 |
//! | `op` | kinds of ops, joined by `+`: `read`, `write`, `flush`, `discard`, `zero`, `prefetch`; or `all` | `read+write+discard+zero` |
//! | `range` | ops that touch these bytes of the file | everywhere |
//! | `errno` | how they end: a name such as `EIO`, `ENOSPC`, `EAGAIN`, or a number from 1 to 4095 | `EIO` |
//! | `seed` | which of them fail | 0 |
//!
//! # Contract
//! The `n`-th op in scope, counted from 0 in each queue by itself in the order of pushing, fails if and only if
//! [`FaultConfig::hits`] says so of `n`. So a single-threaded run repeats exactly.
//!
//! A flush fails only where `op` names it, because a disk does not go on after a flush that failed.
//!
//! # References
//! blktap2's `tapdisk-filter.c` (`TD_INJECT_FAULTS`); nbdkit's error filter.

use std::fmt;

use super::text::{Field, errno_name};
use super::{Filter, FilterOp, OpKinds, Scope, Verdict, random};
use crate::{Errno, Error};

/// What is to fail, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct FaultConfig {
    /// Which ops are counted.
    pub scope: Scope,
    /// The part of them that fails, from 0 to 1.
    pub rate: f64,
    /// How they end.
    pub errno: Errno,
    /// Which of them fail.
    pub seed: u64,
}

impl Default for FaultConfig {
    /// All reads, writes, discards and write-zeroes, `EIO`.
    fn default() -> Self {
        let kinds = OpKinds::READ | OpKinds::WRITE | OpKinds::DISCARD | OpKinds::ZERO;
        Self {
            scope: Scope { kinds, range: None },
            rate: 1.0,
            errno: Errno::IO,
            seed: 0,
        }
    }
}

impl FaultConfig {
    /// Does the `n`-th op in scope fail?
    pub fn hits(&self, n: u64) -> bool {
        // 53 bits are what a double holds exactly, so a rate of 1 is above all of them, and one of 0 above none.
        #[allow(clippy::cast_precision_loss, reason = "a number of 53 bits is exact")]
        let part = (random::number(self.seed, n) >> 11) as f64 / (1u64 << 53) as f64;
        part < self.rate
    }

    pub(super) fn parse(fields: &[Field<'_>]) -> Result<Self, Error> {
        let mut config = Self::default();
        for &field in fields {
            match field.name {
                "rate" => config.rate = parse_rate(field)?,
                "errno" => config.errno = field.errno()?,
                "seed" => config.seed = field.seed()?,
                _ if config.scope.parse(field)? => {}
                _ => return Err(field.unknown("rate, op, range, errno and seed")),
            }
        }
        Ok(config)
    }
}

fn parse_rate(field: Field<'_>) -> Result<f64, Error> {
    let (digits, unit) = match field.value.strip_suffix('%') {
        Some(percent) => (percent, 100.0),
        None => (field.value, 1.0),
    };
    let rate = digits.parse::<f64>().map(|number| number / unit).ok();
    rate.filter(|rate| (0.0..=1.0).contains(rate))
        .ok_or_else(|| field.wrong("say a number from 0 to 1, or a percentage such as 0.5%"))
}

impl fmt::Display for FaultConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            scope,
            rate,
            errno,
            seed,
        } = self;
        write!(f, "fault:rate={rate},{scope},errno={},seed={seed}", errno_name(*errno))
    }
}

/// The filter.
#[derive(Debug)]
pub(super) struct Fault {
    config: FaultConfig,
    /// Ops in scope so far.
    seen: u64,
    failed: u64,
}

impl Fault {
    pub(super) fn new(config: FaultConfig) -> Self {
        Self {
            config,
            seen: 0,
            failed: 0,
        }
    }
}

impl Filter for Fault {
    fn before(&mut self, op: &FilterOp<'_>) -> Verdict {
        if !self.config.scope.has(op) {
            return Verdict::Go;
        }
        let hit = self.config.hits(self.seen);
        self.seen += 1;
        if !hit {
            return Verdict::Go;
        }
        self.failed += 1;
        tracing::debug!(token = ?op.op.token, kind = %op.kind(), offset = op.offset(), len = op.len_bytes(), "fault_injected");
        Verdict::Fail(self.config.errno)
    }

    fn dump(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        writeln!(out, "{} of {} ops in its scope failed", self.failed, self.seen)
    }
}
