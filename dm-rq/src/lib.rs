//! Request-based device-mapper in user space: a table of targets under a queue of requests.
//!
//! The heir of Linux's request-based device-mapper of 2009. A mapped device owns a request queue and two slots for tables;
//! a request finds its target by its start sector, a clone of it is mapped, and the target says what becomes of it:
//!
//! ```text
//!  request ──► queue ──► find target ──► clone ──► map ─┬─ Submitted     the target owns the clone
//!                ▲                                      ├─ Remapped      dispatch the clone below
//!                ├──────────── back to the head ────────┼─ Requeue
//!                ├──────────── … after a while ─────────┼─ DelayRequeue
//!                                                       └─ Kill          end with an error
//! ```
//!
//! **What is here today**: tables as text ([`TableLine`], [`Table`]), with dmsetup's syntax and the rules that make a table
//! of lines (sorted, no gap, no overlap), and a target's answer ([`MapResult`]). Queue, targets, suspend and resume are the
//! subject of an issue of its own; nothing here maps a request yet.
#![forbid(unsafe_code)]

mod error;
mod map;
mod table;

pub use error::{Error, ErrorKind};
pub use map::MapResult;
pub use table::{Table, TableLine};
