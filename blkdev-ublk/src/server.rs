//! A device's life, as its owner sees it: added, started, served, stopped, deleted.
//!
//! ```text
//!  ADD_DEV ─► SET_PARAMS ─► thread: map, fetch every tag ─► START_DEV ─► /dev/ublkbN
//!                                                                            │
//!  DEL_DEV ◄── close /dev/ublkcN ◄── thread ends ◄── every tag aborted ◄── STOP_DEV
//! ```
//!
//! # Contract
//! - [`Server::start`] returns when the block device is there and can be used.
//! - The thread serves until `STOP_DEV` has returned; every reference to the character device is gone before `DEL_DEV`; a
//!   device that was stopped is never started again.
//! - Whatever fails on the way in is taken back.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, unbounded};
use tqueue::{EventWake, Watchdog};

use crate::abi::{DeviceInfo, DeviceState, Params};
use crate::config::ServerConfig;
use crate::driver::{CharDevice, Driver};
use crate::kernel::KernelDriver;
use crate::queue::{Gauges, Report, WorkerPlan, run_worker};
use crate::{Control, Error, ErrorKind, Features, block_path, release};

/// A block device that is served. Dropping it stops and deletes it, but tells nobody how that went.
#[derive(Debug)]
pub struct Server {
    control: Control,
    info: DeviceInfo,
    /// The last reference to the character device, once the thread has ended.
    source: Option<Arc<dyn CharDevice>>,
    thread: Option<JoinHandle<()>>,
    reports: Receiver<Report>,
    /// How the thread has ended.
    ended: Option<Result<(), Error>>,
    gauges: Arc<Gauges>,
    watchdog: Arc<Watchdog>,
    stage: Stage,
}

/// How far a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It is there, and has no thread yet.
    Added,
    /// It has a thread, and is not started.
    Starting,
    /// Its thread serves.
    Serving,
    /// Its thread has failed: requests in flight end with this process.
    Failed,
    /// Its thread has ended, as the kernel wanted it to.
    Ended,
    /// It is not there any more, or is somebody else's to delete.
    Gone,
}

/// What a device has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerStats {
    /// Requests delivered that have not ended.
    pub in_flight: u32,
    /// Requests that have ended.
    pub requests_total: u64,
    /// Calls of `io_uring_enter` on its thread.
    pub enters_total: u64,
    /// Entries submitted on its thread: commands, and what the device behind asks of its files.
    pub sqes_total: u64,
    /// Passes of the thread's loop whose managers' hooks took above 1 ms.
    pub slow_passes_total: u64,
    /// Times that the thread was in managers' hooks for a second or longer.
    pub stuck_passes_total: u64,
}

impl Server {
    /// Adds a device, and serves it; returns when it can be used.
    pub fn start(config: ServerConfig) -> Result<Self, Error> {
        release::check(&rustix::system::uname().release().to_string_lossy())?;
        Self::start_on(&KernelDriver, config)
    }

    pub(crate) fn start_on(driver: &dyn Driver, config: ServerConfig) -> Result<Self, Error> {
        config.check()?;
        let mut control = Control::on(driver)?;
        let watchdog = config.watchdog.clone().map_or_else(Watchdog::start, Ok);
        let watchdog = watchdog.map_err(|error| Error::new(ErrorKind::Os, "thread").caused_by(error))?;
        let wanted = wanted(&config);
        let info = control.add(&wanted)?;
        let (reports_in, reports) = unbounded();
        let mut server = Self {
            control,
            info,
            source: None,
            thread: None,
            reports,
            ended: None,
            gauges: Arc::default(),
            watchdog,
            stage: Stage::Added,
        };
        // From here on, dropping `server` takes everything back.
        compare(&wanted, &server.info)?;
        server.tell_params(&config)?;
        let source = driver.open(server.info.id)?;
        server.source = Some(Arc::clone(&source));
        let wake = EventWake::new().map_err(|errno| Error::new(ErrorKind::Os, "eventfd").caused_by(errno))?;
        server.serve(WorkerPlan {
            queue: config.queue_config(server.info.depth, server.info.buffer_bytes),
            device: config.device,
            managed: config.managed,
            source,
            index: 0,
            count: server.info.queues,
            depth: server.info.depth,
            buffer_bytes: server.info.buffer_bytes,
            wake,
            gauges: Arc::clone(&server.gauges),
            reports: reports_in,
            on_end: config.on_end,
            watch: Arc::clone(server.watchdog.watch()),
        })?;
        server.control.start(server.info.id)?;
        server.stage = Stage::Serving;
        Ok(server)
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.info.id
    }

    /// The block device.
    pub fn path(&self) -> PathBuf {
        block_path(self.info.id)
    }

    /// What it was made with.
    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// What it has done.
    pub fn stats(&self) -> ServerStats {
        let (gauges, hooks) = (&self.gauges, self.watchdog.watch().counts());
        ServerStats {
            in_flight: gauges.in_flight.load(Ordering::Relaxed),
            requests_total: gauges.requests.load(Ordering::Relaxed),
            enters_total: gauges.enters.load(Ordering::Relaxed),
            sqes_total: gauges.sqes.load(Ordering::Relaxed),
            slow_passes_total: hooks.slow_passes,
            stuck_passes_total: hooks.stuck_passes,
        }
    }

    /// Makes the block device go away, ends what is in flight, closes the device behind it.
    ///
    /// Then the device still exists for the driver, so that whoever waits for its end waits for what the caller closes next;
    /// [`delete`](Self::delete) it.
    pub fn stop(&mut self) -> Result<(), Error> {
        if self.has_ended() {
            // Nothing asked it to here: whoever stopped it deletes it.
            return self.join(Stage::Gone);
        }
        if let Stage::Starting | Stage::Serving = self.stage
            && let Err(error) = self.control.stop(self.info.id)
            && !self.has_ended()
        {
            // The thread goes on until this process ends, and so does what waits for it.
            self.stage = Stage::Failed;
            return Err(error);
        }
        self.join(Stage::Ended)
    }

    /// Lets go of the device, and deletes it; not if somebody else has stopped it, who deletes it as well. Returns when it
    /// is gone.
    pub fn delete(mut self) -> Result<(), Error> {
        self.take_down()
    }

    /// Starts the thread, and waits until every tag is fetched.
    fn serve(&mut self, plan: WorkerPlan) -> Result<(), Error> {
        let name = format!("ublk-{}", self.info.id);
        let thread = thread::Builder::new().name(name).spawn(|| run_worker(plan));
        self.thread = Some(thread.map_err(|error| Error::new(ErrorKind::Os, "thread").caused_by(error))?);
        self.stage = Stage::Starting;
        match self.reports.recv() {
            Ok(Report::Started(result)) => result,
            Ok(Report::Ended(result)) => result.and(Err(silent())),
            Err(_) => Err(silent()),
        }
    }

    /// Tells the driver what the device can take, and holds its answer against it.
    fn tell_params(&mut self, config: &ServerConfig) -> Result<(), Error> {
        let params = Params::of(&config.device.limits(), self.info.buffer_bytes);
        let taken = self.control.set_params(self.info.id, &params)?;
        if taken == params {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Unsupported,
            format!("the ublk driver made other parameters of those it was told: {taken:?} of {params:?}"),
        ))
    }

    /// Has the thread of a device that was started said its last word?
    fn has_ended(&mut self) -> bool {
        self.hear(self.reports.try_recv().ok());
        self.stage == Stage::Serving && self.ended.is_some()
    }

    fn hear(&mut self, report: Option<Report>) {
        if let Some(Report::Ended(result)) = report {
            self.ended = Some(result);
        }
    }

    /// Waits for the thread's end; the stage is `then` if that was a good one.
    fn join(&mut self, then: Stage) -> Result<(), Error> {
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        // If it panicked, its last words said so.
        let _panic = thread.join();
        self.hear(self.reports.try_iter().last());
        let result = self.ended.take().unwrap_or_else(|| Err(silent()));
        self.stage = if result.is_ok() { then } else { Stage::Failed };
        result
    }

    /// One that has gone meanwhile is deleted as well.
    fn delete_it(&mut self) -> Result<(), Error> {
        match self.control.delete(self.info.id) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            deleted => deleted,
        }
    }

    fn take_down(&mut self) -> Result<(), Error> {
        let stopped = match self.stage {
            Stage::Added | Stage::Starting | Stage::Serving => self.stop(),
            _ => Ok(()),
        };
        self.source = None;
        match self.stage {
            Stage::Added | Stage::Ended => {
                self.stage = Stage::Gone;
                stopped.and(self.delete_it())
            }
            Stage::Failed => stopped.and(Err(Error::new(
                ErrorKind::Os,
                format!(
                    "ublk device {} is left behind, stopped, when this process has ended; delete it then",
                    self.info.id
                ),
            ))),
            Stage::Starting | Stage::Serving | Stage::Gone => stopped,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.stage == Stage::Gone {
            return;
        }
        if let Err(error) = self.take_down() {
            tracing::error!(id = self.info.id, %error, "ublk_delete: failed");
        }
    }
}

/// What the driver is asked for.
fn wanted(config: &ServerConfig) -> DeviceInfo {
    DeviceInfo {
        id: config.id.unwrap_or(DeviceInfo::ANY_ID),
        queues: 1,
        depth: config.depth,
        buffer_bytes: config.buffer_bytes,
        // The driver adds those that it always has.
        features: Features::CMD_IOCTL_ENCODE,
        state: DeviceState::Dead,
        server_pid: 0,
        owner: (0, 0),
    }
}

/// The driver drops flags that it does not know, and cuts sizes down, without a word.
fn compare(wanted: &DeviceInfo, made: &DeviceInfo) -> Result<(), Error> {
    let refuse = |what: String| Err(Error::new(ErrorKind::Unsupported, what));
    let missing = wanted.features.difference(made.features);
    if !missing.is_empty() {
        let mut names = String::new();
        // Writing to a string does not fail.
        let _ = bitflags::parser::to_writer(&missing, &mut names);
        return refuse(format!("the ublk driver lacks {names}"));
    }
    if (made.queues, made.depth) != (wanted.queues, wanted.depth) {
        return refuse(format!(
            "the ublk driver made {} queues of depth {} of the {} of depth {} that were asked for",
            made.queues, made.depth, wanted.queues, wanted.depth
        ));
    }
    if !made.buffer_bytes.is_power_of_two() || !(4096..=wanted.buffer_bytes).contains(&made.buffer_bytes) {
        return refuse(format!(
            "the ublk driver made requests of {} bytes of the {} that were asked for",
            made.buffer_bytes, wanted.buffer_bytes
        ));
    }
    // Features that would change how requests are served.
    let foreign = Features::SUPPORT_ZERO_COPY | Features::USER_COPY | Features::NEED_GET_DATA | Features::AUTO_BUF_REG;
    match made.features.intersects(foreign) {
        true => refuse("the ublk driver switched on a mode that was not asked for".into()),
        false => Ok(()),
    }
}

fn silent() -> Error {
    Error::new(ErrorKind::Panicked, "the queue thread ended without a word")
}
