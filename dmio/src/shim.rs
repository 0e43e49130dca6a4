//! The synchronisation by which threads meet. A model checker puts its own in this place (`tests/loom`), so that it runs the
//! very code.

pub(crate) use iomgr_core::Waker;
pub(crate) use std::sync::{Mutex, PoisonError};
