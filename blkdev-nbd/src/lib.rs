//! An NBD server for block devices: the frontend of the iomgr stack that needs no kernel driver and no privilege.
//!
//! QEMU, libnbd, nbdkit, fio and the kernel's own client speak NBD. A [`Server`] serves any [`iomgr_core::Device`] to them on
//! unix and TCP sockets, with many requests in flight per connection, from threads that each own one
//! [`tqueue::Queue`]: the clients' bytes and the device's own I/O share a ring, so that a batch of requests costs one system
//! call.
//!
//! ```text
//!  client ── bytes ──► staging buffer ──► proto::Transmission ──► Command      one receive brings many
//!                                                                   │ waits for its memory, its payload, a slot (= tag)
//!                                                                   ▼
//!                                           Intake: held by a manager, or granted
//!                                                                   │ alloc
//!                                                                   ▼
//!                              DeviceQueue::submit … poll_done ──► free
//!                                                                   │ slot free again
//!                                                                   ▼
//!  client ◄── one gathered send: headers and data ◄──────────── outbox         one send takes many
//! ```
//!
//! The protocol itself is in [`proto`]: two machines that do no I/O, for whoever needs them elsewhere.
//!
//! ```
//! use std::os::unix::net::UnixListener;
//! use std::sync::Arc;
//!
//! use blkdev_nbd::test_utils::MemDevice;
//! use blkdev_nbd::{Export, Server, ServerConfig};
//! use iomgr_core::manager::Registry;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let socket = std::env::temp_dir().join(format!("blkdev-nbd-doc-{}", std::process::id()));
//! let registry = Registry::new();
//! let export = Export {
//!     name: "memory".to_owned(),
//!     description: "64 MiB of memory".to_owned(),
//!     managed: registry.attach("memory")?,
//!     device: Arc::new(MemDevice::new("memory", 64 << 20)),
//! };
//! let server = Server::start(ServerConfig::new(UnixListener::bind(&socket)?, vec![export]))?;
//! // nbdinfo 'nbd+unix:///memory?socket=…'
//! server.stop()?;
//! # std::fs::remove_file(socket)?;
//! # Ok(()) }
//! ```
//!
//! # What of the protocol is served
//!
//! | part | served | otherwise |
//! |---|---|---|
//! | handshake | fixed newstyle, no zeroes | oldstyle is never offered; unknown client flags drop the connection |
//! | options | `EXPORT_NAME`, `ABORT`, `LIST`, `INFO`, `GO`, `STRUCTURED_REPLY`, `LIST_META_CONTEXT`, `SET_META_CONTEXT` | `ERR_UNSUP`, `STARTTLS` and `EXTENDED_HEADERS` included |
//! | information | `EXPORT`, `NAME`, `DESCRIPTION`, `BLOCK_SIZE` | left out |
//! | contexts | `base:allocation` | ignored |
//! | commands | `READ`, `WRITE`, `DISC`, `FLUSH`, `TRIM`, `CACHE`, `WRITE_ZEROES`, `BLOCK_STATUS` | `EINVAL` |
//! | command flags | `FUA` everywhere; `DF` on `READ`, `NO_HOLE` and `FAST_ZERO` on `WRITE_ZEROES`, `REQ_ONE` on `BLOCK_STATUS` | `EINVAL` |
//! | replies | structured if asked for (`NONE`, `OFFSET_DATA`, `OFFSET_HOLE`, `BLOCK_STATUS`, `ERROR`, `ERROR_OFFSET`), else simple | |
//! | transmission flags | `READ_ONLY`, `SEND_FLUSH`, `SEND_FUA`, `ROTATIONAL`, `SEND_TRIM`, `SEND_WRITE_ZEROES`, `SEND_DF`, `CAN_MULTI_CONN`, `SEND_CACHE`, `SEND_FAST_ZERO` | |
//! | block sizes | minimum 512 or the device's, payloads up to 32 MiB or half of the arena | `EINVAL` |
//! | transport | unix stream sockets, TCP | no TLS |
//!
//! A structured read leaves zeros out where the device knows of them without reading: runs from 4 KiB on, at most 16 pieces
//! a read. A read of zeros alone waits for its memory and passes the managers' hooks, but never reaches the device. An answer to
//! `BLOCK_STATUS` has at most 512 extents, in whole blocks, none beyond what was asked for.
//!
//! # Exports come and go
//!
//! [`Server::attach`] and [`Server::detach`] change the exports while others work:
//!
//! ```text
//!  attach ─► each thread opens its queue of the device, the first one before the others ─► clients find the export
//!
//!  detach ─► clients find it no more ─► held requests end with ESHUTDOWN ┐
//!                                   └─► what the device has ends         ┴─► replies ─► connections closed ─► queues closed,
//!                                                                                                  those of the first thread last
//! ```
//!
//! A handshake that names an export which has gone is told so, and may name another one. The empty name means the export that is
//! there the longest; a server without exports goes on, and refuses it.
//!
//! # Contract
//! - A reply is sent when the device has ended the request: a flush covers every write that was answered before it on any
//!   connection, and FUA is the device's.
//! - A client costs its own connection only: [`ConnectionLimits`] bounds connections, commands in flight, and the time for
//!   the handshake and between commands; refused payloads are skipped without being stored, and a peer that goes leaves no
//!   request, buffer or slot behind.
//! - A client that stands still (a payload announced and not sent, replies not taken) is in nobody's way: each connection has
//!   a buffer for a payload of 64 KiB that nobody can take, and no connection holds more memory than it leaves free. A long
//!   payload waits for it no longer than [`stall_timeout`](ConnectionLimits::stall_timeout). Who is in nobody's way stays.
//! - What a manager holds of one class leaves slots for the others: held writes, however many, keep no read of their device out.
//! - After [`Server::start`] a request allocates nothing, and an idle connection wakes nobody. A connection costs its descriptor, and address space that becomes
//!   memory where it is used.
//!
//! # Errors
//! A command's error is the device's, as [`proto::NbdError`] numbers it, or says what is wrong with the command; a peer that
//! breaks the framing is dropped. [`Error`] is about the server as a whole.
//!
//! # References
//! doc/proto.md of the `nbd` project.

#![forbid(unsafe_code)]

mod config;
mod error;
mod export;
mod listener;
pub mod proto;
mod roster;
mod server;
mod stats;
#[cfg(any(test, feature = "test-utils"))]
pub mod test_utils;
mod worker;

pub use config::{ConnectionLimits, ServerConfig};
pub use error::{Error, ErrorKind};
pub use export::Export;
pub use listener::Listener;
pub use server::Server;
pub use stats::{ConnectionStats, ServerStats};
