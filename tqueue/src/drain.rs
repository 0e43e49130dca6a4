//! How a queue ends: nothing that the kernel may write to is freed.

use std::time::Duration;

use crate::Queue;
use crate::cancel::Reach;
use crate::engine::Engine;

impl Queue {
    /// Ends the queue of a process that is about to end, without waiting for anything: what the kernel is at keeps its ring
    /// and its buffers for as long as the process lives.
    pub fn leave_to_kernel(mut self) {
        self.bounds.drain_max = Duration::ZERO;
        drop(self);
    }

    /// Ends all ops: those that wait are cancelled, those that the disk is at are waited for. True: none is left.
    fn drain(&mut self) -> bool {
        let deadline = self.now() + self.bounds.drain_max;
        loop {
            self.give_up(Reach::Queue, |_| true);
            while self.next_completion().is_some() {}
            let left = deadline.since(self.now());
            if self.has_ended() || left.is_zero() {
                return self.has_ended();
            }
            // An error here does not mean that the kernel is through with its ops; asking again costs nothing more.
            if let Err(error) = self.submit_and_wait(Some(left)) {
                tracing::error!(%error, "drain_failed");
                return false;
            }
        }
    }

    fn has_ended(&self) -> bool {
        self.ops.len() == 0 && self.commands.len() == 0
    }

    /// Leaves the ring and the buffers to the kernel for good.
    fn leak(&mut self) {
        let ops = self.ops.len() as usize + self.commands.len();
        match self.bounds.drain_max.is_zero() {
            true => tracing::debug!(ops, "queue_left: to the kernel, as was asked for"),
            false => tracing::error!(
                ops,
                "queue_leaked: ops did not end in time; the ring and its buffers are not freed"
            ),
        }
        if let Engine::Ring(ring) = &mut self.engine {
            ring.leak();
        }
        self.arena.leak();
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        if !self.has_ended() && !self.drain() {
            self.leak();
        }
    }
}
