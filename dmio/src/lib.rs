//! I/O to regions of block devices that always ends: OK, TIMEOUT, CANCELLED or ERROR, in bounded time.
//!
//! The heir of the dm-io client with timeout and cancel that was proposed on dm-devel in 2006. A request names up to 64
//! regions, each on a device of its own (a mirror's legs, say), and every region ends by itself:
//!
//! ```text
//!  io ──► running ──┬──► OK ───────────────┐
//!            │      ├──► ERROR ────────────┼──► over: the caller's memory is free
//!            │      └──► CANCELLED ────────┘
//!            └─ TIMEOUT: notified once, the I/O goes on and still ends in one of the three
//! ```
//!
//! **What is here today** is the machine that decides, [`Machine`]: it does no I/O, has no memory, no thread and no clock, and
//! tells its owner what to submit and what has happened. The client that runs it on a queue comes next.
#![forbid(unsafe_code)]

mod client;
mod core;
mod counters;
mod error;
mod file_device;
mod flags;
mod handle;
mod machine;
mod meeting;
mod memory;
mod notify;
mod region;
mod runner;
mod shim;
mod slots;
mod wheel;

pub use self::core::Clock;
pub use client::{Client, ClientConfig, IoRequest, NotDestroyed, Outcome, Refused, States};
pub use counters::{Counters, Occupancy};
pub use error::{Error, ErrorKind};
pub use file_device::{FileDevice, FileOptions};
pub use flags::IoFlags;
pub use handle::{Handle, Remote};
pub use machine::{
    CellId, Completed, DeviceConfig, Dump, Event, Generation, Io, Late, LegId, Machine, MachineConfig, MemoryKind,
    RegionEvent, RequestId, Submission, ToCancel,
};
pub use memory::{Buffers, Memory};
pub use notify::{Notification, Notify, Watch};
pub use region::{Cancelled, DeviceIndex, REGIONS_MAX, Reason, Region, RegionState};
pub use runner::{Payload, PlaceInfo, Runner, RunnerConfig};
pub use tqueue::{AlignedBuf, Borrowed};
pub use wheel::{TICK_SHIFT, Wheel};
