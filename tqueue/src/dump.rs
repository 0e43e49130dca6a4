//! A queue's state, for people.

use std::fmt::Write;

use crate::Queue;
use crate::inflight::{NIL, Stage};

impl Queue {
    /// A readable picture: what is outstanding and where it is, and what was counted.
    pub fn dump(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write_dump(&mut text);
        text
    }

    fn write_dump(&self, out: &mut String) -> std::fmt::Result {
        let (load, bounds, now) = (&self.load, &self.bounds, self.occupancy());
        writeln!(out, "queue: {}", self.info())?;
        writeln!(
            out,
            "disk: {} of {} outstanding, {} in the kernel as {} of {}, {} queued, {} of them deferred",
            load.disk, bounds.max_ops, now.ops_in_kernel, now.merged_in_kernel, bounds.size, now.queued, now.deferred
        )?;
        writeln!(
            out,
            "net: {} of {} outstanding, {} in the kernel, {} queued",
            load.net,
            bounds.net_ops,
            load.net_issued,
            self.net.len()
        )?;
        writeln!(
            out,
            "completions to deliver: {}; files: {}; free memory: {} bytes, largest run {}",
            self.done.len(),
            self.files.len(),
            self.arena.free_bytes(),
            self.arena.largest_free_bytes()
        )?;
        writeln!(out, "plan: {:?}", self.plan.limits())?;
        writeln!(out, "{:?}", self.counters)?;
        self.filters.iter().try_for_each(|chain| chain.dump(out))?;
        for token in self.commands.tokens() {
            writeln!(out, "command: {token:?}")?;
        }
        for (key, entry) in self.ops.iter() {
            let is_held = self.filters.as_ref().is_some_and(|chain| chain.holds(key.index));
            let place = match entry.stage {
                _ if is_held => "held by a filter",
                Stage::Issued if entry.stuck => "stuck in the kernel",
                Stage::Issued => "in the kernel",
                _ => "queued",
            };
            write!(
                out,
                "op {}: {:?} {:?} {place}, {} bytes moved",
                key.index, entry.token, entry.work, entry.moved
            )?;
            match entry.next_member {
                NIL => writeln!(out)?,
                next => writeln!(out, ", in one with op {next}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use iomgr_core::{Action, FileHandle, Op, OpQueue, Owner, Timestamp, Token};

    use crate::{Config, EngineKind, Queue};

    #[test]
    fn it_shows_what_is_outstanding_and_where() {
        let config = Config {
            engine: EngineKind::Sync,
            size: 1,
            max_ops: 4,
            ..Config::default()
        };
        let mut queue = Queue::new(&config).unwrap();
        let file = queue.add_file(&FileHandle::new(tempfile::tempfile().unwrap())).unwrap();
        let lease = queue.alloc(5000).unwrap();
        let token = |value| Token::new(Owner(3), value);
        let write = Action::Write {
            offset: 512,
            data: lease.data(),
            durable: true,
        };
        queue
            .push(Op {
                token: token(1),
                file,
                action: Action::Flush,
            })
            .unwrap();
        queue
            .push(Op {
                token: token(2),
                file,
                action: write,
            })
            .unwrap();
        queue.timer(Timestamp::from_nanos(u64::MAX), token(3)).unwrap();
        queue.submit().unwrap();
        insta::assert_snapshot!(queue.dump(), @r"
        queue: sync, size 1, 48 MiB of buffers
        disk: 2 of 4 outstanding, 0 in the kernel as 0 of 1, 1 queued, 0 of them deferred
        net: 1 of 256 outstanding, 1 in the kernel, 0 queued
        completions to deliver: 1; files: 1; free memory: 50323456 bytes, largest run 33554432
        plan: PlanLimits { max_bytes: 1048576, max_segments: 64 }
        Counters { pushed: 3, completed: 1, failed: 0, deferrals: 1, handed_back: 0, enters: 1, sqes: 1, plain_calls: 0, cqes: 1, merges: 0, splits: 0, resubmissions: 0, continued: 0, retried: 0, never_started: 0, stuck: 0, quiet_sends: 0, max_in_kernel: 1, max_ops_in_kernel: 1 }
        op 1: Token(3:0x2) Write { offset: 512, run: 33554432+5000, durable: true } queued, 0 bytes moved
        op 2: Token(3:0x3) Timer { at: Timestamp(18446744073709551615) } in the kernel, 0 bytes moved
        ");
        queue.free(lease);
    }
}
