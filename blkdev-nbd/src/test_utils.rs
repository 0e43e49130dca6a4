//! A device in memory, and conversations with the protocol core, for tests and examples.

pub mod conversation;
mod model;
pub mod script;

pub use iomgr_core::test_utils::{Logged, MemDevice};
