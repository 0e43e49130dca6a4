//! `iomgr pause` and `iomgr resume`: a disk's image is taken away for a time, and its clients only wait.
//!
//! With a command the pause is a lease: it lasts as long as this process at most, however that ends.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use vbd::{ControlClient, DiskEntry, PauseRequest, ResumeRequest, Seconds};

use crate::args::Format;
use crate::failure::Failure;
use crate::output::{print, print_json};
use crate::running::{Running, Words, exit_code};
use crate::servers::{ANSWER_MAX, OneServer, absolute};
use crate::{signals, size};

const PAUSE_EXAMPLES: &str = "\
Examples:
  iomgr pause disk0 -- cp disk0.img backup.img     copy the image while nobody writes it
  iomgr pause disk0 -- sh -c 'cp \"$image\" b.img'   the image's path is in the environment
  iomgr pause disk0                                until `iomgr resume disk0`
  iomgr pause disk0 --resume-after 10m             or after ten minutes

What is in flight ends, the image is flushed, closed and unlocked; clients of the disk wait, and see
no error. The disk resumes when the command has ended, and also when this process is killed.";

const RESUME_EXAMPLES: &str = "\
Examples:
  iomgr resume disk0                      on the image that it had
  iomgr resume disk0 --image grown.img    on another one, of the same size or larger

Clients that wait go on. A disk that cannot be resumed stays paused.";

const WORDS: Words = Words {
    option: "the command",
    asked: "the command is asked to end, and the disk resumes after it; once more to kill the command",
    closing: "resuming the disk; once more to end at once",
    abandoned: "ended at once; the server resumes the disk",
};

/// Take a disk's image away for a time: flushed, closed and unlocked
#[derive(Args, Debug)]
#[command(after_help = PAUSE_EXAMPLES)]
pub(crate) struct Pause {
    /// The disk
    disk: String,
    /// How long requests in flight may take to end; if they take longer the disk is not paused
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = size::timeout)]
    timeout: Duration,
    /// Resume by itself after so long
    #[arg(long, value_name = "TIME", value_parser = size::timeout)]
    resume_after: Option<Duration>,
    /// Run this command while the disk is paused, then resume it; the command's exit code is ours
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<std::ffi::OsString>,
    #[command(flatten)]
    server: OneServer,
}

/// Give a paused disk its image back, or another one
#[derive(Args, Debug)]
#[command(after_help = RESUME_EXAMPLES)]
pub(crate) struct Resume {
    /// The disk
    disk: String,
    /// The image from now on
    #[arg(long, value_name = "PATH")]
    image: Option<PathBuf>,
    /// Its format, where neither its extension tells it nor what was said of the old one
    #[arg(long)]
    format: Option<Format>,
    #[command(flatten)]
    server: OneServer,
}

impl Pause {
    pub(crate) fn run(&self, json: bool) -> Result<ExitCode, Failure> {
        match self.command.is_empty() {
            true => self.alone(json),
            false => self.around_command(),
        }
    }

    fn connect(&self) -> Result<ControlClient, Failure> {
        let target = self.server.target_of(&self.disk)?;
        Ok(target.connect(self.timeout.saturating_add(ANSWER_MAX))?)
    }

    fn request(&self, lease: bool) -> PauseRequest {
        PauseRequest {
            disk: self.disk.clone(),
            timeout_s: Some(Seconds::new(self.timeout)),
            resume_after_s: self.resume_after.map(Seconds::new),
            lease,
        }
    }

    fn alone(&self, json: bool) -> Result<ExitCode, Failure> {
        let disk = self.connect()?.pause(self.request(false))?;
        let path = disk.info.path.display();
        tell(&disk, json, &format!("{}: paused; {path} is closed\n", self.disk))?;
        Ok(ExitCode::SUCCESS)
    }

    fn around_command(&self) -> Result<ExitCode, Failure> {
        let running = Running::new(WORDS, || {});
        let signalled = Arc::clone(&running);
        signals::catch()?.handle_each(move |signal| signalled.signal(signal))?;
        let mut server = self.connect()?;
        let disk = server.pause(self.request(true))?;
        let ran = self.run_command(&running, &disk);
        let resumed = server.resume(ResumeRequest {
            disk: self.disk.clone(),
            ..ResumeRequest::default()
        });
        let code = ran?;
        match resumed {
            Ok(_) => Ok(ExitCode::from(code)),
            Err(error) if error.kind() == vbd::ErrorKind::State => Err(self.was_resumed().exit(code.max(1))),
            Err(error) if error.kind() == vbd::ErrorKind::Control => Err(self.has_no_server(error).exit(code.max(1))),
            Err(error) => Err(Failure::from(error).exit(code.max(1))),
        }
    }

    fn run_command(&self, running: &Arc<Running>, disk: &DiskEntry) -> Result<u8, Failure> {
        let (program, arguments) = self.command.split_first().expect("asked for only where there is one");
        let mut command = Command::new(program);
        command.args(arguments).env("image", &disk.info.path);
        let started = running
            .start(command)
            .map_err(|failure| failure.at(Path::new(program)))?;
        let Some((mut child, waiter)) = started else {
            return Ok(running.code());
        };
        // If it panicked, its last words said so; the child is waited for all the same.
        let _waited = waiter.join();
        Ok(exit_code(running.reap(&mut child)?))
    }

    fn has_no_server(&self, error: vbd::Error) -> Failure {
        let what = format!(
            "the server of disk {:?} ended, or hangs, while the command ran",
            self.disk
        );
        let mut hint = "the disk was paused until then, so what the command has read is whole, unless another server has served the image"
            .to_owned();
        if self.resume_after.is_some() {
            hint.push_str(", or --resume-after was over before");
        }
        Failure::new(what).because(error).hint(hint)
    }

    fn was_resumed(&self) -> Failure {
        let mut hint = "what the command has read of its image may be of different times".to_owned();
        if self.resume_after.is_some() {
            hint.push_str("; say a longer --resume-after");
        }
        Failure::new(format!("disk {:?} was resumed before the command had ended", self.disk)).hint(hint)
    }
}

impl Resume {
    pub(crate) fn run(&self, json: bool) -> Result<ExitCode, Failure> {
        let target = self.server.target_of(&self.disk)?;
        let disk = target.connect(RESUME_MAX)?.resume(ResumeRequest {
            disk: self.disk.clone(),
            image: self.image.as_deref().map(absolute),
            format: self.format.map(Into::into),
        })?;
        tell(
            &disk,
            json,
            &format!("{}: resumed on {}\n", self.disk, disk.info.path.display()),
        )?;
        Ok(ExitCode::SUCCESS)
    }
}

/// An image is opened, whose lock somebody may hold for a while.
const RESUME_MAX: Duration = Duration::from_secs(60);

fn tell(disk: &DiskEntry, json: bool, text: &str) -> Result<(), Failure> {
    match json {
        true => print_json(disk),
        false => print(text),
    }
}
