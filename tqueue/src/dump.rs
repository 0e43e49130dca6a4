//! A queue's state, for people.

use std::fmt::Write;

use crate::Queue;
use crate::inflight::Stage;

impl Queue {
    /// A readable picture: what is outstanding and where it is, and what was counted.
    pub fn dump(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write_dump(&mut text);
        text
    }

    fn write_dump(&self, out: &mut String) -> std::fmt::Result {
        let (load, bounds) = (&self.load, &self.bounds);
        writeln!(out, "queue: {}", self.info())?;
        writeln!(
            out,
            "disk: {} of {} outstanding, {} of {} in the kernel, {} queued",
            load.disk,
            bounds.max_ops,
            load.disk_issued,
            bounds.size,
            self.disk.len()
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
        for (key, entry) in self.ops.iter() {
            let place = if entry.stage == Stage::Issued {
                "in the kernel"
            } else {
                "queued"
            };
            writeln!(
                out,
                "op {}: {:?} {:?} {place}, {} bytes moved",
                key.index, entry.token, entry.work, entry.moved
            )?;
        }
        Ok(())
    }
}
