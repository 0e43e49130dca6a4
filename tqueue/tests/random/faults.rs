//! The simulator against the model: errors, stalls, late completions, refusals, lost flushes, kills and power cuts. After any
//! of it a file holds what the model allows: old or new where an op failed, what was flushed for certain.

use std::ops::Range;
use std::time::Duration;

use fastrand::Rng;
use iomgr_core::{Errno, OpError, Storage};
use tqueue::sim::{Fault, OpKinds, SimConfig, SimDisk, SimHandle};
use tqueue::{Config, EngineKind, Queue};

use crate::budget::{self, for_seeds};
use crate::driver::{Driver, Place};
use crate::model::Model;
use crate::script::{Kind, SPACE, Script, Spec, Style};

/// Seeds that once failed.
const KEPT: &[u64] = &[
    // Ops that found no room rang the alarm for stuck ops for ever.
    3_080_504,
    // Durable writes failed as one and did well alone: the last one told.
    17_458_476_504_490_127_991,
    // A write came short, a flush failed, the rest was written: no flush makes the first part good.
    17_331_545_620_038_540_172,
    // A flush had failed, which was told only after a later one had done well.
    4_072_094_742_832_322_839,
    13_353_411_063_112_789_242,
];

const TEST: &str = "the_simulator_does_what_the_model_allows";

#[test]
fn the_simulator_does_what_the_model_allows() {
    for_seeds(TEST, KEPT, run);
}

/// How a life ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Drained,
    /// After so many ops have completed.
    PowerFails(u64),
    /// Between two steps.
    Cut,
    Kill,
}

/// A machine and its disks, through several lives of one process after the other.
struct Rig {
    machine: SimHandle,
    disks: Vec<SimDisk>,
    models: Vec<Model>,
    rng: Rng,
    /// May holes be refused? Then nobody knows what a discard does.
    holes_fail: bool,
    next_id: u64,
    size_max: u32,
}

fn run(seed: u64) -> u64 {
    let mut rig = Rig::new(seed);
    let report = rig.machine.report_panic(budget::replay(TEST, seed));
    let mut ops = 0;
    for _ in 0..rig.rng.u32(1..5) {
        ops += rig.live();
    }
    std::mem::drop(report);
    ops
}

impl Rig {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let mut often = |choices: [u32; 4]| choices[rng.usize(..4)];
        let config = SimConfig::new(seed)
            .short_every(often([0, 2, 5, 20]))
            .interrupt_every(often([0, 3, 20, 100]))
            .stall_every(often([0, 0, 10, 100]))
            .refuse_every(often([0, 0, 2, 50]))
            // Of every second seed all: that draws no random number, so that kept seeds stay what they were.
            .take_late_every(u32::from(seed & 1 == 1));
        let machine = SimHandle::new(config);
        machine.record(60);
        let (mut disks, mut models) = (Vec::new(), Vec::new());
        let holes_fail = rng.bool();
        for _ in 0..3 {
            let device_len = (rng.u8(..4) == 0).then(|| rng.u64(1..=SPACE / 512) * 512);
            disks.push(device_len.map_or_else(|| machine.create_file(), |len| machine.create_block_device(len)));
            models.push(Model::new(device_len, !holes_fail));
        }
        Self {
            machine,
            disks,
            models,
            rng,
            holes_fail,
            next_id: 1,
            size_max: 0,
        }
    }

    /// One process: a queue, a script, and an end. Says how many ops it had.
    fn live(&mut self) -> u64 {
        let style = Style {
            flush_every: 12,
            ops_max: 512,
            first_id: self.next_id,
        };
        let script = Script::random(&mut self.rng, style);
        self.next_id += script.ops();
        self.size_max = self.size_max.max(script.size);
        let config = Config {
            engine: EngineKind::Sim(self.machine.clone()),
            ..script.config()
        };
        let queue = Queue::new(&config).unwrap();
        let handles = self.disks[..script.files].iter().map(SimDisk::handle).collect();
        let mut place = Weather::new(&self.machine);
        for (file, disk) in self.disks.iter().enumerate().filter(|(_, disk)| disk.is_block_device()) {
            place.excuse(file, OpKinds::WRITE, disk.len_bytes().unwrap()..u64::MAX, Errno::NOSPC);
        }
        let models = std::mem::take(&mut self.models);
        let mut driver = Driver::new(&script, queue, handles, models, place);
        let end = self.end(&script);
        self.play(&mut driver, &script, end);
        self.finish(driver, end);
        assert!(
            self.machine.most_in_flight() <= self.size_max,
            "more in flight than the queue's size"
        );
        script.ops()
    }

    fn end(&mut self, script: &Script) -> End {
        match self.rng.u8(..8) {
            0..3 => End::Drained,
            3..6 => End::PowerFails(self.rng.u64(1..script.ops().max(2))),
            6 => End::Cut,
            _ => End::Kill,
        }
    }

    /// Runs the script, or some of it.
    fn play(&mut self, driver: &mut Driver<'_, Weather>, script: &Script, end: End) {
        if let End::PowerFails(steps) = end {
            self.machine.fail_after(steps);
        }
        let stop = match end {
            End::Cut | End::Kill => self.rng.usize(..script.steps.len()),
            End::Drained | End::PowerFails(_) => script.steps.len(),
        };
        for step in &script.steps[..stop] {
            if self.machine.is_off() {
                return;
            }
            if self.rng.u8(..6) == 0 {
                let file = self.rng.usize(..script.files);
                self.change_weather(&mut driver.place, file);
            }
            driver.step(step);
        }
    }

    fn finish(&mut self, mut driver: Driver<'_, Weather>, end: End) {
        if let End::Drained = end {
            driver.drain();
            driver.check_counters();
        }
        for disk in &self.disks {
            disk.heal();
            disk.fail_range(0..0);
            disk.fail_flushes(false);
            disk.limit_len(None);
            disk.refuse_holes(false);
        }
        self.machine.refuse_submissions(false);
        let seed = self.rng.u64(..);
        match end {
            End::Drained => self.machine.release(),
            End::PowerFails(_) | End::Cut => self.machine.cut_power(seed),
            End::Kill => self.machine.kill(seed),
        }
        self.models = std::mem::take(&mut driver.models);
        // What is left of its ops ends here.
        std::mem::drop(driver);
        for (disk, model) in self.disks.iter().zip(&mut self.models) {
            let content = content(disk);
            match end {
                End::Drained => model.check(&content),
                End::PowerFails(_) | End::Cut => model.cut(&content),
                End::Kill => model.kill(&content),
            }
        }
    }

    /// Something begins to go wrong, or ceases to.
    fn change_weather(&mut self, weather: &mut Weather, file: usize) {
        let (machine, disk, rng) = (&self.machine, &self.disks[file], &mut self.rng);
        match rng.u8(..20) {
            0..7 => disk.inject(weather.fault(file, rng)),
            7..10 => disk.heal(),
            10 => {
                let start = rng.u64(..SPACE);
                let bad = start..start + rng.u64(1..8192);
                weather.excuse(file, OpKinds::READ | OpKinds::WRITE, bad.clone(), Errno::IO);
                disk.fail_range(bad);
            }
            11 => disk.fail_range(0..0),
            12 => {
                weather.excuse(file, OpKinds::FLUSH, 0..SPACE, Errno::IO);
                disk.fail_flushes(rng.bool());
            }
            13 => {
                let limit = rng.u64(..SPACE);
                weather.excuse(file, OpKinds::WRITE, limit..u64::MAX, Errno::NOSPC);
                disk.limit_len(rng.bool().then_some(limit));
            }
            14 if self.holes_fail => disk.refuse_holes(rng.bool()),
            15 => disk.stall(),
            16 => disk.stall_for(Duration::from_micros(rng.u64(..100_000))),
            17 => machine.stall_for(Duration::from_micros(rng.u64(..100_000))),
            18 => machine.refuse_submissions(rng.bool()),
            _ => disk.release(),
        }
    }
}

fn content(disk: &SimDisk) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(disk.len_bytes().unwrap()).unwrap()];
    disk.read_at(&mut bytes, 0).unwrap();
    bytes
}

/// What may go wrong in this life.
struct Weather {
    machine: SimHandle,
    excuses: Vec<Excuse>,
    /// Times that nothing had ended.
    calms: u32,
}

/// Ops of these kinds that touch these bytes may fail so. Their neighbours may not, even where they became one op.
struct Excuse {
    file: usize,
    kinds: OpKinds,
    bytes: Range<u64>,
    errno: Errno,
}

impl Weather {
    fn new(machine: &SimHandle) -> Self {
        Self {
            machine: machine.clone(),
            excuses: Vec::new(),
            calms: 0,
        }
    }

    fn excuse(&mut self, file: usize, kinds: OpKinds, bytes: Range<u64>, errno: Errno) {
        self.excuses.push(Excuse {
            file,
            kinds,
            bytes,
            errno,
        });
    }

    fn fault(&mut self, file: usize, rng: &mut Rng) -> Fault {
        let kinds = OpKinds::from_bits_truncate(rng.u8(1..16));
        let time = Duration::from_micros(1 << rng.u32(..20));
        let errno = [Errno::IO, Errno::AGAIN, Errno::INTR, Errno::NOSPC, Errno::STALE][rng.usize(..5)];
        let fault = match rng.u8(..8) {
            0..2 => Fault::error(errno),
            2..4 => Fault::torn_error(errno),
            4 => Fault::delay(time),
            5..7 => Fault::late(time),
            _ => Fault::hold(),
        };
        let start = rng.u64(..SPACE);
        let part = if rng.bool() { 0..SPACE } else { start..start + 20_000 };
        // No op is interrupted so often that the queue gives in.
        if errno != Errno::INTR {
            self.excuse(file, kinds, part.clone(), errno);
        }
        let fault = fault.on(kinds).within(part).one_in([2, 3, 10, 50][rng.usize(..4)]);
        if rng.bool() { fault.times(rng.u32(1..20)) } else { fault }
    }
}

impl Excuse {
    fn covers(&self, spec: &Spec, meets: OpKinds, errno: Errno) -> bool {
        let touches = spec.kind == Kind::Flush || (self.bytes.start < spec.end() && spec.offset < self.bytes.end);
        touches && self.is_on(spec.file, meets, errno)
    }

    fn is_on(&self, file: usize, meets: OpKinds, errno: Errno) -> bool {
        self.file == file && self.kinds.intersects(meets) && self.errno == errno
    }
}

impl Place for Weather {
    fn excuses(&mut self, spec: &Spec, error: OpError) -> bool {
        let OpError::Os(errno) = error else { return false };
        // Zeros are written where there are no holes.
        let meets = match spec.kind {
            Kind::Read => OpKinds::READ,
            Kind::Write { .. } => OpKinds::WRITE,
            Kind::Zero { .. } | Kind::Discard => OpKinds::ZERO | OpKinds::WRITE,
            Kind::Flush => OpKinds::FLUSH,
            Kind::Prefetch => OpKinds::empty(),
        };
        let mut excuses = self.excuses.iter();
        let off = self.machine.is_off() && errno == Errno::IO;
        // Where durable writes failed as one and then did well alone, the last one tells of the failure: what it had to make
        // durable may be all of theirs.
        let durable = spec.kind == Kind::Write { durable: true };
        let owes = |excuse: &Excuse| durable && excuse.is_on(spec.file, meets, errno);
        off || excuses.any(|excuse| excuse.covers(spec, meets, errno) || owes(excuse))
    }

    fn unstick(&mut self, queue: &Queue) {
        self.calms += 1;
        if self.calms.is_multiple_of(8) {
            self.machine.release();
            self.machine.refuse_submissions(false);
        }
        assert!(self.calms < 100_000, "ops never end: {}", queue.dump());
    }
}
