//! The synchronisation that [`epoch`](crate::epoch) uses. A model checker puts its own in this place (`tests/loom`).

pub(crate) use std::sync::Arc;
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
