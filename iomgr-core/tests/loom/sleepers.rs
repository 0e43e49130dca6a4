//! A queue is told to wait until something is freed, while another queue frees it.

use loom::thread;

use crate::Waker;
use crate::freed::{Freed, Sleeper};
use crate::shim::{Arc, AtomicU64, Ordering};

#[test]
fn a_free_is_seen_or_wakes() {
    loom::model(|| {
        // A manager with one share, which is out; it guards it no better than it must.
        let shares = Arc::new(AtomicU64::new(0));
        let freed = Arc::new(Freed::new());
        let (his_shares, his_freed) = (Arc::clone(&shares), Arc::clone(&freed));
        let other = thread::spawn(move || {
            let him = Arc::new(Sleeper::new(Waker::new()));
            his_shares.store(1, Ordering::Relaxed);
            his_freed.tell(&him);
        });
        let bell = Waker::new();
        let me = Arc::new(Sleeper::new(bell.clone()));
        let mut sleeps = shares.load(Ordering::Relaxed) == 0;
        if sleeps {
            freed.arm(&me);
            sleeps = shares.load(Ordering::Relaxed) == 0;
        }
        other.join().unwrap();
        if sleeps {
            assert!(bell.0.is_rung() && me.was_told(), "asleep for ever");
        }
    });
}

#[test]
fn who_frees_needs_no_wake_up_itself() {
    loom::model(|| {
        let bell = Waker::new();
        let me = Arc::new(Sleeper::new(bell.clone()));
        let freed = Freed::new();
        freed.arm(&me);
        freed.tell(&me);
        assert!(me.was_told() && !bell.0.is_rung());
        freed.arm(&me);
        freed.disarm(&me);
        freed.tell(&me);
        assert!(!me.was_told());
    });
}
