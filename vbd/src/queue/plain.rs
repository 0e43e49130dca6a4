//! A plain disk's part of a queue: what lies in one run of the file needs no map.

use iomgr_core::{Action, Operation, RequestFlags};

use crate::queue::Next;
use crate::queue::slot::Slot;

/// A plain disk serves any range by one op.
pub(super) fn next(base: u64, durable_writes: bool, slot: &mut Slot) -> Next {
    let request = slot.request.as_ref().expect("a driven slot holds a request");
    let (offset, len) = (base + request.range.offset_bytes(), request.range.len_bytes());
    let fua = request.flags.contains(RequestFlags::FUA);
    let sectors = request.range.count().0;
    let action = match request.op {
        Operation::Read => Action::Read {
            offset,
            data: request.data,
        },
        Operation::Write => Action::Write {
            offset,
            data: request.data,
            durable: fua && durable_writes,
        },
        Operation::Discard => Action::Discard { offset, len },
        Operation::WriteZeroes => Action::WriteZeroes {
            offset,
            len,
            unmap: !request.flags.contains(RequestFlags::NO_UNMAP),
            fast: request.flags.contains(RequestFlags::FAST_ZERO),
        },
        // Past the page cache there is nothing to be filled.
        Operation::Prefetch if durable_writes => return Next::Skip { sectors },
        Operation::Prefetch => Action::Prefetch { offset, len },
        Operation::Flush => unreachable!("a flush has no sectors"),
    };
    slot.durable = fua && durable_writes && request.op == Operation::Write;
    slot.flush_after |= fua && !slot.durable;
    Next::Op { action, sectors }
}
