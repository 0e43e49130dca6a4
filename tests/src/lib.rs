//! Guards for devices, mounts and processes, and what else system tests share.
//!
//! A test owns what it sets up: a folder in memory, a loop device, a mount, a server, a throttle. Each is a guard; it
//! is torn down when it is dropped (so a panic tears down as well), on Ctrl-C and SIGTERM by [`cleanup`], and after a
//! SIGKILL by the next run of any test ([`sweep`]), in the reverse of the order in which it was set up.
//!
//! ```text
//!  Server ── TempDir        nbdfuse ── Server        Mount ── Loop ── file in a TempDir or a FUSE file
//! ```
//!
//! # Contract
//!
//! - A test that cannot run here prints one line, `skipped: reason`, and returns: see [`need`].
//! - Nothing waits by sleeping alone: each wait is for a descriptor, or polls a condition until a deadline.
//! - The product is only ever started as a program ([`Server`], [`Tool::iomgr`]).

#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "tests speak to their runner on standard output")]
#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a test helper fails by panicking"
)]

pub mod blkio;
pub mod cleanup;
pub mod dir;
pub mod fuse;
pub mod loopdev;
pub mod mount;
pub mod nbd;
pub mod need;
pub mod pattern;
pub mod process;
pub mod product;
pub mod server;
pub mod sweep;
pub mod tool;
pub mod wait;

pub use blkio::Blkio;
pub use dir::TempDir;
pub use fuse::{NbdFuse, Nbdkit};
pub use loopdev::Loop;
pub use mount::Mount;
pub use nbd::Client;
pub use process::Process;
pub use server::Server;
pub use tool::Tool;
