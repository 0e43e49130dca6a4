//! An asynchronous disk queue on io_uring: ops are queued, deferred when there are too many, planned, submitted, reaped
//! and delivered, all on one thread.
//!
//! ```text
//!  push ─► queued (deferred) ─► plan ─► engine ─► reap ─► split_completion ─► next_completion
//!              ▲                 merge  io_uring                 │
//!              │                        synchronous              │
//!              └─ short, interrupted, ──(simulated)──────────────┘
//!                 part of what failed
//! ```
//!
//! A [`Queue`] belongs to a frontend's thread. Devices push disk ops onto it through [`iomgr_core::OpQueue`]; the frontend
//! adds its own socket, poll and timer ops, so that one `io_uring_enter` carries both.
//!
//! ```
//! use iomgr_core::{Action, FileHandle, Op, OpQueue, Owner, Token};
//! use tqueue::{Config, Queue};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let path = std::env::temp_dir().join(format!("tqueue-doc-{}", std::process::id()));
//! let mut queue = Queue::new(&Config::default())?;
//! let handle = FileHandle::new(std::fs::File::create_new(&path)?);
//! let file = queue.add_file(&handle)?;
//!
//! let lease = queue.alloc(4096).expect("the arena is empty");
//! queue.bytes_mut(lease.data()).expect("no op uses it").fill(7);
//! let action = Action::Write { offset: 0, data: lease.data(), durable: true };
//! let token = Token::new(Owner(0), 1);
//! queue.push(Op { token, file, action }).expect("an empty queue has room");
//! queue.submit_and_wait(None)?;
//!
//! let completion = queue.next_completion().expect("waited for");
//! assert_eq!((completion.token, completion.result), (token, Ok(4096)));
//! queue.free(lease);
//! # std::fs::remove_file(path)?;
//! # Ok(()) }
//! ```
//!
//! # Contract
//! - Every op that was taken completes exactly once, after a submit; one that came back as full never does.
//! - A transfer that comes short is continued; a read that meets the end of its file ends as
//!   [`OpError::EndOfFile`](iomgr_core::OpError::EndOfFile).
//! - Reads, and writes that are durable alike, that are contiguous on a file and in the queue at the same time may go to the
//!   kernel as one ([`PlanLimits`]); never across a flush, and never one that overlaps another. No op can tell: each gets its own
//!   bytes, its own end of the file, and its own error.
//! - The queue owns all memory that ops work on: it is leased from the queue, [lent](Queue::lend) to it, or [borrowed](Queue::borrowed)
//!   for a call that waits for the ops. Memory that the kernel may touch cannot be looked at or changed, and is not leased again, or
//!   given back, before the op has ended.
//! - Disk ops that the kernel has are never more than [`Config::size`](Config); the others wait in their order.
//! - Dropping a queue waits for the disk ops in the kernel; if they do not end in time it leaks their memory, with a line in the log.
//! - After [`Queue::new`] nothing allocates (the synchronous engine may, inside `poll(2)`'s list).
//! - `Discard` and `WriteZeroes` never change the size of a file. On a block device a discard becomes a write of zeros that
//!   the device unmaps if it can, or else nothing; write-zeroes is done by the kernel in whichever way the device has.
//!
//! # Cancellation
//! An op that no engine has seen ends as [`NeverStarted`](iomgr_core::OpError::NeverStarted). A socket, poll or timer op in
//! the kernel ends as `ECANCELED`, or as what it came to meanwhile. A disk op in the kernel goes on to its own end, unless the kernel
//! says that it had not begun it. [`Queue::cancel`] says at once which is which: [`Cancelled`].
//!
//! # Errors
//! [`Queue::new`] names the limit that was hit, and the way round it ([`ErrorKind`]); [`QueueInfo`] says what is done without.
//! An op's error is its own: a part of a merged op fails alone, an op on a file that is not known ends as `EBADF`, one on memory
//! that is not leased as `EINVAL`. Interrupted calls are made again, disk ops up to a hundred times in a row, and refusals for want of
//! resources a few times; whether to try again what else may pass is for the device above. An op that the kernel keeps for ten
//! seconds is reported in the log.
//!
//! # Filters
//! [`Config::filters`](Config) put something between the ops and the engine: faults, latency, a trace, checksums, or one's own
//! ([`filter`]).
//!
//! # In an event loop of one's own
//! [`Queue::completion_fd`] is readable when there is something to reap; `examples/embed.rs` is such a loop. Another thread wakes one
//! that sleeps in [`Queue::submit_and_wait`] through an [`EventWake`] that it polls.

mod buddy;
mod buf;
mod cancel;
mod config;
mod control_ring;
mod counters;
mod drain;
mod driver_buffers;
mod dump;
mod engine;
mod error;
mod fifo;
mod files;
pub mod filter;
mod inflight;
mod make;
mod net;
mod plan;
mod queue;
mod raw;
mod ring;
mod run;
mod settle;
mod setup;
#[cfg(feature = "test-utils")]
pub mod sim;
mod split;
mod stuck;
mod sync;
mod take;
#[cfg(feature = "test-utils")]
pub mod test_utils;
mod wake;
mod watchdog;

pub use buf::{AlignedBuf, BORROWED_MAX, Borrowed};
pub use cancel::Cancelled;
pub use config::{Config, EngineKind, Features, PlanLimits, QueueInfo};
pub use control_ring::ControlRing;
pub use counters::{Counters, Occupancy};
pub use error::{Error, ErrorKind};
pub use iomgr_core::Errno;
pub use net::{Interest, MAX_SEND_PARTS, NetFull};
pub use queue::{Completion, Queue, monotonic_now};
pub use raw::{RAW_BYTES, RawCommand, RawPlace, RawTarget};
pub use wake::EventWake;
pub use watchdog::Watchdog;
