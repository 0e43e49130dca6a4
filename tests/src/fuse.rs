//! An NBD export as a file, by nbdfuse; and disks that fail when told to, by nbdkit.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::cleanup::Cleanup;
use crate::mount;
use crate::process::Process;
use crate::tool::Tool;
use crate::wait;

/// An NBD export, mounted as a file. Dropping it unmounts the file and ends nbdfuse.
///
/// nbdfuse keeps only four or five requests in flight: it is for correctness, not for speed.
#[derive(Debug)]
pub struct NbdFuse {
    file: PathBuf,
    // The order of the fields is the order of the teardown: unmount, then the process.
    _unmount: Cleanup,
    process: Process,
}

impl NbdFuse {
    /// Mounts the export of `uri` on the file, which is made.
    pub fn mount(uri: &str, file: &Path) -> NbdFuse {
        fs::write(file, "").unwrap();
        let pid = file.with_extension("pid");
        // One that an earlier mount left would say that this one is ready.
        let _ = fs::remove_file(&pid);
        let tool = Tool::new("nbdfuse").arg("-P").arg(&pid).arg(file).arg(uri);
        let process = Process::start(tool, Stdio::null(), Stdio::inherit());
        let point = file.to_owned();
        let unmount = Cleanup::new(move || mount::unmount(&point));
        let served = wait::until(|| fs::read(&pid).is_ok_and(|text| !text.is_empty()));
        assert!(served, "nbdfuse does not serve {uri}");
        NbdFuse {
            file: file.to_owned(),
            _unmount: unmount,
            process,
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.file
    }

    /// Unmounts and waits until nbdfuse has ended: the NBD server sees its client go.
    pub fn unmount(self) {
        Tool::new("umount").arg(&self.file).run();
        assert_eq!(self.process.exit_code(), 0, "nbdfuse");
    }
}

/// An nbdkit server on a socket.
#[derive(Debug)]
pub struct Nbdkit {
    socket: PathBuf,
    _process: Process,
}

impl Nbdkit {
    /// Starts nbdkit with these arguments (filters, plugin, parameters) and waits until it listens.
    pub fn start<S: AsRef<std::ffi::OsStr>>(socket: &Path, args: impl IntoIterator<Item = S>) -> Nbdkit {
        let pid = socket.with_extension("pid");
        let tool = Tool::new("nbdkit")
            .args(["--foreground", "--unix"])
            .arg(socket)
            .arg("--pidfile")
            .arg(&pid)
            .args(args);
        let process = Process::start(tool, Stdio::null(), Stdio::inherit());
        assert!(wait::until(|| pid.exists()), "nbdkit does not serve");
        Nbdkit {
            socket: socket.to_owned(),
            _process: process,
        }
    }

    /// A disk in the file `store` on which everything but flushes fails with EIO while the file `trip` exists.
    pub fn failing(socket: &Path, store: &Path, trip: &Path, size_bytes: u64) -> Nbdkit {
        fs::File::create(store).unwrap().set_len(size_bytes).unwrap();
        let store = store.display().to_string();
        let file = format!("error-file={}", trip.display());
        let args = ["--filter=error", "file", &store, "error=EIO", "error-rate=100%", &file];
        Nbdkit::start(socket, args)
    }

    /// A disk in the file `store` whose flush fails with EIO while the file `trip` exists.
    pub fn failing_flush(socket: &Path, store: &Path, trip: &Path, size_bytes: u64) -> Nbdkit {
        let flush = format!("if [ -e {} ]; then echo EIO tripped >&2; exit 1; fi", trip.display());
        Nbdkit::with_flush(socket, store, &flush, size_bytes)
    }

    /// A disk in the file `store` whose flush does not end while the file `trip` exists.
    pub fn stalling_flush(socket: &Path, store: &Path, trip: &Path, size_bytes: u64) -> Nbdkit {
        let flush = format!("while [ -e {} ]; do sleep 0.05; done", trip.display());
        Nbdkit::with_flush(socket, store, &flush, size_bytes)
    }

    fn with_flush(socket: &Path, store: &Path, flush: &str, size_bytes: u64) -> Nbdkit {
        fs::File::create(store).unwrap().set_len(size_bytes).unwrap();
        let store = store.display();
        let dd = "dd status=none conv=notrunc iflag=count_bytes,skip_bytes,fullblock oflag=seek_bytes bs=64k";
        Nbdkit::start(
            socket,
            [
                "eval".to_owned(),
                format!("get_size=echo {size_bytes}"),
                format!("pread={dd} if={store} skip=$4 count=$3"),
                format!("pwrite={dd} of={store} seek=$4"),
                format!("flush={flush}"),
            ],
        )
    }

    /// The URI for clients.
    pub fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket.display())
    }
}

/// Whether nbdkit has a filter.
pub fn nbdkit_has_filter(filter: &str) -> bool {
    let filter = format!("--filter={filter}");
    let output = Command::new("nbdkit").args([&filter, "null", "--version"]).output();
    output.is_ok_and(|output| output.status.success())
}

/// Whether nbdkit has a plugin.
pub fn nbdkit_has(plugin: &str) -> bool {
    Command::new("nbdkit")
        .args([plugin, "--version"])
        .output()
        .is_ok_and(|output| output.status.success())
}
