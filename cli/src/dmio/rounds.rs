//! The loop: start, wait, tell; as often as asked for. What runs is cancelled on time, or when a signal comes.

use std::collections::HashSet;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use vbd::dmio::{Buffers, Client, ClientConfig, Error, Handle, IoRequest, Memory, Region, Remote};
use vbd::iomgr_core::{Operation, SectorCount, SectorRange, Timestamp};

use super::disks::Disks;
use super::report::{Origin, Report};
use super::told::Told;
use super::{Common, Ended, Task, content};
use crate::failure::Failure;
use crate::output::note;
use crate::signals;

/// Memory for copies, at most; but one request on each device always gets some.
const BOUNCE_MAX: u64 = 256 << 20;
/// Requests on a device that get memory, at most; and answers that a device may owe before it is degraded.
const IOS_MAX: u64 = 16;
/// How long the end waits for what images do on their own: they reserve room ahead.
const CLOSE_MAX: Duration = Duration::from_secs(30);
/// Some region was late or given up.
const EXIT_LATE: u8 = 3;

/// See the module.
pub(super) struct Rounds<'a> {
    common: &'a Common,
    task: &'a Task<'a>,
    // Drop order: the client works on the disks.
    client: Client,
    disks: Disks,
    told: Rc<Told>,
    /// What --data gave.
    data: Option<Vec<u8>>,
    /// The signal that came, or 0.
    signal: Arc<AtomicI32>,
}

impl<'a> Rounds<'a> {
    pub(super) fn new(common: &'a Common, task: &'a Task<'a>, disks: Disks, json: bool) -> Result<Self, Failure> {
        let data = match task {
            Task::Write {
                content: Some(content), ..
            } => Some(content.read(bytes(common.regions[0].len_bytes))?),
            _ => None,
        };
        let mut client = Client::new(config(common, &disks)).map_err(|error| failed(&error))?;
        let signal = Arc::new(AtomicI32::new(0));
        catch(Arc::clone(&signal), client.remote())?;
        let report = Report::new(json, common.repeat.get() > 1, &common.regions, &disks.regions);
        let told = Rc::new(Told::new(report));
        client.set_watch(Some(told.watch()));
        Ok(Self {
            common,
            task,
            client,
            disks,
            told,
            data,
            signal,
        })
    }

    pub(super) fn run(mut self) -> Result<Ended, Failure> {
        self.told.begin();
        let mut next = self.client.now();
        for round in 1..=self.common.repeat.get() {
            self.wait(Some(next), |_| false)?;
            if self.signal() != 0 {
                break;
            }
            next = self.client.now() + self.common.interval;
            self.round(round)?;
        }
        let until = self.client.now() + self.common.linger;
        self.wait(Some(until), |rounds| rounds.client.occupancy().orphans == 0)?;
        self.end()
    }

    /// All regions, once.
    fn round(&mut self, round: u64) -> Result<(), Failure> {
        let handles = self.start(round)?;
        self.await_end(&handles)?;
        let good = self.told.take_good();
        if !matches!(self.task, Task::Write { flush: true, .. }) || good.is_empty() || self.signal() != 0 {
            return Ok(());
        }
        let flush = self.start_flush(round, good)?;
        self.await_end(&[flush])?;
        self.told.take_good();
        Ok(())
    }

    /// Waits for what runs, and cancels it when its time has come, or after a signal.
    fn await_end(&mut self, handles: &[Handle]) -> Result<(), Failure> {
        let cancel_at = self.common.cancel_after.map(|after| self.client.now() + after);
        self.wait(cancel_at, |rounds| rounds.told.is_over())?;
        if self.told.is_over() {
            return Ok(());
        }
        for handle in handles {
            handle.cancel().map_err(|error| failed(&error))?;
        }
        while !self.told.is_over() {
            self.client.poll(None).map_err(|error| failed(&error))?;
        }
        self.told.check()
    }

    /// Tells what happens until it `is_enough`, or the time has come, or a signal.
    fn wait(&mut self, until: Option<Timestamp>, is_enough: impl Fn(&mut Self) -> bool) -> Result<(), Failure> {
        while !is_enough(self) && self.signal() == 0 {
            let left = until.map(|until| until.since(self.client.now()));
            if left == Some(Duration::ZERO) {
                break;
            }
            self.client.poll(left).map_err(|error| failed(&error))?;
            self.told.check()?;
        }
        Ok(())
    }

    fn signal(&self) -> i32 {
        self.signal.load(Ordering::Relaxed)
    }

    /// Starts one request, or one for each region.
    fn start(&mut self, round: u64) -> Result<Vec<Handle>, Failure> {
        let regions = self.disks.regions.clone();
        let each = match self.task {
            Task::Read { choice: false } => 1,
            _ => regions.len(),
        };
        let requests = regions.chunks(each).enumerate();
        requests
            .map(|(number, regions)| self.start_one(round, number * each, regions))
            .collect()
    }

    /// Starts the request whose first region has the number `first`.
    fn start_one(&mut self, round: u64, first: usize, regions: &[Region]) -> Result<Handle, Failure> {
        let request = self.request(round, first, regions);
        self.submit(round, (first..first + regions.len()).collect(), request)
    }

    /// Flushes the images of regions that were written, each once.
    fn start_flush(&mut self, round: u64, mut written: Vec<usize>) -> Result<Handle, Failure> {
        let mut known = HashSet::new();
        written.retain(|&number| known.insert(self.disks.regions[number].device));
        let region = |&number: &usize| Region {
            device: self.disks.regions[number].device,
            range: SectorRange::default(),
        };
        let regions: Vec<_> = written.iter().map(region).collect();
        self.submit(round, written, self.limited(IoRequest::flush(&regions)))
    }

    /// Starts a request, which is about the regions of these numbers.
    fn submit(&mut self, round: u64, regions: Vec<usize>, request: IoRequest<'_>) -> Result<Handle, Failure> {
        let first = regions[0];
        let origin = Origin {
            round,
            regions,
            is_flush: request.op == Operation::Flush,
            began: self.client.now(),
        };
        let notify = self.told.expect(origin, request.choice);
        self.client
            .io(request, Some(notify))
            .map_err(|refused| failed(&refused.error).at(&self.common.regions[first].image))
    }

    fn request<'r>(&self, round: u64, first: usize, regions: &'r [Region]) -> IoRequest<'r> {
        let len = bytes(self.common.regions[first].len_bytes);
        let copied = |bytes| Memory::Bounce(Buffers::One(bytes));
        let request = match self.task {
            Task::Read { .. } => IoRequest::read(regions, copied(vec![0; len])),
            Task::Write { fua, .. } => {
                let data = self.data.clone().unwrap_or_else(|| content::pattern(len, round));
                let request = IoRequest::write(regions, copied(data));
                if *fua { request.fua() } else { request }
            }
        };
        self.limited(request)
    }

    fn limited<'r>(&self, request: IoRequest<'r>) -> IoRequest<'r> {
        IoRequest {
            timeout: self.common.timeout,
            ..request.flags(self.common.flags())
        }
    }

    /// Sums up and leaves. What devices still have, they keep; their images are then left as a crash would leave them.
    fn end(mut self) -> Result<Ended, Failure> {
        let orphans = self.client.occupancy().orphans;
        self.told.end(self.client.counters(), orphans);
        let closed = match orphans {
            0 => close(self.client, &self.disks),
            _ => {
                self.task.note_orphans(orphans);
                // The process ends, and the kernel keeps what it needs. Dropping the client would wait for devices.
                Box::leak(Box::new(self.client));
                Ok(())
            }
        };
        self.told.check()?;
        match self.signal.load(Ordering::Relaxed) {
            0 => closed?,
            signal => return Err(Failure::interrupted(signals::exit_code(signal))),
        }
        let code = match (self.told.has_failed(), self.told.is_late()) {
            (true, _) => ExitCode::FAILURE,
            (false, true) => EXIT_LATE.into(),
            (false, false) => ExitCode::SUCCESS,
        };
        let read = self.told.take_read();
        Ok(Ended { code, read })
    }
}

impl Task<'_> {
    /// Says what it means that devices have not answered.
    fn note_orphans(&self, orphans: u32) {
        let regions = if orphans == 1 {
            "1 region"
        } else {
            &format!("{orphans} regions")
        };
        let what = match self {
            Task::Read { .. } => "",
            Task::Write { .. } => "; a write may still reach the disk, even after this process has ended",
        };
        note(&format!(
            "devices have not answered yet for {regions} given up{what}; --linger TIME waits for that"
        ));
    }
}

/// Images may still work on their own, though all requests are answered.
fn close(client: Client, disks: &Disks) -> Result<(), Failure> {
    let until = client.now() + CLOSE_MAX;
    client.destroy_wait(Some(until)).map_err(|left| failed(&left.error))?;
    disks.close()
}

/// A signal ends the work, a second one the process.
fn catch(signal: Arc<AtomicI32>, remote: Remote) -> Result<(), Failure> {
    let abandoned = "abandoned; what devices have got may still reach the disk";
    signals::catch()?.handle(abandoned, move |number| {
        signal.store(number, Ordering::Relaxed);
        remote.wake();
    })
}

fn config(common: &Common, disks: &Disks) -> ClientConfig {
    let devices = disks.devices();
    let longest = common.regions.iter().map(|place| place.len_bytes).max().unwrap_or(512);
    let ios = BOUNCE_MAX / (longest.next_power_of_two() * devices.len() as u64);
    let ios = u32::try_from(ios.clamp(1, IOS_MAX)).expect("a small number");
    ClientConfig {
        devices,
        min_ios: ios,
        orphans_max: ios,
        max_size: SectorCount(longest / 512),
        requests: 2048,
        regions: 4096,
        ..ClientConfig::default()
    }
}

fn bytes(len: u64) -> usize {
    usize::try_from(len).expect("a region has 64 MiB at most")
}

fn failed(error: &Error) -> Failure {
    Failure::new("I/O to regions failed").because(error)
}
