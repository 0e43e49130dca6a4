//! The synchronisation by which threads meet: that of epochs, of a generation's life (pin, retire, wake), and of the
//! watchdog. A model checker puts its own in this place (`tests/loom`), so that it runs the very code.
//!
//! What is only ever shared (devices, the registry, counts), or locked for a few lines in which nothing of this is used,
//! stays with `std`.

pub(crate) use arc_swap::{ArcSwap, Cache};
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
pub(crate) use std::sync::{Arc, Mutex, MutexGuard};
