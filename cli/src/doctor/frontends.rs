//! The ways to clients: NBD on a unix socket, and ublk where the kernel has it.

use std::path::Path;

use indicatif::HumanCount;

use super::{Check, Verdict, kernel};

const UBLK_CONTROL: &str = "/dev/ublk-control";

/// The folder for sockets, made if it is not there yet: exactly what `serve` does.
pub(super) fn runtime_folder() -> Check {
    match vbd::make_runtime_dir() {
        Ok(folder) => Check::new("runtime folder", Verdict::Ok, folder.display().to_string()),
        Err(error) => Check::new("runtime folder", Verdict::Fatal, error.to_string())
            .advise("set IOMGR_RUNTIME_DIR to a folder of yours that others cannot write"),
    }
}

/// NBD needs nothing but the socket.
pub(super) fn nbd() -> Check {
    // What is wrong with the folder, its own line says.
    let sockets = vbd::control_sockets().map_or(0, |sockets| sockets.len());
    let sockets = HumanCount(sockets as u64);
    Check::new(
        "NBD",
        Verdict::Ok,
        format!("unix sockets; {sockets} control sockets in the runtime folder now"),
    )
}

/// The driver's control device.
pub(super) fn ublk() -> Check {
    let device = Path::new(UBLK_CONTROL);
    if !device.exists() {
        return Check::new("ublk", Verdict::Missing, format!("no {UBLK_CONTROL}")).advise(
            "not needed for NBD. For block devices of this machine (`iomgr add`): `modprobe ublk_drv` (in Debian's and \
             Ubuntu's kernels from 6.12)",
        );
    }
    if kernel::ublk_is_bad() {
        return Check::new(
            "ublk",
            Verdict::Limited,
            format!("{UBLK_CONTROL}, but this kernel oopses when a device is added"),
        )
        .advise("do not use it here; update the kernel (bad: 6.18.4 and .5, Ubuntu's 6.17.0-35 to -40)");
    }
    let found = match rustix::fs::access(device, rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK) {
        Ok(()) => format!("{UBLK_CONTROL} may be used (`iomgr add`)"),
        Err(errno) => {
            let found = format!("{UBLK_CONTROL} may not be used ({errno})");
            return Check::new("ublk", Verdict::Missing, found).advise("not needed for NBD; be root for `iomgr add`");
        }
    };
    Check::new("ublk", Verdict::Ok, found)
}
