//! The synchronisation that epochs and the manager's sleepers use. A model checker puts its own in this place
//! (`tests/loom`), so that it runs the very code.

pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
pub(crate) use std::sync::{Arc, Mutex, MutexGuard};
