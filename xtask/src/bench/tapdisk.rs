//! tapdisk, where it is installed: started, told its image by `tap-ctl`, and served on its own NBD socket.
//!
//! It comes with Xen's distributions only; a path may be given. It wants root with CAP_SYS_RESOURCE (it raises its limit
//! of locked memory, and ends without), and leaves sockets and markers behind unless it is ended by `tap-ctl`.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use super::daemon::{Daemon, dies_with_us};
use crate::{Result, cmd};

/// Where its sockets lie; compiled into it.
const RUN: &str = "/run/blktap-control";

/// The two programs.
#[derive(Debug)]
pub(super) struct Tapdisk {
    server: PathBuf,
    control: PathBuf,
}

impl Tapdisk {
    /// The one that was named, else the one in `PATH`, with the `tap-ctl` beside it or in `PATH`.
    pub(super) fn find(named: Option<&Path>) -> Result<Option<Tapdisk>> {
        let Some(server) = named.map(Path::to_owned).or_else(|| cmd::which("tapdisk")) else {
            return Ok(None);
        };
        let beside = Some(server.with_file_name("tap-ctl")).filter(|file| file.is_file());
        let Some(control) = beside.or_else(|| cmd::which("tap-ctl")) else {
            return Err(format!("no tap-ctl beside {} or in PATH", server.display()).into());
        };
        Ok(Some(Tapdisk { server, control }))
    }

    /// Serves a VHD.
    pub(super) fn serve(&self, image: &Path) -> Result<Daemon> {
        let started = Instant::now();
        std::fs::create_dir_all(RUN)?;
        let mut command = dies_with_us(Command::new(&self.server).arg("-D"));
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().expect("stdout was piped");
        let mut server = Daemon::new(child);
        // It names its control socket once it listens there.
        if BufReader::new(stdout).lines().next().is_none() {
            return Err(format!("{} ended at once", self.server.display()).into());
        }
        let disk = self.allocate(server.pid())?;
        let opened = disk.open(image);
        server.serves(&disk.socket(), started);
        server.ends_with(disk);
        opened?;
        Ok(server)
    }

    /// A free number for a disk: the end of `/run/blktap-control/tapdisk/tapdisk-3`.
    fn allocate(&self, pid: u32) -> Result<TapDisk> {
        let marker = cmd::capture(Command::new(&self.control).arg("allocate"))?;
        let minor = marker.trim().rsplit_once('-').map(|(_, minor)| minor.to_owned());
        Ok(TapDisk {
            control: self.control.clone(),
            pid,
            minor: minor.ok_or_else(|| format!("tap-ctl allocate said {marker}"))?,
        })
    }
}

/// A disk of a running tapdisk, by its number.
#[derive(Debug)]
pub(super) struct TapDisk {
    control: PathBuf,
    pid: u32,
    minor: String,
}

impl TapDisk {
    fn open(&self, image: &Path) -> Result {
        self.tell("attach", &[])?;
        self.tell("open", &["-a", &format!("vhd:{}", image.display())])
    }

    fn socket(&self) -> PathBuf {
        format!("{RUN}/nbd{}.{}", self.pid, self.minor).into()
    }

    /// Closes the image and frees the number; says whether tapdisk is about to end, as it does with its last disk.
    pub(super) fn destroy(self) -> bool {
        let destroyed = self.tell("destroy", &[]);
        if let Err(error) = &destroyed {
            println!("{error}");
        }
        destroyed.is_ok()
    }

    fn tell(&self, verb: &str, args: &[&str]) -> Result {
        let mut tap_ctl = Command::new(&self.control);
        tap_ctl.arg(verb).args(["-p", &self.pid.to_string(), "-m", &self.minor]);
        cmd::capture(tap_ctl.args(args)).map(drop)
    }
}
