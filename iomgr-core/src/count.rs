//! A number that one thread counts up and others read, without a lock or a read-modify-write.

use std::sync::atomic::{AtomicU64, Ordering};

/// The number. Only one thread may count.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    /// Counts one more. Release, so that who sees this count sees every earlier one.
    #[inline]
    pub(crate) fn bump(&self) {
        self.add(1);
    }

    /// Counts `n` more.
    #[inline]
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed) + n, Ordering::Release);
    }

    pub(crate) fn read(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}
