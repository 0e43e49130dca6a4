//! `latency`: holds each op for a while before the engine gets it, as a slower disk would.
//!
//! Text form: `latency:1ms`, or `latency:1ms-5ms,op=read,range=0-1GiB,seed=3`.
//!
//! | field | is | if not given |
//! |---|---|---|
//! | the first | how long: a time with its unit (`ns`, `us`, `ms`, `s`, `min`, `h`), or two, between which each op draws its own; up to `1h` | must be given |
//! | `op` | kinds of ops, joined by `+`: `read`, `write`, `flush`, `discard`, `zero`, `prefetch`; or `all` | all but `prefetch` |
//! | `range` | ops that touch these bytes of the file | everywhere |
//! | `seed` | which times are drawn | 0 |
//!
//! # Contract
//! - Never ends an op sooner: it takes the time drawn and its own. The time runs from pushing, so it also counts for an op
//!   that would have had to wait for room in the kernel.
//! - Nothing is kept busy meanwhile, and any number of ops is held at the same time: it adds to the latency, not to the work.
//! - Times are uniform over the range, both ends included, in nanoseconds. The `n`-th op in scope draws the same time for
//!   the same seed.
//! - In simulation the time is exact. Elsewhere the kernel's timers have it last longer: some 50 µs is usual.
//!
//! # References
//! nbdkit's delay filter; dm-delay (`drivers/md/dm-delay.c`).

use std::fmt;
use std::time::Duration;

use super::text::{Field, time_text};
use super::{Filter, FilterOp, OpKinds, Scope, Verdict, random};
use crate::Error;

/// What is held, and how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LatencyConfig {
    /// Which ops are held.
    pub scope: Scope,
    /// The shortest time.
    pub min: Duration,
    /// The longest time, no shorter than `min`.
    pub max: Duration,
    /// Which times are drawn.
    pub seed: u64,
}

impl LatencyConfig {
    /// The same time for all ops but prefetches.
    pub fn fixed(time: Duration) -> Self {
        let kinds = OpKinds::all() - OpKinds::PREFETCH;
        Self {
            scope: Scope { kinds, range: None },
            min: time,
            max: time,
            seed: 0,
        }
    }

    /// How long the `n`-th op in scope is held.
    pub fn time(&self, n: u64) -> Duration {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let spread = nanos(self.max.saturating_sub(self.min));
        self.min + Duration::from_nanos(random::at_most(self.seed, n, spread))
    }

    pub(super) fn parse(fields: &[Field<'_>]) -> Result<Self, Error> {
        let mut config = Self::fixed(Duration::ZERO);
        let mut given = false;
        for &field in fields {
            match field.name {
                "" => {
                    (config.min, config.max) = parse_times(field)?;
                    given = true;
                }
                "seed" => config.seed = field.seed()?,
                _ if config.scope.parse(field)? => {}
                _ => return Err(field.unknown("a time, op, range and seed")),
            }
        }
        if given {
            return Ok(config);
        }
        Err(Error::filter(
            "latency: says no time; say latency:1ms or latency:1ms-5ms",
        ))
    }
}

fn parse_times(field: Field<'_>) -> Result<(Duration, Duration), Error> {
    let (min, max) = field.value.split_once('-').unwrap_or((field.value, field.value));
    let (min, max) = (field.time(min)?, field.time(max)?);
    if min > max {
        return Err(field.wrong("say the shorter time first"));
    }
    Ok((min, max))
}

impl fmt::Display for LatencyConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scope, min, max, seed } = self;
        write!(f, "latency:{}", time_text(*min))?;
        if min == max {
            return write!(f, ",{scope}");
        }
        write!(f, "-{},{scope},seed={seed}", time_text(*max))
    }
}

/// The filter.
#[derive(Debug)]
pub(super) struct Latency {
    config: LatencyConfig,
    /// Ops in scope so far.
    seen: u64,
}

impl Latency {
    pub(super) fn new(config: LatencyConfig) -> Self {
        Self { config, seen: 0 }
    }
}

impl Filter for Latency {
    fn before(&mut self, op: &FilterOp<'_>) -> Verdict {
        if !self.config.scope.has(op) {
            return Verdict::Go;
        }
        let time = self.config.time(self.seen);
        self.seen += 1;
        Verdict::Hold(time)
    }

    fn dump(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        writeln!(out, "{} ops held so far", self.seen)
    }
}
