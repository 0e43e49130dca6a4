//! `trace`: writes down each op and how it ended, in the log and for the dump.
//!
//! Text form: `trace`, or `trace:last=1000`.
//!
//! | field | is | if not given |
//! |---|---|---|
//! | `last` | so many ops, the last that ended, are shown by [`Queue::dump`](crate::Queue::dump): 1 to 65536 | 64 |
//!
//! Each op also makes one event `op_traced` of the level *debug* when it ends, under the target `tqueue::filter::trace`;
//! `IOMGR_LOG=tqueue::filter::trace=debug` lets `iomgr` show them and nothing else. Behind a filter that changes results it
//! shows what the disk said, before it what the queue's user gets; behind one that fails an op it does not see that op.
//!
//! # References
//! blktap2's `block-log`; nbdkit's log filter.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use iomgr_core::{OpError, Timestamp, Token};

use super::text::Field;
use super::{Filter, FilterOp, FilterSetup, OpKinds, Verdict};
use crate::Error;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceConfig {
    /// Ops that the dump shows, from 1.
    pub last: u32,
}

impl Default for TraceConfig {
    fn default() -> Self {
        Self { last: 64 }
    }
}

impl TraceConfig {
    pub(super) fn parse(fields: &[Field<'_>]) -> Result<Self, Error> {
        let mut config = Self::default();
        for field in fields {
            match field.name {
                "last" => {
                    let way_out = "say a number from 1 to 65536";
                    config.last = field.number(way_out)?;
                    if !(1..=65536).contains(&config.last) {
                        return Err(field.wrong(way_out));
                    }
                }
                _ => return Err(field.unknown("last")),
            }
        }
        Ok(config)
    }
}

impl fmt::Display for TraceConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "trace:last={}", self.last)
    }
}

/// The filter.
#[derive(Debug)]
pub(super) struct Trace {
    /// When the op in each place came.
    came: Box<[Timestamp]>,
    /// The oldest first; never grows past its capacity.
    last: VecDeque<Line>,
    room: usize,
}

/// An op that ended.
#[derive(Clone, Copy, Debug)]
struct Line {
    came: Timestamp,
    took: Duration,
    token: Token,
    kind: OpKinds,
    offset: u64,
    len: u64,
    result: Result<(), OpError>,
}

impl Trace {
    pub(super) fn new(config: TraceConfig, setup: FilterSetup) -> Self {
        let room = config.last.max(1) as usize;
        Self {
            came: vec![Timestamp::ZERO; setup.places as usize].into(),
            last: VecDeque::with_capacity(room),
            room,
        }
    }
}

impl Filter for Trace {
    fn before(&mut self, op: &FilterOp<'_>) -> Verdict {
        self.came[op.place as usize] = op.now;
        Verdict::Go
    }

    fn after(&mut self, op: &FilterOp<'_>, result: Result<(), OpError>) -> Result<(), OpError> {
        let came = self.came[op.place as usize];
        let line = Line {
            came,
            took: op.now.since(came),
            token: op.op.token,
            kind: op.kind(),
            offset: op.offset(),
            len: op.len_bytes(),
            result,
        };
        tracing::debug!(token = ?line.token, kind = %line.kind, offset = line.offset, len = line.len, took = ?line.took, ?result, "op_traced");
        if self.last.len() == self.room {
            self.last.pop_front();
        }
        self.last.push_back(line);
        result
    }

    fn dump(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        self.last.iter().try_for_each(|line| writeln!(out, "{line}"))
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, offset, len, .. } = self;
        let (came, took) = (Duration::from_nanos(self.came.as_nanos()), self.took);
        write!(f, "{came:?}: {:?} {kind} {offset}+{len} ", self.token)?;
        match self.result {
            Ok(()) => write!(f, "took {took:?}"),
            Err(error) => write!(f, "failed after {took:?}: {error}"),
        }
    }
}
