//! What `serve` says when clients can connect: what is served, how, and lines to paste.

use std::path::Path;

use indicatif::BinaryBytes;
use serde_json::json;
use vbd::{DiskInfo, Server};

use super::Origin;
use crate::failure::Failure;
use crate::output::{print, print_json_line};

const UBLK_CONTROL: &str = "/dev/ublk-control";

/// Says it on stdout.
pub(super) fn tell(server: &Server, origin: Origin, json: bool) -> Result<(), Failure> {
    if json {
        print_json_line(&event(server, origin))
    } else {
        print(&Ready::new(server, origin).text())
    }
}

fn event(server: &Server, origin: Origin) -> serde_json::Value {
    json!({
        "event": "ready",
        "pid": std::process::id(),
        "frontend": "nbd",
        "uri": server.uri(),
        "socket": server.socket().to_string_lossy(),
        "control": server.control().to_string_lossy(),
        "created": origin == Origin::Created,
        "device": server.disk().info(),
        "warnings": server.disk().warnings(),
    })
}

/// All that the text depends on.
struct Ready<'a> {
    disk: DiskInfo,
    uri: String,
    control: &'a Path,
    /// `stop` finds it by name: its control socket is where `stop` looks.
    by_name: bool,
    origin: Origin,
    has_ublk: bool,
}

impl<'a> Ready<'a> {
    fn new(server: &'a Server, origin: Origin) -> Self {
        let disk = server.disk().info();
        let by_name = server.control() == vbd::runtime_dir().join(format!("{}.ctl", disk.name));
        let has_ublk = Path::new(UBLK_CONTROL).exists();
        Self {
            disk,
            uri: server.uri(),
            control: server.control(),
            by_name,
            origin,
            has_ublk,
        }
    }

    fn text(&self) -> String {
        let Self { uri, control, .. } = self;
        format!(
            "serving: {}\nfrontend: {}\nuri: {uri}\ncontrol: {}\n\nto try it:\n{}\nto end it: {}, or Ctrl-C\n",
            self.disk_line(),
            self.frontend_line(),
            control.display(),
            self.try_lines(),
            self.stop_line(),
        )
    }

    fn disk_line(&self) -> String {
        let disk = &self.disk;
        let origin = match self.origin {
            Origin::Found => "",
            Origin::Reused => ", existed and is used as it is",
            Origin::Created => ", new",
        };
        let mode = if disk.read_only { "read-only" } else { "read-write" };
        let cache = match disk.cache {
            vbd::Cache::None => "direct I/O",
            vbd::Cache::Writeback => "page cache",
        };
        format!(
            "{} ({}, {}, {mode}, {cache}{origin})",
            disk.path.display(),
            disk.format,
            BinaryBytes(disk.size_bytes)
        )
    }

    fn frontend_line(&self) -> String {
        let there = if self.has_ublk {
            "is there, to no use so far"
        } else {
            "is not there either"
        };
        format!("NBD on a unix socket (this version has no ublk frontend yet; {UBLK_CONTROL} {there})")
    }

    /// Lines that do no harm: only a disk that is new is written to.
    fn try_lines(&self) -> String {
        let uri = quote(&self.uri);
        let qemu_io = match self.origin {
            Origin::Created => "qemu-io -f raw -c 'write -P 0x5a 0 64k' -c 'read -P 0x5a 0 64k'",
            Origin::Found | Origin::Reused => "qemu-io -r -f raw -c 'read 0 64k'",
        };
        let fio = "--rw=randread --bs=4k --iodepth=32 --time_based --runtime=10";
        format!("  nbdinfo {uri}\n  {qemu_io} {uri}\n  fio --name=demo --ioengine=nbd --uri={uri} {fio}\n")
    }

    fn stop_line(&self) -> String {
        if self.by_name {
            format!("iomgr stop {}", quote(&self.disk.name))
        } else {
            format!("iomgr stop --control {}", quote(&self.control.to_string_lossy()))
        }
    }
}

/// For a shell: as it is if harmless, in single quotes otherwise.
fn quote(text: &str) -> String {
    let harmless = |c: char| c.is_ascii_alphanumeric() || "-_./:+".contains(c);
    if !text.is_empty() && text.chars().all(harmless) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready() -> Ready<'static> {
        let disk = DiskInfo {
            name: "demo".into(),
            path: "demo.vhd".into(),
            format: "vhd-dynamic".into(),
            size_bytes: 1 << 30,
            read_only: false,
            cache: vbd::Cache::Writeback,
            failed: false,
        };
        let uri = "nbd+unix:///?socket=/run/iomgr/demo.sock".into();
        let control = Path::new("/run/iomgr/demo.ctl");
        Ready {
            disk,
            uri,
            control,
            by_name: true,
            origin: Origin::Created,
            has_ublk: false,
        }
    }

    #[test]
    fn a_new_disk() {
        insta::assert_snapshot!(ready().text());
    }

    #[test]
    fn a_read_only_disk_with_sockets_of_its_own() {
        let mut ready = ready();
        ready.disk.read_only = true;
        ready.control = Path::new("/tmp/it's mine.ctl");
        (ready.by_name, ready.origin, ready.has_ublk) = (false, Origin::Found, true);
        insta::assert_snapshot!(ready.text());
    }

    #[test]
    fn shells_get_what_we_mean() {
        assert_eq!(quote("a/b.c"), "a/b.c");
        assert_eq!(quote("nbd+unix:///?socket=/x"), "'nbd+unix:///?socket=/x'");
        assert_eq!(quote("it's"), r"'it'\''s'");
        assert_eq!(quote(""), "''");
    }
}
