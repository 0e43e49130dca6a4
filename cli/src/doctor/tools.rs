//! Clients on PATH. None is needed for serving, all help to use what is served.

use std::env;
use std::path::PathBuf;

use rustix::fs::{Access, access};

use super::{Check, Verdict};

/// Program, its package in Debian, what it is good for.
const CLIENTS: [(&str, &str, &str); 6] = [
    ("nbdinfo", "libnbd-bin", "shows what is served"),
    ("nbdcopy", "libnbd-bin", "copies disks in and out"),
    ("nbdfuse", "libnbd-bin", "makes a disk a file, for losetup and mount"),
    ("qemu-nbd", "qemu-utils", "makes a disk a /dev/nbd"),
    ("qemu-io", "qemu-utils", "tries single requests"),
    ("fio", "fio", "measures and verifies"),
];

/// One line each.
pub(super) fn clients() -> Vec<Check> {
    CLIENTS
        .iter()
        .map(|&(program, package, use_)| client(program, package, use_))
        .collect()
}

fn client(program: &'static str, package: &str, use_: &str) -> Check {
    match find(program) {
        Some(path) => Check::new(program, Verdict::Ok, format!("{} ({use_})", path.display())),
        None => Check::new(program, Verdict::Missing, format!("not on PATH ({use_})"))
            .advise(format!("Debian and Ubuntu: apt-get install {package}")),
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file() && access(file, Access::EXEC_OK).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_or_not() {
        assert!(find("sh").is_some());
        assert_eq!(find("no-such-program-anywhere"), None);
        assert_eq!(client("no-such-program-anywhere", "p", "u").verdict, Verdict::Missing);
    }
}
