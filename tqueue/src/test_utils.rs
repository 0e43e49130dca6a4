//! What benchmarks need of the inside.

use crate::config::PlanLimits;
use crate::files::FileIndex;
use crate::inflight::Key;
use crate::plan::{Kind, Plan, PlanOp};

/// The plan step by itself: reads of one length on one file, planned as often as one likes.
#[derive(Debug)]
pub struct Planner {
    plan: Plan,
    batch: Vec<PlanOp>,
}

impl Planner {
    /// A batch of reads at `offsets`, in order of arrival.
    pub fn new(limits: PlanLimits, len: u64, offsets: &[u64]) -> Self {
        let op = |(index, &offset)| PlanOp {
            key: Key { index, generation: 0 },
            file: FileIndex(0),
            kind: Kind::Read,
            offset,
            len,
            alone: false,
        };
        Self {
            plan: Plan::new(offsets.len(), limits),
            batch: (0..).zip(offsets).map(op).collect(),
        }
    }

    /// Plans the batch; says how many groups came of it.
    pub fn make(&mut self) -> usize {
        self.plan.make(&self.batch);
        self.plan.len()
    }
}
