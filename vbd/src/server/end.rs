//! What ends a server: somebody's wish, or the frontend's failure.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender, bounded};
use iomgr_core::{Wake, Waker};

use crate::error::{Error, ErrorKind};

/// Makes [`Server::wait`](super::Server::wait) return. Any thread, any number of times.
#[derive(Clone, Debug)]
pub struct Stopper(Sender<()>);

impl Stopper {
    /// Ask for the end.
    pub fn stop(&self) {
        // A full channel holds the same wish already.
        let _ = self.0.try_send(());
    }
}

/// Where wishes to end arrive.
#[derive(Debug)]
pub(super) struct End {
    wishes: Receiver<()>,
    failure: Arc<Failure>,
}

/// The frontend's way to ask for the end.
#[derive(Debug)]
struct Failure {
    happened: AtomicBool,
    stopper: Stopper,
}

impl Wake for Failure {
    fn wake(&self) {
        self.happened.store(true, Ordering::Release);
        self.stopper.stop();
    }
}

impl End {
    pub(super) fn new() -> Self {
        let (wish, wishes) = bounded(1);
        let failure = Failure {
            happened: AtomicBool::new(false),
            stopper: Stopper(wish),
        };
        Self {
            wishes,
            failure: Arc::new(failure),
        }
    }

    pub(super) fn stopper(&self) -> Stopper {
        self.failure.stopper.clone()
    }

    /// To be woken when the frontend fails.
    pub(super) fn on_failure(&self) -> Waker {
        Waker::new(Arc::clone(&self.failure) as Arc<dyn Wake>)
    }

    /// Has the frontend failed?
    pub(super) fn failed(&self) -> bool {
        self.failure.happened.load(Ordering::Acquire)
    }

    /// Blocks until the end is asked for.
    pub(super) fn wait(&self) -> Result<(), Error> {
        self.wishes
            .recv()
            .expect("the server itself holds a sender, so the channel never closes");
        match self.failed() {
            true => Err(Error::new(ErrorKind::Server, "a queue thread ended; its log says why")),
            false => Ok(()),
        }
    }
}
