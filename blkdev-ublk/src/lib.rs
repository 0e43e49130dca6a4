//! ublk frontend: real `/dev/ublkbN` block devices, served from user space.
//!
//! The kernel's `ublk_drv` hands a block device's requests to a server by io_uring commands: control commands on
//! `/dev/ublk-control`, and, per queue and tag, a command on `/dev/ublkcN` that completes when there is a request:
//!
//! ```text
//!  file system ──► /dev/ublkbN ──► ublk_drv ══ io_uring commands ══► server ──► device queue
//!                                     ▲                                │
//!                                     └───────── commit and fetch ─────┘
//! ```
//!
//! [`Server`] serves any [`iomgr_core::Device`]: for each hardware queue one thread, one ring, one [`tqueue::Queue`] carry the
//! driver's commands and the I/O that they cause, so that a pass costs one `io_uring_enter`. [`Control`] looks at devices and
//! ends them, whoever serves them. Data are copied between the driver and the queue's arena; or
//! the driver registers the pages of requests with the thread's ring ([`ServerConfig::zero_copy`]).
//!
//! A device can outlive its server ([`Recovery`]): [`Server::recover`] goes on with one whose server has died,
//! [`Server::hand_over`] leaves it to the next.
//!
//! # Contract
//! - A request passes the managers' hooks ([`iomgr_core::Lane`]) and ends once: with its whole length (read, write), with 0
//!   (flush, discard, write-zeroes), or with an error. Never short.
//! - The device's queue 0 is opened before all others, and closed after them.
//! - A tag's buffer belongs to the kernel from fetch or commit to the delivery, and is held by the queue for as long.
//! - What the driver is told of a device is true ([`Params`]); what it made of it is looked at, not believed.
//! - The process must not share a mount namespace with those whose memory may be written back through the device, and a
//!   request has no time limit: one that never ends leaves its submitter hanging.
//!
//! # Errors
//! [`Error`], with a kind and a way out. A failed thread ends the server; the device goes away with the process.
//!
//! # References
//! `include/uapi/linux/ublk_cmd.h`, `drivers/block/ublk_drv.c` and `Documentation/block/ublk.rst` of the kernel.

mod abi;
mod affinity;
mod config;
mod control;
mod driver;
mod error;
#[cfg(test)]
mod fake;
mod features;
mod kernel;
mod list;
mod queue;
mod release;
mod server;
#[cfg(test)]
mod tests;

pub use abi::{
    Attributes, CONTROL_PATH, Descriptor, DeviceInfo, DeviceState, DiscardParams, IO_DESC_BYTES, IoOp, MAX_QUEUE_DEPTH,
    Params, SECTORS_MAX_DISCARD, block_path, char_path, descriptors_offset,
};
pub use config::{Recovery, ServerConfig, check_sizes};
pub use control::Control;
pub use error::{Error, ErrorKind};
pub use features::{Conflict, Features, KernelVersion};
pub use list::device_ids;
pub use release::{check_kernel, is_bad_release, parse_release};
pub use server::{CarefulStop, Server, ServerStats};
