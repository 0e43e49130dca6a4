//! S3-6, as the disks see it: no two writes that a disk has at the same time overlap.

use std::collections::HashMap;
use std::ops::Range;

use tqueue::sim::{Happened, SimCall, Trace};

pub(crate) fn check(trace: &Trace) {
    assert_eq!(trace.forgotten, 0, "the whole run was recorded");
    let mut outstanding: HashMap<u64, (u32, Range<u64>)> = HashMap::new();
    for event in &trace.events {
        match &event.what {
            Happened::Issued {
                op,
                file: Some(file),
                call: SimCall::Write(start, len, _) | SimCall::Zero(start, len),
                ..
            } => {
                let range = *start..start + len;
                let other = outstanding
                    .values()
                    .find(|(of, other)| of == file && other.start < range.end && range.start < other.end);
                assert!(other.is_none(), "{event} overlaps {other:?}\n{trace}");
                outstanding.insert(*op, (*file, range));
            }
            Happened::Completed { op, .. } => drop(outstanding.remove(op)),
            _ => {}
        }
    }
}
