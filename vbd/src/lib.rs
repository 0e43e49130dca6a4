//! The virtual block device: an image, its map and its statistics behind one [`Device`](iomgr_core::Device), and the server
//! that joins it to a frontend.
//!
//! ```text
//!  frontend thread 0                          frontend thread 1
//!  ┌───────────────┐                          ┌───────────────┐
//!  │ DiskQueue 0   │◄── blocks to allocate ───│ DiskQueue 1   │     requests to mapped blocks never change threads
//!  │  + Metadata   │─── done ────────────────►│               │
//!  └──────┬────────┘                          └──────┬────────┘
//!         └───────────── Disk: file, lock, map, statistics ──┘
//! ```
//!
//! # Contract
//! - A disk's file is locked on the description that its I/O uses, from before its metadata is read until the last op has ended.
//! - A flush that is acknowledged covers every write that was acknowledged before it, the image's metadata included. After a
//!   flush has failed, nothing that needs one is acknowledged until the image is opened again.
//! - The format is given or told by the extension; content is never asked.
//!
//! # Errors
//! Opening answers with [`Error`]; requests end with an error number.
#![forbid(unsafe_code)]

mod block_status;
mod blocking;
mod claim;
mod compare;
mod control;
mod convert;
mod create;
mod disk;
mod error;
mod extents;
mod file;
mod format;
mod generation;
mod layout;
mod map;
mod metadata;
mod null;
mod origin;
mod pair;
mod path_text;
mod patience;
mod pause;
mod pidfile;
mod progress;
mod queue;
mod retry;
mod runtime;
mod server;
mod socket;
mod stable;
mod stats;
#[cfg(test)]
mod test_log;
#[cfg(feature = "test-utils")]
pub mod test_utils;
mod tools;
mod ublk;
mod zeros;

pub use blkdev_nbd::ConnectionLimits;
pub use blkdev_ublk::{Recovery as UblkRecovery, is_bad_release as is_bad_for_ublk, parse_release};
pub use blocking::BlockingDisk;
pub use compare::{CompareOptions, Comparison, Difference, compare};
pub use control::{
    AttachRequest, ControlAnswer, ControlClient, ControlRequest, DetachRequest, DiskSample, GenerationStatus,
    HookStatus, ManagerSet, ManagerStatus, ManagerUnset, NgStatus, Nothing, ParameterInfo, PauseRequest, PolicyInfo,
    ResumeRequest, Sample, Seconds, StatsRequest, Verb, WaitStatus, policies,
};
pub use convert::{ConvertOptions, Copied, Means, convert};
pub use create::{CreateOptions, create};
pub use disk::{Cache, Disk, DiskInfo, DiskOptions};
pub use error::{Error, ErrorKind, ErrorParts};
pub use extents::{Extent, ExtentKind, Extents};
pub use file::{FileExtent, FileOptions, ImageFile};
pub use format::Format;
pub use map::{MapEntry, map};
pub use null::NullDevice;
pub use pause::{Lease, PauseOptions, PauseStatus, ResumeOptions};
pub use pidfile::PidFile;
pub use progress::{Phase, Progress};
pub use retry::{RetryOn, RetryPolicy, RetryStatus};
pub use runtime::{check_disk_name, control_sockets, default_name, make_runtime_dir, runtime_dir};
pub use server::{
    Address, ConnectionStatus, DeviceStatus, DiskEntry, DiskExport, Inherited, LimitsStatus, NbdStatus, Server,
    ServerOptions, Status, Stopper, UblkOptions, UblkServer, UblkStatus, UblkTarget,
};
pub use socket::BoundSocket;
pub use stats::{Direction, DirectionStats, LatencyStats, Stats};
pub use tools::{ImageInfo, check, info, repair};
pub use ublk::{
    UblkDevice, UblkFeature, check_ublk, check_ublk_unused, delete_idle_ublk_device, delete_ublk_device,
    grow_ublk_device, ublk_devices, ublk_features, ublk_log, ublk_loses_cache, ublk_owner, ublk_server,
    ublk_waits_for_server,
};

// What composes the stack, for who builds on this crate alone.
pub use {dmio, iomgr_core, tqueue, vhd};
