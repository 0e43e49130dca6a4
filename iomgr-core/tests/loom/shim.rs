//! What `src/shim.rs` is in the crate.

pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
pub(crate) use loom::sync::{Arc, Condvar, Mutex, MutexGuard};

/// A shared pointer that is replaced as a whole.
#[derive(Debug)]
pub(crate) struct ArcSwap<T> {
    pointer: Mutex<Arc<T>>,
    /// Counts changes. A cache compares no more than this, without any order, as the original compares pointers.
    version: AtomicUsize,
}

impl<T> ArcSwap<T> {
    pub(crate) fn new(pointer: Arc<T>) -> Self {
        Self {
            pointer: Mutex::new(pointer),
            version: AtomicUsize::new(0),
        }
    }

    pub(crate) fn load(&self) -> Arc<T> {
        Arc::clone(&self.pointer.lock().unwrap())
    }

    pub(crate) fn swap(&self, next: Arc<T>) -> Arc<T> {
        let mut pointer = self.pointer.lock().unwrap();
        self.version
            .store(self.version.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        std::mem::replace(&mut pointer, next)
    }
}

/// One thread's copy of such a pointer.
#[derive(Debug)]
pub(crate) struct Cache<A, P> {
    source: A,
    cached: P,
    version: usize,
}

impl<T> Cache<std::sync::Arc<ArcSwap<T>>, Arc<T>> {
    pub(crate) fn new(source: std::sync::Arc<ArcSwap<T>>) -> Self {
        let pointer = source.pointer.lock().unwrap();
        let (cached, version) = (Arc::clone(&pointer), source.version.load(Ordering::Relaxed));
        drop(pointer);
        Self {
            source,
            cached,
            version,
        }
    }

    pub(crate) fn load(&mut self) -> &Arc<T> {
        if self.source.version.load(Ordering::Relaxed) != self.version {
            let pointer = self.source.pointer.lock().unwrap();
            self.cached = Arc::clone(&pointer);
            self.version = self.source.version.load(Ordering::Relaxed);
        }
        &self.cached
    }
}

/// Where a thread sleeps, as on an eventfd.
#[derive(Debug, Default)]
pub(crate) struct Bed {
    is_rung: Mutex<bool>,
    ring: Condvar,
}

impl Bed {
    pub(crate) fn wake(&self) {
        *self.is_rung.lock().unwrap() = true;
        self.ring.notify_one();
    }

    pub(crate) fn sleep(&self) {
        let mut is_rung = self.is_rung.lock().unwrap();
        while !*is_rung {
            is_rung = self.ring.wait(is_rung).unwrap();
        }
        *is_rung = false;
    }

    pub(crate) fn is_rung(&self) -> bool {
        *self.is_rung.lock().unwrap()
    }
}
