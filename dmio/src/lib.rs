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
//! A [`Client`] is what a program uses alone, on one thread:
//!
//! ```
//! use std::sync::Arc;
//! use dmio::{Buffers, Client, ClientConfig, DeviceIndex, FileDevice, FileOptions, IoRequest, Memory, Region};
//! use iomgr_core::{Sector, SectorCount, SectorRange};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let path = std::env::temp_dir().join(format!("dmio-doc-{}", std::process::id()));
//! # std::fs::File::create_new(&path)?.set_len(1 << 20)?;
//! let disk = Arc::new(FileDevice::open(&path, FileOptions::default())?);
//! let mut client = Client::new(ClientConfig { devices: vec![disk], ..ClientConfig::default() })?;
//! let range = SectorRange::new(Sector(64), SectorCount(8)).expect("far below 64 bits");
//! let regions = [Region { device: DeviceIndex(0), range }];
//!
//! let memory = Memory::Bounce(Buffers::One(vec![7; 4096]));
//! let outcome = client.io_sync(IoRequest::write(&regions, memory), None).map_err(|refused| refused.error)?;
//! assert_eq!(outcome.error_mask, 0);
//!
//! let memory = Memory::Bounce(Buffers::One(vec![0; 4096]));
//! let handle = client.io(IoRequest::read(&regions, memory), None).map_err(|refused| refused.error)?;
//! handle.cancel()?; // from any thread; the end is told at once, whatever the device does
//! assert!(client.wait(&handle, None)?);
//! # std::fs::remove_file(path)?;
//! # Ok(()) }
//! ```
//!
//! # How it is built
//!
//! | layer | does |
//! |---|---|
//! | [`Machine`] | decides what becomes of regions; no I/O, memory, thread or clock |
//! | [`Runner`] | the machine with device queues and memory, on a thread and a queue of ops that somebody owns |
//! | [`Client`] | a runner with a `tqueue` of its own, and the loop |
//! | [`FileDevice`] | a file or block device, for clients; every [`Device`](iomgr_core::Device) will do |
//!
//! # Cancellation
//! The kernel does not stop what a disk has begun. So a region that is cancelled is *detached*: it is over at once, and what the device
//! has of it is an **orphan** until the device answers. An orphan keeps its memory, which is never the caller's own (unless that was
//! lent by the pool), and, if it writes, its sectors: a later write that overlaps waits, so that it is never overwritten by an older
//! one. Reads of such sectors go on, and say that they are indeterminate. A device with too many orphans is degraded: regions fail
//! there at once, until it answers, or is replaced.
//!
//! # Contract
//! - Each region's notifications match `T?(O|E|C)`; they come from inside [`Client::poll`] and whatever else waits, never from inside
//!   [`Client::io`].
//! - After CANCELLED no device touches the caller's memory. A cancelled read into bounce memory leaves it as it was; a cancelled write
//!   leaves each sector old or new.
//! - No two writes that a device has at the same time overlap.
//! - `min_ios` requests with bounce memory make progress on each device, whatever other devices do.
//! - Nothing allocates after [`Client::new`].
//!
//! # Events
//! `tracing` tells of `region_timed_out`, `region_cancelled`, `region_failed`, `request_cancelled`, `device_cancelled`, `leg_orphaned`,
//! `leg_late`, `memory_returned`, `device_degraded`, `device_healthy`, `device_fenced`, `device_unfenced`, `device_replaced`,
//! `answer_unknown` and `flush_failed`; [`Counters`] counts, and [`Client::dump`] shows all that is under way.
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
