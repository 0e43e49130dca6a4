//! A device's life, as its owner sees it: added, started, served, stopped, deleted.
//!
//! ```text
//!  ADD_DEV ─► SET_PARAMS ─► threads ready ─► open /dev/ublkcN ─► fetch every tag ─► START_DEV ─► /dev/ublkbN
//!                                                                                                    │
//!               DEL_DEV ◄── close /dev/ublkcN ◄── threads end ◄── every tag aborted ◄───────────── STOP_DEV
//! ```
//!
//! A device that outlives its server is taken over by the next: `recover`.
//!
//! # Contract
//! - [`Server::start`] returns when the block device is there and can be used; [`Server::add`] before anybody can see it.
//! - There is a thread for each hardware queue. They come up one after the other, queue 0 first, and it closes last.
//! - They serve until `STOP_DEV` has returned; every reference to the character device is gone before `DEL_DEV`; a
//!   device that was stopped is never started again.
//! - What the page cache holds of the block device is written back before `STOP_DEV`: later it could not be, where the device
//!   outlives its server.
//! - Whatever fails on the way in is taken back; but a device that was there before stays.
//! - When a thread fails, the others go on until the process ends: nothing can be waited for any more.

mod careful;
mod made;
mod owner;
mod recover;
mod threads;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, Sender, unbounded};
use rustix::thread::CpuSet;
use tqueue::{EventWake, Watchdog};

pub use self::careful::CarefulStop;
use self::made::{compare, wanted};
use self::threads::Threads;
use crate::abi::{DeviceInfo, Params};
use crate::config::ServerConfig;
use crate::driver::{CharDevice, Driver};
use crate::kernel::KernelDriver;
use crate::queue::{Leave, Place, Report, WorkerPlan};
use crate::{Control, Error, ErrorKind, block_path, release};

/// How the pages of requests are aligned that go to an image as they are, perhaps past the page cache: as a mask.
const PAGES_ALIGNMENT: u32 = 511;

/// A block device that is served. Dropping it stops and deletes it, but tells nobody how that went.
#[derive(Debug)]
pub struct Server {
    control: Control,
    info: DeviceInfo,
    /// The last reference to the character device, once the threads have ended.
    source: Option<Arc<dyn CharDevice>>,
    threads: Threads,
    watchdog: Arc<Watchdog>,
    /// Tells the threads to leave the device to another server.
    leave: Option<Arc<Leave>>,
    /// Was it stopped by a [`CarefulStop`]?
    is_asked: Arc<AtomicBool>,
    stage: Stage,
}

/// Between two looks at the threads while the page cache is written back by them.
const LOOK_AFTER: Duration = Duration::from_millis(50);

/// How far a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It is there, and nobody has it open.
    Added,
    /// It was there before: it stays, whatever becomes of its recovery.
    Adopted,
    /// Threads fetch its tags, and it is not started.
    Starting,
    /// Its threads serve.
    Serving,
    /// One of its threads has failed: requests in flight end with this process.
    Failed,
    /// Its threads have ended, as the kernel wanted them to.
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
    /// Calls of `io_uring_enter` on its threads.
    pub enters_total: u64,
    /// Entries submitted on its threads: commands, and what the device behind asks of its files.
    pub sqes_total: u64,
    /// What the device behind asked of its files that went there as part of another such op.
    pub merges_total: u64,
    /// Passes of the thread's loop whose managers' hooks took above 1 ms.
    pub slow_passes_total: u64,
    /// Times that the thread was in managers' hooks for a second or longer.
    pub stuck_passes_total: u64,
}

impl Server {
    /// Adds a device, and serves it; returns when it can be used.
    pub fn start(config: ServerConfig) -> Result<Self, Error> {
        let mut server = Self::add(config)?;
        server.show()?;
        Ok(server)
    }

    /// Adds a device, and serves it; nobody sees the block device before [`show`](Self::show).
    pub fn add(config: ServerConfig) -> Result<Self, Error> {
        release::check_kernel()?;
        Self::add_on(&KernelDriver, config)
    }

    #[cfg(test)]
    pub(crate) fn start_on(driver: &dyn Driver, config: ServerConfig) -> Result<Self, Error> {
        let mut server = Self::add_on(driver, config)?;
        server.show_on(driver)?;
        Ok(server)
    }

    pub(crate) fn add_on(driver: &dyn Driver, config: ServerConfig) -> Result<Self, Error> {
        config.check()?;
        let mut control = Control::on(driver)?;
        let watchdog = watchdog(&config)?;
        // A driver that does not tell its features has none that are asked for only where they are.
        let known = control.features().unwrap_or_default();
        let wanted = wanted(&config, known);
        let info = control.add(&wanted)?;
        let mut server = Self::new(control, info, watchdog, Stage::Added);
        // From here on, dropping `server` takes everything back.
        compare(&wanted, &server.info)?;
        server.await_ownership(driver)?;
        server.tell_params(&config)?;
        server.prepare(&config)?;
        server.open(driver)?;
        Ok(server)
    }

    /// Makes the block device appear; returns when it can be used.
    pub fn show(&mut self) -> Result<(), Error> {
        self.show_on(&KernelDriver)
    }

    fn show_on(&mut self, driver: &dyn Driver) -> Result<(), Error> {
        self.control.start(self.info.id)?;
        self.stage = Stage::Serving;
        self.await_block_device(driver)
    }

    fn new(control: Control, info: DeviceInfo, watchdog: Arc<Watchdog>, stage: Stage) -> Self {
        Self {
            control,
            info,
            source: None,
            threads: Threads::new(crossbeam_channel::never()),
            watchdog,
            leave: None,
            is_asked: Arc::default(),
            stage,
        }
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
        let hooks = self.watchdog.watch().counts();
        ServerStats {
            slow_passes_total: hooks.slow_passes,
            stuck_passes_total: hooks.stuck_passes,
            ..self.threads.stats()
        }
    }

    /// Makes the block device go away, ends what is in flight, closes the device behind it.
    ///
    /// Then the device still exists for the driver, so that whoever waits for its end waits for what the caller closes next;
    /// [`delete`](Self::delete) it.
    pub fn stop(&mut self) -> Result<(), Error> {
        match self.stage {
            Stage::Ended | Stage::Gone => return Ok(()),
            Stage::Failed => return Err(self.left_behind()),
            _ => {}
        }
        if self.has_ended() {
            // Whoever stopped it deletes it.
            return self.join(match self.is_asked.load(Ordering::Acquire) {
                true => Stage::Ended,
                false => Stage::Gone,
            });
        }
        if self.stage == Stage::Adopted {
            return self.leave();
        }
        if self.stage == Stage::Serving && self.outlives_server() {
            self.write_back();
        }
        if let Stage::Starting | Stage::Serving = self.stage
            && let Err(error) = self.control.stop(self.info.id)
            && !self.has_ended()
        {
            // The threads go on until this process ends, and so does what waits for them.
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

    /// Starts a thread for each of its queues, and has them make all that they need, but for the device.
    fn prepare(&mut self, config: &ServerConfig) -> Result<(), Error> {
        let (reports_in, reports) = unbounded();
        self.threads = Threads::new(reports);
        let plans = plans(config, self, &reports_in)?;
        self.leave = plans.first().map(|plan| Arc::clone(&plan.leave));
        for (plan, cpus) in plans.into_iter().zip(self.affinities()) {
            let name = format!("ublk-{}-{}", self.info.id, plan.index);
            self.threads.prepare(name, WorkerPlan { cpus, ..plan })?;
        }
        Ok(())
    }

    /// Opens the device, and has the threads fetch every tag.
    fn open(&mut self, driver: &dyn Driver) -> Result<(), Error> {
        let source = driver.open(self.info.id)?;
        self.source = Some(Arc::clone(&source));
        if self.stage == Stage::Added {
            self.stage = Stage::Starting;
        }
        self.threads.open(&source)
    }

    /// Has what the page cache holds written, as long as there is somebody to write it.
    fn write_back(&mut self) {
        let written = self.control.write_back(self.info.id);
        while !self.has_ended() {
            match written.recv_timeout(LOOK_AFTER) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Ok(())) => return,
                failed => {
                    tracing::error!(
                        id = self.info.id,
                        ?failed,
                        "write_back: failed; what was not synced may be lost"
                    );
                    return;
                }
            }
        }
    }

    /// Tells the driver what the device can take, and holds its answer against it.
    fn tell_params(&mut self, config: &ServerConfig) -> Result<(), Error> {
        let mut params = Params::of(&config.device.limits(), self.info.buffer_bytes);
        params.dma_alignment = config.zero_copy.then_some(PAGES_ALIGNMENT);
        let taken = self.control.set_params(self.info.id, &params)?;
        if taken == params {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Unsupported,
            format!("the ublk driver made other parameters of those it was told: {taken:?} of {params:?}"),
        ))
    }

    /// Where each queue's thread is to run: anywhere, if the driver does not tell.
    fn affinities(&mut self) -> Vec<Option<CpuSet>> {
        let queues = 0..self.info.queues;
        let told: Result<_, _> = queues
            .clone()
            .map(|queue| self.control.affinity(self.info.id, queue).map(Some))
            .collect();
        told.unwrap_or_else(|error| {
            tracing::warn!(%error, "affinity_unknown: the queue threads run on any processor");
            queues.map(|_| None).collect()
        })
    }

    /// Has a thread of a device that was started said its last word?
    fn has_ended(&mut self) -> bool {
        self.stage == Stage::Serving && self.threads.has_any_ended()
    }

    /// Waits for the threads' end; the stage is `then` if that was a good one.
    fn join(&mut self, then: Stage) -> Result<(), Error> {
        let result = self.threads.join();
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
        let stopped = self.stop();
        self.source = None;
        match self.stage {
            Stage::Added | Stage::Ended => {
                self.stage = Stage::Gone;
                stopped.and(self.delete_it())
            }
            Stage::Adopted | Stage::Starting | Stage::Serving | Stage::Failed | Stage::Gone => stopped,
        }
    }

    fn left_behind(&self) -> Error {
        let fate = match self.outlives_server() {
            true => "and waits for its next server when this process has ended; recover it then, or delete it",
            false => "stopped, when this process has ended; delete it then",
        };
        let what = format!("ublk device {} is left behind, {fate}", self.info.id);
        Error::new(ErrorKind::Os, what)
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

/// Who watches the threads.
fn watchdog(config: &ServerConfig) -> Result<Arc<Watchdog>, Error> {
    let watchdog = config.watchdog.clone().map_or_else(Watchdog::start, Ok);
    watchdog.map_err(|error| Error::new(ErrorKind::Os, "thread").caused_by(error))
}

/// What each queue's thread is made from.
fn plans(config: &ServerConfig, server: &Server, reports: &Sender<Report>) -> Result<Vec<WorkerPlan>, Error> {
    let info = &server.info;
    let wakes: Result<Vec<_>, _> = (0..info.queues).map(|_| EventWake::new()).collect();
    let wakes = wakes.map_err(|errno| Error::new(ErrorKind::Os, "eventfd").caused_by(errno))?;
    let places = Place::all(info.queues, &wakes[0]);
    let leave = Leave::new(wakes.clone());
    let plan = |(index, (place, wake))| WorkerPlan {
        index,
        count: info.queues,
        place,
        cpus: None,
        queue: config.queue_config(info.depth, info.buffer_bytes),
        device: Arc::clone(&config.device),
        managed: Arc::clone(&config.managed),
        depth: info.depth,
        buffer_bytes: info.buffer_bytes,
        zero_copy: config.zero_copy,
        wake,
        leave: Arc::clone(&leave),
        gauges: Arc::default(),
        reports: reports.clone(),
        on_end: config.on_end.clone(),
        watch: Arc::clone(server.watchdog.watch()),
    };
    Ok((0..).zip(places.zip(wakes)).map(plan).collect())
}
