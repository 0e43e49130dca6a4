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
//! **What is here today** is the vocabulary: [`Region`], [`RegionState`] and [`IoFlags`]. The client that runs such
//! requests, with its bounce memory, its orphans (I/O that was cancelled and that the device still owes an answer for) and
//! its hold on their sectors, is the subject of an issue of its own; nothing here does I/O yet.
#![forbid(unsafe_code)]

mod flags;
mod region;

pub use flags::IoFlags;
pub use region::{DeviceIndex, REGIONS_MAX, Region, RegionState, check_regions};
