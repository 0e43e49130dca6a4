//! `serve` by ublk: the image as a block device of this machine, for as long as this process lives.

use std::path::Path;

use serde_json::json;
use vbd::tqueue::filter::FilterConfig;
use vbd::{DiskInfo, ServerOptions, UblkOptions, UblkServer, UblkTarget};

use super::images::{Opened, Origin};
use super::ready::{disk_line, quote};
use crate::failure::Failure;
use crate::output::{print, print_json_line};
use crate::ublk;

/// What of `serve`'s options is a block device's.
pub(super) fn options(options: &ServerOptions) -> UblkOptions {
    UblkOptions {
        queues: options.threads,
        depth: u16::try_from(options.depth).unwrap_or(u16::MAX),
        control: options.control.clone(),
        filters: options.filters.clone(),
        ..UblkOptions::default()
    }
}

/// Returns when the block device can be used.
pub(super) fn start(opened: &Opened, options: &ServerOptions) -> Result<UblkServer, Failure> {
    let target = UblkTarget::Disk(opened.disk.clone());
    Ok(UblkServer::start(target, &self::options(options))?)
}

/// Says so on stdout.
pub(super) fn tell(server: &UblkServer, opened: &Opened, filters: &[FilterConfig], json: bool) -> Result<(), Failure> {
    match json {
        true => print_json_line(&event(server, opened)),
        false => print(&Ready::new(server, opened, filters).text()),
    }
}

fn event(server: &UblkServer, opened: &Opened) -> serde_json::Value {
    let mut event = ublk::event(server);
    event["created"] = json!(opened.origin == Origin::Created);
    event["warnings"] = json!(opened.disk.warnings());
    event
}

/// All that the text depends on.
struct Ready<'a> {
    disk: (DiskInfo, Origin),
    filters: &'a [FilterConfig],
    id: u32,
    path: &'a Path,
    control: &'a Path,
}

impl<'a> Ready<'a> {
    fn new(server: &'a UblkServer, opened: &Opened, filters: &'a [FilterConfig]) -> Self {
        Self {
            disk: (server.target().info(), opened.origin),
            filters,
            id: server.id(),
            path: server.path(),
            control: server.control(),
        }
    }

    fn text(&self) -> String {
        let filters: String = self
            .filters
            .iter()
            .map(|filter| format!("filter: {filter}\n"))
            .collect();
        let device = self.path.display();
        format!(
            "serving: {}\n{filters}frontend: ublk\ndevice: {device}\ncontrol: {}\n\nto try it:\n{}\nto end it: iomgr del \
             -n {}, or Ctrl-C\n",
            disk_line(&self.disk),
            self.control.display(),
            self.try_lines(),
            self.id,
        )
    }

    /// Lines that do no harm: only a disk that is new is written to.
    fn try_lines(&self) -> String {
        let device = quote(&self.path.to_string_lossy());
        let first = match self.disk.1 {
            Origin::Created => format!("mkfs.ext4 {device}"),
            Origin::Found | Origin::Reused => format!("blkid -p {device}"),
        };
        let fio = "--direct=1 --rw=randread --bs=4k --iodepth=32 --time_based --runtime=10";
        format!("  {first}\n  fio --name=demo --ioengine=io_uring --filename={device} --readonly {fio}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::super::ready::sample;
    use super::*;

    fn ready(origin: Origin) -> Ready<'static> {
        Ready {
            disk: (sample("demo"), origin),
            filters: &[],
            id: 0,
            path: Path::new("/dev/ublkb0"),
            control: Path::new("/run/iomgr/ublkb0.ctl"),
        }
    }

    #[test]
    fn a_new_disk_may_be_written() {
        insta::assert_snapshot!(ready(Origin::Created).text());
    }

    #[test]
    fn one_that_was_there_is_only_read() {
        let filters = ["latency:1ms".parse().unwrap()];
        let ready = Ready {
            filters: &filters,
            ..ready(Origin::Found)
        };
        insta::assert_snapshot!(ready.text());
    }
}
