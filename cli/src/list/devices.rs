//! The ublk devices of this machine, as the driver tells of them.

use std::process::ExitCode;

use indicatif::BinaryBytes;
use vbd::{UblkDevice, ublk_devices, ublk_owner};

use crate::failure::Failure;
use crate::output::{note, print, print_json, table};

const HEAD: [&str; 8] = ["ID", "DEVICE", "STATE", "SIZE", "MODE", "DEPTH", "BUFFER", "PID"];

/// All of them, or the one of this number.
pub(super) fn list(number: Option<u32>, json: bool) -> Result<ExitCode, Failure> {
    let mut devices = ublk_devices()?;
    if let Some(number) = number {
        devices.retain(|device| device.id == number);
        if devices.is_empty() {
            return Err(Failure::new(format!("there is no ublk device {number}")).hint("`iomgr list --ublk` shows all"));
        }
    }
    if json {
        print_json(&devices)?;
    } else if devices.is_empty() {
        note("there is no ublk device");
    } else {
        print(&text(&devices))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// For a rule of udev's: nothing is said of a device that is root's.
pub(super) fn owner(number: u32) -> Result<ExitCode, Failure> {
    match ublk_owner(number)? {
        Some((user, group)) => print(&format!("{user} {group}\n")).map(|()| ExitCode::SUCCESS),
        None => Ok(ExitCode::FAILURE),
    }
}

fn text(devices: &[UblkDevice]) -> String {
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(devices.iter().map(row));
    table(&rows)
}

fn row(device: &UblkDevice) -> [String; HEAD.len()] {
    let queues = match device.queues {
        1 => String::new(),
        queues => format!("{queues}x"),
    };
    [
        device.id.to_string(),
        device.path.display().to_string(),
        device.state.clone(),
        BinaryBytes(device.size_bytes).to_string(),
        if device.read_only { "ro" } else { "rw" }.to_owned(),
        format!("{queues}{}", device.depth),
        BinaryBytes(device.buffer_bytes.into()).to_string(),
        device.server_pid.map_or("-".to_owned(), |pid| pid.to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_each_device() {
        let live = UblkDevice {
            id: 0,
            path: "/dev/ublkb0".into(),
            state: "live".into(),
            server_pid: Some(77),
            queues: 1,
            depth: 128,
            buffer_bytes: 512 << 10,
            size_bytes: 1 << 30,
            read_only: false,
            features: vec!["CMD_IOCTL_ENCODE".into()],
            owner: None,
        };
        let dead = UblkDevice {
            id: 12,
            path: "/dev/ublkb12".into(),
            state: "dead".into(),
            server_pid: None,
            queues: 2,
            read_only: true,
            ..live.clone()
        };
        insta::assert_snapshot!(text(&[live, dead]), @r"
        ID  DEVICE        STATE  SIZE      MODE  DEPTH  BUFFER      PID
        0   /dev/ublkb0   live   1.00 GiB  rw    128    512.00 KiB  77
        12  /dev/ublkb12  dead   1.00 GiB  ro    2x128  512.00 KiB  -
        ");
    }
}
