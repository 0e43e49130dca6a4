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
//! **What is here today** is the part of the interface that is certain: [`Features`], with the kernel that brought each of
//! them, what they demand of one another ([`Features::check`]), and the numbers that the kernel's header fixes. The server,
//! and with it the only unsafe code, is the subject of an issue of its own; nothing here opens a device yet.
//!
//! # References
//! `include/uapi/linux/ublk_cmd.h`, `drivers/block/ublk_drv.c` and `Documentation/block/ublk.rst` of the kernel.

mod abi;
mod features;

pub use abi::{
    CONTROL_PATH, IO_DESC_BYTES, IoOp, MAX_QUEUE_DEPTH, SECTORS_MAX_DISCARD, block_path, char_path, descriptors_offset,
};
pub use features::{Conflict, Features, KernelVersion};
