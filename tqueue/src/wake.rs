//! Waking a queue thread from other threads: a flag, and an eventfd that its ring polls.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use iomgr_core::{Errno, FileHandle, Wake};
use rustix::event::{EventfdFlags, eventfd};

/// Wakes a thread that polls its eventfd. At most one wake-up is counted at a time: while the flag is up, the thread is going
/// to look anyway.
#[derive(Debug)]
pub struct EventWake {
    fd: Arc<OwnedFd>,
    called: AtomicBool,
}

impl EventWake {
    /// Not woken so far.
    pub fn new() -> Result<Arc<Self>, Errno> {
        let fd = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let called = AtomicBool::new(false);
        Ok(Arc::new(Self { fd, called }))
    }

    /// The eventfd, to be polled.
    pub fn file(&self) -> FileHandle {
        FileHandle::Fd(Arc::clone(&self.fd))
    }

    /// Takes the wake-up; whatever was made known before it is visible after this. The poll may be armed again then.
    pub fn take(&self) {
        // First the count, then the flag: a call in between finds the flag up, and its news are read after this. One that
        // comes later counts anew.
        let mut count = [0; 8];
        let _empty_is_fine = rustix::io::read(&self.fd, &mut count);
        self.called.swap(false, Ordering::AcqRel);
    }
}

impl Wake for EventWake {
    fn wake(&self) {
        if !self.called.swap(true, Ordering::AcqRel) {
            // It cannot fail: the count never gets anywhere near its end.
            let _written = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readable(wake: &EventWake) -> bool {
        let mut fds = [rustix::event::PollFd::new(&wake.fd, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut fds, Some(&rustix::event::Timespec::default())).unwrap() == 1
    }

    #[test]
    fn a_wake_up_is_seen_once_and_never_lost() {
        let wake = EventWake::new().unwrap();
        assert!(!readable(&wake));
        wake.wake();
        wake.wake();
        assert!(readable(&wake));
        wake.take();
        assert!(!readable(&wake));
        wake.wake();
        assert!(readable(&wake));
    }
}
