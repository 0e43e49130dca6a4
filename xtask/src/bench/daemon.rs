//! The servers under measurement: started, ready, and killed with their guard.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::tapdisk::TapDisk;
use crate::Result;
use crate::scratch::Scratch;

/// A running NBD server on a unix socket.
#[derive(Debug)]
pub(super) struct Daemon {
    child: Child,
    uri: String,
    took: Duration,
    /// What must be closed for it to leave nothing behind.
    disk: Option<TapDisk>,
}

impl Daemon {
    /// A process that does not serve yet.
    pub(super) fn new(child: Child) -> Daemon {
        Daemon {
            child,
            uri: String::new(),
            took: Duration::ZERO,
            disk: None,
        }
    }

    /// It serves on this socket, since now.
    pub(super) fn serves(&mut self, socket: &Path, started: Instant) {
        self.uri = format!("nbd+unix:///?socket={}", socket.display());
        self.took = started.elapsed();
    }

    /// It ends when this disk is destroyed.
    pub(super) fn ends_with(&mut self, disk: TapDisk) {
        self.disk = Some(disk);
    }

    /// Our server; ready when it says so.
    pub(super) fn ours(product: &Path, scratch: &Scratch, image: &Path, args: &[&str]) -> Result<Daemon> {
        Daemon::ours_by(Command::new(product), scratch, image, args)
    }

    /// Our server, started by another program (valgrind).
    pub(super) fn ours_by(program: Command, scratch: &Scratch, image: &Path, args: &[&str]) -> Result<Daemon> {
        let run = scratch.fresh("run");
        let mut command = dies_with_us(&program);
        command.arg("serve").arg(image).args(args).arg("--json");
        command.env("IOMGR_RUNTIME_DIR", &run).stdout(Stdio::piped());
        let started = Instant::now();
        let mut server = Daemon::new(command.spawn()?);
        let stdout = server.child.stdout.take().expect("stdout was piped");
        for line in BufReader::new(stdout).lines() {
            let ready: serde_json::Value = serde_json::from_str(&line?).unwrap_or_default();
            if let Some(uri) = ready["uri"].as_str() {
                uri.clone_into(&mut server.uri);
                server.took = started.elapsed();
                return Ok(server);
            }
        }
        Err(format!("iomgr serve {} did not get ready", image.display()).into())
    }

    /// nbdkit's file plugin.
    pub(super) fn nbdkit(scratch: &Scratch, image: &Path) -> Result<Daemon> {
        let mut command = dies_with_us(&Command::new("nbdkit"));
        let (socket, pid) = (scratch.fresh("nbdkit"), scratch.fresh("pid"));
        command
            .arg("--foreground")
            .arg("--unix")
            .arg(&socket)
            .arg("--pidfile")
            .arg(&pid)
            .arg("file")
            .arg(image);
        Daemon::by_pid_file(command, &socket, &pid)
    }

    /// qemu-nbd on a VHD, with direct I/O through io_uring.
    pub(super) fn qemu(scratch: &Scratch, image: &Path) -> Result<Daemon> {
        let mut command = dies_with_us(&Command::new("qemu-nbd"));
        let (socket, pid) = (scratch.fresh("qemu"), scratch.fresh("pid"));
        command.args([
            "--format=vpc",
            "--shared=8",
            "--persistent",
            "--cache=none",
            "--aio=io_uring",
        ]);
        command
            .arg(format!("--socket={}", socket.display()))
            .arg(format!("--pid-file={}", pid.display()))
            .arg(image);
        Daemon::by_pid_file(command, &socket, &pid)
    }

    /// A server that writes a file when it serves.
    fn by_pid_file(mut command: Command, socket: &Path, pid: &Path) -> Result<Daemon> {
        let started = Instant::now();
        let mut server = Daemon::new(command.spawn()?);
        while !pid.exists() {
            if let Some(status) = server.child.try_wait()? {
                return Err(format!("{}: {status}", crate::cmd::line(&command)).into());
            }
            std::thread::park_timeout(Duration::from_millis(2));
        }
        server.serves(socket, started);
        Ok(server)
    }

    pub(super) fn uri(&self) -> &str {
        &self.uri
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// From start to ready.
    pub(super) fn took(&self) -> Duration {
        self.took
    }

    /// Asks it to end well and waits until it has.
    pub(super) fn stop(mut self) -> Result {
        let kill = Command::new("kill").arg(self.pid().to_string()).status()?;
        let status = self.child.wait()?;
        if kill.success() && status.success() {
            Ok(())
        } else {
            Err(format!("the server ended by {status}").into())
        }
    }

    /// CPU time that all its threads have used, the ended ones included.
    pub(super) fn cpu_us(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        ticks(&stat)
            .map(|ticks| ticks * 1e6 / TICKS_PER_SECOND)
            .ok_or_else(|| format!("not understood: {stat}").into())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let ends = self.disk.take().is_some_and(TapDisk::destroy);
        if !ends {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

/// `USER_HZ`: 100 on every Linux machine that this runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// utime + stime: fields 14 and 15, after a name in parentheses that may hold anything.
fn ticks(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut times = rest.split_whitespace().skip(11).map(str::parse::<f64>);
    Some(times.next()?.ok()? + times.next()?.ok()?)
}

/// Killed by the kernel when we end, however that happens.
pub(super) fn dies_with_us(program: &Command) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--"])
        .arg(program.get_program())
        .args(program.get_args());
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_past_any_name() {
        let stat = "42 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 1 0 5";
        assert_eq!(ticks(stat), Some(300.0));
    }
}
