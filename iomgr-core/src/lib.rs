//! The shared vocabulary of the iomgr block stack, its device trait, and the framework of I/O request managers.
//!
//! Every other crate of the workspace builds on this one; this one knows no implementation of a device, no ring and no
//! file format. It does no I/O, starts no thread and reads no clock: time enters as a [`Timestamp`].
//!
//! ```text
//!  frontend ──► Request ──► Device queue ──► Op ──► OpQueue (tqueue: io_uring, synchronous, simulated)
//!      ▲                        │    ▲                 │
//!      └──────── Done ──────────┘    └──── OpDone ─────┘
//! ```
//!
//! A frontend owns the thread and the loop. In each pass it hands completed ops back to the device queues
//! ([`DeviceQueue::op_done`]), takes finished requests from them ([`DeviceQueue::poll_done`]) and submits new ones
//! ([`DeviceQueue::submit`]); device queues push the ops that those requests need onto the very same queue, so that a
//! batch of requests costs one `io_uring_enter`.
#![forbid(unsafe_code)]

mod count;
mod device;
pub mod epoch;
#[cfg_attr(iomgr_no_hooks, path = "bare_lane.rs")]
mod lane;
pub mod manager;
mod op;
mod outlet;
pub mod policy;
mod request;
mod scale;
mod shim;
pub mod stats;
mod storage;
#[cfg(any(test, feature = "test-utils"))]
pub mod test_utils;
mod time;
mod units;
mod wake;

pub use device::{BlockStatus, Busy, CancelOutcome, Device, DeviceQueue, Limits, Pass, QueueContext};
pub use lane::Lane;
pub use op::{
    Action, BufId, Data, DataHome, FileHandle, FileSlot, Full, Lease, Op, OpDone, OpError, OpQueue, Owner, SimFile,
    Token,
};
pub use request::{Class, Done, Ended, Operation, Request, RequestFlags, Tag};
pub use rustix::io::Errno;
pub use storage::Storage;
pub use time::Timestamp;
pub use units::{SECTOR_BYTES, SECTOR_SHIFT, Sector, SectorCount, SectorRange};
pub use wake::{Wake, Waker};
