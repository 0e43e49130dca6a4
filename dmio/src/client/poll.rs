//! The loop: submit and wait, reap, work, tell.

use std::sync::Arc;
use std::time::Duration;

use iomgr_core::{FileSlot, OpQueue, Owner, Pass, Timestamp, Token, Waker};
use tqueue::{EventWake, Interest, Queue};

use super::Client;
use crate::{Error, ErrorKind, Handle};

/// Our own ops: the poll of what wakes us.
const WAKE: Token = Token::new(Owner(0), 0);
/// The timer by which time passes in a simulation.
const ALARM: Token = Token::new(Owner(0), 1);

/// What wakes the client's thread. A simulation has no other threads.
#[derive(Debug)]
pub(super) struct Waking {
    wake: Arc<EventWake>,
    file: FileSlot,
}

impl Waking {
    pub(super) fn new(queue: &mut Queue) -> Result<Option<Self>, Error> {
        if queue.info().engine == "sim" {
            return Ok(None);
        }
        let wake = EventWake::new().map_err(|errno| queue_failed().because(errno))?;
        let file = queue
            .add_file(&wake.file())
            .map_err(|errno| queue_failed().because(errno))?;
        let waking = Self { wake, file };
        waking.arm(queue);
        Ok(Some(waking))
    }

    pub(super) fn waker(&self) -> Waker {
        Waker::new(Arc::clone(&self.wake) as Arc<dyn iomgr_core::Wake>)
    }

    fn arm(&self, queue: &mut Queue) {
        let armed = queue.poll_fd(self.file, Interest::READ, WAKE);
        armed.expect("there is room for the one poll");
    }
}

pub(super) fn queue_failed() -> Error {
    Error::new(ErrorKind::Device, "the queue of ops failed")
}

/// What a pass has brought.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Brought {
    notifications: usize,
    /// Something was told, be it of a device only.
    is_news: bool,
    is_woken: bool,
}

impl Client {
    /// Hands over what was started, waits until something has happened, and tells what. Returns how many notifications there were:
    /// none when the time is over, when another thread woke the client and nothing came of it, or when there was news of a device only.
    ///
    /// What notifications started goes to the kernel in the next call.
    pub fn poll(&mut self, timeout: Option<Duration>) -> Result<usize, Error> {
        self.refuse_inside()?;
        let deadline = timeout.map(|timeout| self.queue.now() + timeout);
        self.poll_until(deadline)
    }

    /// Waits until all regions of a request are over and were notified, or until the deadline; false then.
    pub fn wait(&mut self, handle: &Handle, deadline: Option<Timestamp>) -> Result<bool, Error> {
        self.refuse_inside()?;
        if !handle.is_of(self.runner().shared()) {
            return Err(Error::new(
                ErrorKind::Unknown,
                "the handle is of another client's request",
            ));
        }
        while !self.is_told(handle.id()) {
            if deadline.is_some_and(|deadline| deadline <= self.queue.now()) {
                return Ok(false);
            }
            self.poll_until(deadline)?;
        }
        Ok(true)
    }

    /// The time on the client's clock, from which deadlines count.
    pub fn now(&self) -> Timestamp {
        self.queue.now()
    }

    pub(super) fn refuse_inside(&self) -> Result<(), Error> {
        match self.is_notifying {
            true => Err(Error::new(
                ErrorKind::Deadlock,
                "a notification must not wait for others",
            )),
            false => Ok(()),
        }
    }

    pub(super) fn poll_until(&mut self, deadline: Option<Timestamp>) -> Result<usize, Error> {
        let mut brought = self.pass();
        if brought.notifications > 0 {
            // Whoever starts anew what ends at once, again and again, holds up no other device.
            self.queue.submit().map_err(|error| queue_failed().because(error))?;
        }
        while brought.notifications == 0 {
            // After news of a device nobody sleeps: a late answer may be what is waited for.
            let had_news = brought.is_news;
            self.sleep(if had_news { Some(Timestamp::ZERO) } else { deadline })?;
            brought = self.pass();
            let is_late = deadline.is_some_and(|deadline| deadline <= self.queue.now());
            if had_news || brought.is_news || is_late || brought.is_woken || self.waking.is_none() {
                break;
            }
        }
        Ok(brought.notifications)
    }

    /// Takes what has ended, works, and tells.
    pub(super) fn pass(&mut self) -> Brought {
        let now = self.queue.now();
        let is_woken = self.reap(now);
        self.work(now);
        let (notifications, is_news) = self.deliver();
        Brought {
            notifications,
            is_news,
            is_woken,
        }
    }

    /// Hands completions over. True: somebody has woken us.
    fn reap(&mut self, now: Timestamp) -> bool {
        let Self {
            queue, runner, waking, ..
        } = self;
        let runner = runner.as_mut().expect("it is taken when the client ends");
        let mut is_woken = false;
        while let Some(completion) = queue.next_completion() {
            let pass = &mut Pass { now, io: queue };
            if completion.token.owner() != WAKE.owner() {
                runner.op_done(pass, completion.op_done());
            } else if let Some(waking) = waking {
                waking.wake.take();
                waking.arm(queue);
                is_woken = true;
            }
        }
        if is_woken {
            runner.kick(&mut Pass { now, io: queue });
        }
        is_woken
    }

    fn work(&mut self, now: Timestamp) {
        let Self { queue, runner, .. } = self;
        let runner = runner.as_mut().expect("it is taken when the client ends");
        runner.work(&mut Pass { now, io: queue });
    }

    /// Lets the kernel work until something ends, or it is time for something.
    pub(super) fn sleep(&mut self, deadline: Option<Timestamp>) -> Result<(), Error> {
        let until = deadline.into_iter().chain(self.runner().wake_at()).min();
        if let (None, Some(until)) = (&self.waking, until)
            && self.queue.is_idle()
        {
            // A queue does not wait for nothing.
            self.queue.timer(until, ALARM).expect("an idle queue has room");
        }
        let left = until.map(|until| until.since(self.queue.now()));
        let slept = match left {
            Some(Duration::ZERO) => self.queue.submit(),
            left => self.queue.submit_and_wait(left),
        };
        slept.map_err(|error| queue_failed().because(error))
    }
}
