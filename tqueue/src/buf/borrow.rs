//! Memory that is borrowed for the length of a call: no copy, and no buffer of the queue's.
//!
//! What makes it sound: the call does not come back while an op holds the memory, however it ends; and where it cannot know,
//! because the queue is not there any more, the process ends.

use std::io::{IoSlice, IoSliceMut};

use iomgr_core::Data;
use rustix::io::Errno;

use crate::Queue;

/// Most parts that are borrowed at a time.
pub const BORROWED_MAX: usize = 64;

/// Memory for [`Queue::borrowed`], in parts; none is empty, or of 4 GiB and more.
#[derive(Debug)]
pub enum Borrowed<'a, 'b> {
    /// For ops that look at it: writes.
    Shared(&'a [IoSlice<'b>]),
    /// For ops that fill it, or look at it.
    Mut(&'a mut [IoSliceMut<'b>]),
}

impl Queue {
    /// Lets ops work on borrowed memory while `body` runs: it gets the parts by their names, in order. Comes back when no op
    /// holds them any more, so it waits for those that `body` left outstanding; their completions are delivered later.
    ///
    /// # Errors
    /// `NOBUFS`: more parts than there is room for now ([`Config::lent`](crate::Config::lent), [`BORROWED_MAX`]); `INVAL`: a part
    /// is empty or too long. `body` was not called.
    ///
    /// # Aborts
    /// The process, if the queue behind `owner` is another one in the end, or can go on no more while ops hold the memory.
    pub fn borrowed<O: AsMut<Self>, R>(
        owner: &mut O,
        memory: Borrowed<'_, '_>,
        body: impl FnOnce(&mut O, &[Data]) -> R,
    ) -> Result<R, Errno> {
        let identity = owner.as_mut().arena.identity();
        let mut scope = Scope {
            owner,
            identity,
            parts: [Data::NONE; BORROWED_MAX],
            count: 0,
        };
        match memory {
            Borrowed::Shared(parts) => {
                for part in parts {
                    scope.add(part.as_ptr().cast_mut(), part.len(), false)?;
                }
            }
            Borrowed::Mut(parts) => {
                for part in parts {
                    scope.add(part.as_mut_ptr(), part.len(), true)?;
                }
            }
        }
        let Scope {
            owner, parts, count, ..
        } = &mut scope;
        Ok(body(owner, &parts[..*count]))
    }

    /// Goes on until something has ended, whatever waits for delivery.
    fn drive(&mut self) -> Result<(), crate::Error> {
        let mut undelivered = std::mem::take(&mut self.done);
        let driven = self.submit_and_wait(None);
        std::iter::from_fn(|| self.done.pop()).for_each(|done| undelivered.push(done));
        self.done = undelivered;
        driven
    }
}

/// Borrowed memory that ops may hold.
struct Scope<'o, O: AsMut<Queue>> {
    owner: &'o mut O,
    /// Of the arena that has it.
    identity: usize,
    parts: [Data; BORROWED_MAX],
    count: usize,
}

impl<O: AsMut<Queue>> Scope<'_, O> {
    fn add(&mut self, base: *mut u8, len: usize, writable: bool) -> Result<(), Errno> {
        let len = u32::try_from(len).ok().filter(|&len| len > 0).ok_or(Errno::INVAL)?;
        let part = self.parts.get_mut(self.count).ok_or(Errno::NOBUFS)?;
        let arena = &mut self.owner.as_mut().arena;
        if arena.identity() != self.identity {
            return Err(Errno::INVAL);
        }
        // SAFETY: the caller of `borrowed` has lent the bytes for as long as that runs, shared or for itself alone; it does not
        // return before `drop` has seen `end_borrow` say that it is over.
        let lease = unsafe { arena.begin_borrow(base, len, writable) }.ok_or(Errno::NOBUFS)?;
        *part = lease.data();
        self.count += 1;
        Ok(())
    }

    /// The queue that has the memory; there is no way on without it.
    fn queue(&mut self) -> &mut Queue {
        let queue = self.owner.as_mut();
        if queue.arena.identity() != self.identity {
            tracing::error!("borrow_lost: the queue that works on borrowed memory is gone");
            std::process::abort();
        }
        queue
    }
}

impl<O: AsMut<Queue>> Drop for Scope<'_, O> {
    fn drop(&mut self) {
        // Nothing unwinds past what the kernel may still write to.
        let mut fuse = Fuse { is_live: true };
        for at in 0..self.count {
            let iomgr_core::DataHome::Buffer(id) = self.parts[at].home else {
                unreachable!("parts were leased")
            };
            let queue = self.queue();
            while !queue.arena.end_borrow(id) {
                if let Err(error) = queue.drive() {
                    tracing::error!(%error, "borrow_lost: ops on borrowed memory cannot be waited for");
                    std::process::abort();
                }
            }
        }
        fuse.is_live = false;
    }
}

/// Ends the process when a panic drops it.
struct Fuse {
    is_live: bool,
}

impl Drop for Fuse {
    fn drop(&mut self) {
        if self.is_live {
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests;
