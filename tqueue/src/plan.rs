//! The plan step: which of the queued ops go to the kernel now, in which order, and which of them as one.
//!
//! Pure: a batch of ops goes in, groups come out. Each group becomes one op for the kernel; its members are contiguous in
//! [`Plan::order`]. Today every group has one member and the order is that of arrival; merging will only change what
//! [`Plan::make`] puts into the same two lists.

use crate::config::PlanLimits;
use crate::files::FileIndex;
use crate::inflight::Key;

/// What kind of op it is; ops of different kinds never become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write {
        durable: bool,
    },
    /// Nothing moves across it that it might have to cover.
    Flush,
    Discard,
    Zero {
        unmap: bool,
        fast: bool,
    },
    Prefetch,
}

/// An op as the plan sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PlanOp {
    pub(crate) key: Key,
    pub(crate) file: FileIndex,
    pub(crate) kind: Kind,
    /// First byte in the file.
    pub(crate) offset: u64,
    /// How many bytes.
    pub(crate) len: u64,
}

/// Members that become one op for the kernel: a run of [`Plan::order`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) first: u32,
    pub(crate) count: u32,
}

/// The lists of one plan, kept and used again.
#[derive(Debug)]
pub(crate) struct Plan {
    limits: PlanLimits,
    order: Vec<Key>,
    groups: Vec<Group>,
}

impl Plan {
    /// For batches of `capacity` ops.
    pub(crate) fn new(capacity: usize, limits: PlanLimits) -> Self {
        Self {
            limits,
            order: Vec::with_capacity(capacity),
            groups: Vec::with_capacity(capacity),
        }
    }

    /// Plans `batch`, which is in order of arrival and no longer than the capacity.
    pub(crate) fn make(&mut self, batch: &[PlanOp]) {
        assert!(
            batch.len() <= self.order.capacity(),
            "a batch is no longer than the queue's size"
        );
        self.order.clear();
        self.groups.clear();
        for (first, op) in (0..).zip(batch) {
            self.order.push(op.key);
            self.groups.push(Group { first, count: 1 });
        }
    }

    /// Bounds that groups keep to.
    pub(crate) fn limits(&self) -> PlanLimits {
        self.limits
    }

    /// How many groups there are.
    pub(crate) fn len(&self) -> usize {
        self.groups.len()
    }

    /// The members of a group.
    pub(crate) fn group(&self, at: usize) -> &[Key] {
        let Group { first, count } = self.groups[at];
        &self.order[first as usize..][..count as usize]
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use insta::assert_snapshot;

    use super::*;

    fn op(index: u32, kind: Kind, offset: u64, len: u64) -> PlanOp {
        let key = Key { index, generation: 0 };
        let file = FileIndex(0);
        PlanOp {
            key,
            file,
            kind,
            offset,
            len,
        }
    }

    fn show(batch: &[PlanOp]) -> String {
        let mut plan = Plan::new(batch.len(), PlanLimits::default());
        plan.make(batch);
        let mut text = String::new();
        for at in 0..plan.len() {
            let members = plan.group(at).iter();
            let parts = members.map(|key| batch.iter().find(|op| op.key == *key).unwrap());
            let parts: Vec<String> = parts
                .map(|op| format!("#{} {:?} {}+{}", op.key.index, op.kind, op.offset, op.len))
                .collect();
            writeln!(text, "{}", parts.join(" & ")).unwrap();
        }
        text
    }

    #[test]
    fn ops_go_one_by_one_in_order_of_arrival() {
        let batch = [
            op(3, Kind::Write { durable: false }, 4096, 4096),
            op(0, Kind::Write { durable: false }, 0, 4096),
            op(1, Kind::Flush, 0, 0),
            op(2, Kind::Read, 0, 512),
        ];
        assert_snapshot!(show(&batch), @r"
        #3 Write { durable: false } 4096+4096
        #0 Write { durable: false } 0+4096
        #1 Flush 0+0
        #2 Read 0+512
        ");
    }
}
