//! What `serve` says when clients can connect: what is served, how, and lines to paste.

use std::path::Path;

use indicatif::BinaryBytes;
use serde_json::json;
use vbd::{Address, Disk, DiskInfo, Server};

use super::images::Origin;
use crate::failure::Failure;
use crate::output::{print, print_json_line};

/// Says it on stdout; `origins` are those of the server's disks, `why_not_ublk` is for who might wonder.
pub(super) fn tell(server: &Server, origins: &[Origin], why_not_ublk: Option<&str>, json: bool) -> Result<(), Failure> {
    if json {
        print_json_line(&event(server, origins, why_not_ublk))
    } else {
        print(&Ready::new(server, origins, why_not_ublk).text())
    }
}

fn event(server: &Server, origins: &[Origin], why_not_ublk: Option<&str>) -> serde_json::Value {
    let disks = server.disks();
    let devices: Vec<_> = disks
        .iter()
        .zip(origins)
        .map(|(disk, origin)| device(server, disk, *origin))
        .collect();
    json!({
        "event": "ready",
        "pid": std::process::id(),
        "frontend": "nbd",
        "why_not_ublk": why_not_ublk,
        "uri": server.uri(),
        "socket": server.socket().map(Path::to_string_lossy),
        "control": server.control().to_string_lossy(),
        // The first disk, which is the default export.
        "created": origins[0] == Origin::Created,
        "device": disks.first().map(Disk::info),
        "warnings": disks.first().map(Disk::warnings),
        "filters": server.filters(),
        "devices": devices,
    })
}

fn device(server: &Server, disk: &Disk, origin: Origin) -> serde_json::Value {
    let uris = uris(server, &disk.info().name);
    let mut device = json!({
        "uri": uris[0],
        "uris": uris,
        "created": origin == Origin::Created,
        "warnings": disk.warnings(),
    });
    let info = serde_json::to_value(disk.info()).expect("a disk's facts are plain data");
    if let (Some(device), serde_json::Value::Object(info)) = (device.as_object_mut(), info) {
        device.extend(info);
    }
    device
}

/// Where clients find an export, at each address.
fn uris(server: &Server, export: &str) -> Vec<String> {
    server.addresses().iter().map(|address| address.uri(export)).collect()
}

/// All that the text depends on.
struct Ready<'a> {
    disks: Vec<(DiskInfo, Origin)>,
    uris: Vec<String>,
    filters: Vec<String>,
    control: &'a Path,
    /// `stop` finds it by name: its control socket is where `stop` looks.
    by_name: bool,
    transport: &'static str,
    why_not_ublk: Option<&'a str>,
}

impl<'a> Ready<'a> {
    fn new(server: &'a Server, origins: &[Origin], why_not_ublk: Option<&'a str>) -> Self {
        let infos = server.disks().into_iter().map(|disk| disk.info());
        let disks: Vec<_> = infos.zip(origins.iter().copied()).collect();
        let is_of =
            |(disk, _): &(DiskInfo, _)| server.control() == vbd::runtime_dir().join(format!("{}.ctl", disk.name));
        let by_name = disks.first().is_some_and(is_of);
        let uris = match &disks[..] {
            // The default export needs no name.
            [_] => uris(server, ""),
            several => several.iter().flat_map(|(disk, _)| uris(server, &disk.name)).collect(),
        };
        Self {
            disks,
            uris,
            filters: server.filters().to_vec(),
            control: server.control(),
            by_name,
            transport: transport(server.addresses()),
            why_not_ublk,
        }
    }

    fn text(&self) -> String {
        let lines = |name: &str, values: Vec<String>| -> String {
            values.iter().map(|value| format!("{name}: {value}\n")).collect()
        };
        format!(
            "{}{}{}{}control: {}\n\nto try it:\n{}\nto end it: {}, or Ctrl-C\n",
            lines("serving", self.disks.iter().map(disk_line).collect()),
            lines("filter", self.filters.clone()),
            self.frontend_lines(),
            lines("uri", self.uris.clone()),
            self.control.display(),
            self.try_lines(),
            self.stop_line(),
        )
    }

    fn frontend_lines(&self) -> String {
        let why = self.why_not_ublk.map(|why| format!("why not ublk: {why}\n"));
        format!("frontend: NBD on {}\n{}", self.transport, why.unwrap_or_default())
    }

    /// Lines that do no harm: only a disk that is new is written to.
    fn try_lines(&self) -> String {
        let uri = quote(&self.uris[0]);
        let qemu_io = match self.disks[0].1 {
            Origin::Created => "qemu-io -f raw -c 'write -P 0x5a 0 64k' -c 'read -P 0x5a 0 64k'",
            Origin::Found | Origin::Reused => "qemu-io -r -f raw -c 'read 0 64k'",
        };
        let fio = "--rw=randread --bs=4k --iodepth=32 --time_based --runtime=10";
        format!("  nbdinfo {uri}\n  {qemu_io} {uri}\n  fio --name=demo --ioengine=nbd --uri={uri} {fio}\n")
    }

    fn stop_line(&self) -> String {
        if self.by_name {
            format!("iomgr stop {}", quote(&self.disks[0].0.name))
        } else {
            format!("iomgr stop --control {}", quote(&self.control.to_string_lossy()))
        }
    }
}

fn transport(addresses: &[Address]) -> &'static str {
    let is_unix = |address: &Address| matches!(address, Address::Unix(_));
    match (
        addresses.iter().any(is_unix),
        addresses.iter().any(|address| !is_unix(address)),
    ) {
        (true, true) => "a unix socket and TCP",
        (false, true) => "TCP",
        _ => "a unix socket",
    }
}

pub(super) fn disk_line((disk, origin): &(DiskInfo, Origin)) -> String {
    let origin = match origin {
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

/// For a shell: as it is if harmless, in single quotes otherwise.
pub(super) fn quote(text: &str) -> String {
    let harmless = |c: char| c.is_ascii_alphanumeric() || "-_./:+".contains(c);
    if !text.is_empty() && text.chars().all(harmless) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// A disk to tell of.
#[cfg(test)]
pub(super) fn sample(name: &str) -> DiskInfo {
    DiskInfo {
        name: name.into(),
        path: format!("{name}.vhd").into(),
        format: "vhd-dynamic".into(),
        size_bytes: 1 << 30,
        read_only: false,
        cache: vbd::Cache::Writeback,
        failed: false,
        paused: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready() -> Ready<'static> {
        Ready {
            disks: vec![(sample("demo"), Origin::Created)],
            uris: vec!["nbd+unix:///?socket=/run/iomgr/demo.sock".into()],
            filters: Vec::new(),
            control: Path::new("/run/iomgr/demo.ctl"),
            by_name: true,
            transport: "a unix socket",
            why_not_ublk: Some("no /dev/ublk-control"),
        }
    }

    #[test]
    fn a_new_disk() {
        insta::assert_snapshot!(ready().text());
    }

    #[test]
    fn a_read_only_disk_with_sockets_of_its_own() {
        let mut ready = ready();
        ready.disks[0].0.read_only = true;
        ready.disks[0].1 = Origin::Found;
        ready.control = Path::new("/tmp/it's mine.ctl");
        (ready.by_name, ready.why_not_ublk) = (false, None);
        insta::assert_snapshot!(ready.text());
    }

    #[test]
    fn several_disks() {
        let mut ready = ready();
        ready.disks.push((sample("data"), Origin::Reused));
        ready.uris = ["demo", "data"]
            .map(|name| format!("nbd+unix:///{name}?socket=/run/iomgr/demo.sock"))
            .into();
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
