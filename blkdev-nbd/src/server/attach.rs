//! Exports that come and go, as the server's owner asks for it.
//!
//! What is asked goes to the threads by their channels, and they answer when they have done it: they never wait for anybody.
//! The roster is locked while they are told of a change, so that all of them hear of all changes in the same order, and is
//! free while somebody waits for their answers.

use std::ops::RangeBounds;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::{Server, gone};
use crate::export::{Export, Listed};
use crate::roster::Roster;
use crate::worker::control::{Answer, Control, Leave};
use crate::{Error, ErrorKind};

/// How long requests in a device may take to end, after the clients' time is over.
const GRACE: Duration = Duration::from_secs(1);
/// How long a device that did not open on all threads may work for itself before its queues are closed.
const CLOSING: Duration = Duration::from_secs(10);
/// A timeout that is longer is no timeout.
const TIMEOUT_MAX: Duration = Duration::from_secs(1 << 30);

impl Server {
    /// Serves one more export: every thread opens its queue of the device, the first one before the others. Who connects when
    /// this has returned finds it.
    ///
    /// # Errors
    /// Its name or its device is taken, or there is no room for another export; the device does not open. Nothing is left
    /// of it then.
    pub fn attach(&self, export: Export) -> Result<(), Error> {
        let listed = self.roster().admit(export)?;
        let open = |thread| {
            let told = self.tell(thread..=thread, |answer| Control::Open(listed.clone(), answer));
            told.wait(None)
        };
        let opened = (0..self.workers.len()).try_for_each(open);
        if let Err(error) = opened {
            // That it has failed is what counts, whatever becomes of the queues that are open.
            let _closed = self.end(&listed, self.close_lanes(&listed, after(CLOSING)));
            return Err(error);
        }
        let serve = |roster: &mut Roster| {
            roster.serve(listed.id);
            Ok(())
        };
        self.publish(serve)?.1.wait(None)
    }

    /// Ends an export: its clients' commands are taken no more, those that wait for a manager fail at once with `ESHUTDOWN`,
    /// those that the device has end and are answered; then the connections are closed, and the device's queues, those of
    /// the first thread last. Clients that have not taken their replies by `timeout` are cut off. Other exports go on, and a
    /// server without any waits for one.
    ///
    /// # Errors
    /// There is no such export, or somebody attaches or detaches it right now. The device does not end what it has
    /// ([`ErrorKind::Busy`]): no client reaches the export any more, but its queues are open, its name is taken, and it can
    /// be detached again.
    pub fn detach(&self, name: &str, timeout: Duration) -> Result<(), Error> {
        let timeout = timeout.min(TIMEOUT_MAX);
        let (listed, known) = self.publish(|roster| roster.retire(name))?;
        listed.export.managed.detach();
        let lane = listed.lane;
        let left = self.tell(.., |answer| Control::Leave(Leave { lane, timeout }, answer));
        let deadline = after(timeout + GRACE);
        let left = known.wait(deadline).and_then(|()| left.wait(deadline));
        self.end(&listed, left.and_then(|()| self.close_lanes(&listed, deadline)))
    }

    /// Changes the exports that clients choose from, and tells every thread.
    fn publish<T>(&self, change: impl FnOnce(&mut Roster) -> Result<T, Error>) -> Result<(T, Told), Error> {
        let mut roster = self.roster();
        let changed = change(&mut roster)?;
        let table = roster.table();
        let told = self.tell(.., |answer| Control::Publish(Arc::clone(&table), answer));
        Ok((changed, told))
    }

    /// Closes an export's queues, those of the first thread last: the others need what it has.
    fn close_lanes(&self, listed: &Listed, deadline: Option<Instant>) -> Result<(), Error> {
        let close = |answer| Control::CloseLane(listed.lane, answer);
        self.tell(1.., close).wait(deadline)?;
        self.tell(..1, close).wait(deadline)
    }

    /// Forgets an export whose queues are closed; one that could not be ended stays, to be detached again.
    fn end(&self, listed: &Listed, closed: Result<(), Error>) -> Result<(), Error> {
        let mut roster = self.roster();
        match closed {
            Ok(()) => roster.remove(listed.id),
            Err(_) => roster.keep(listed.id),
        }
        closed
    }

    /// Tells these workers to do something.
    fn tell(&self, threads: impl RangeBounds<usize>, what: impl Fn(Answer) -> Control) -> Told {
        let (answer, answers) = Answer::channel();
        let mut told = Told { answers, count: 0 };
        let workers = self.workers.iter().enumerate();
        for (_, worker) in workers.filter(|(index, _)| threads.contains(index)) {
            worker.handle.say(what(answer.clone()));
            told.count += 1;
        }
        told
    }

    fn roster(&self) -> MutexGuard<'_, Roster> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Workers that were told to do something.
#[must_use = "they may not do it"]
struct Told {
    answers: Receiver<Result<(), Error>>,
    count: usize,
}

impl Told {
    /// Waits until all of them have done it. The first failure is what is told.
    fn wait(self, deadline: Option<Instant>) -> Result<(), Error> {
        let mut outcome = Ok(());
        for _ in 0..self.count {
            outcome = outcome.and(self.next(deadline)?);
        }
        outcome
    }

    fn next(&self, deadline: Option<Instant>) -> Result<Result<(), Error>, Error> {
        let Some(deadline) = deadline else {
            return self.answers.recv().map_err(|_| gone());
        };
        self.answers.recv_deadline(deadline).map_err(|error| match error {
            RecvTimeoutError::Timeout => {
                let what = "requests in its device do not end; detach it again to wait for them";
                Error::new(ErrorKind::Busy, what)
            }
            RecvTimeoutError::Disconnected => gone(),
        })
    }
}

fn after(time: Duration) -> Option<Instant> {
    Instant::now().checked_add(time)
}
