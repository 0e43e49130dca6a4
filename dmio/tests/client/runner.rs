//! A runner on somebody else's thread and queue: what a device that is made of others does.

use std::sync::Arc;

use dmio::{Buffers, Clock, DeviceIndex, Event, Io, IoFlags, MemoryKind, Payload, RegionState, Runner, RunnerConfig};
use iomgr_core::{OpQueue, Operation, Pass, RequestFlags, SectorCount, Waker};
use tqueue::sim::{SimConfig, SimHandle};
use tqueue::{Config, EngineKind, Queue};

use crate::rig::{SIZE, device, region};

struct Frontend {
    queue: Queue,
    runner: Runner<&'static str>,
    machine: SimHandle,
}

impl Frontend {
    fn new() -> Self {
        let machine = SimHandle::new(SimConfig::calm(9));
        let disks = [0, 1].map(|_| device(&machine.create_block_device(SIZE.0 * 512)));
        let config = Config {
            engine: EngineKind::Sim(machine.clone()),
            ..Config::default()
        };
        let mut queue = Queue::new(&config).unwrap();
        let config = RunnerConfig {
            requests: 4,
            regions: 8,
            min_ios: 1,
            orphans_max: 4,
            max_size: SectorCount(16),
            parts: 4,
            list_max: 4,
            owners: 7..10,
            clock: Clock::Passes,
            waker: Waker::none(),
        };
        let runner = Runner::new(config, &disks, &mut queue, |io, len| io.alloc(len)).unwrap();
        Self { queue, runner, machine }
    }

    /// A pass of the frontend's loop: the last ends that were told, by the value that came with the request.
    fn pass(&mut self) -> Vec<(&'static str, RegionState, Payload<'static>)> {
        let now = self.queue.now();
        while let Some(completion) = self.queue.next_completion() {
            assert!(self.runner.owns(completion.token.owner()));
            let io = &mut self.queue;
            self.runner.op_done(&mut Pass { now, io }, completion.op_done());
        }
        let io = &mut self.queue;
        self.runner.work(&mut Pass { now, io });
        let mut ends = Vec::new();
        while let Some(event) = self.runner.next_event() {
            if let Event::Region(event) = event
                && event.is_memory_free
            {
                assert!(self.runner.value(event.request).is_some());
                let (payload, value) = self.runner.finish(event.request);
                ends.push((value.unwrap(), event.state, payload));
            }
        }
        ends
    }

    fn run(
        &mut self,
        io: &Io<'_>,
        payload: Payload<'_>,
        value: &'static str,
    ) -> (&'static str, RegionState, Payload<'static>) {
        let now = self.queue.now();
        let started = self.runner.start(now, io, payload, value);
        started.map_err(|(error, ..)| error).unwrap();
        loop {
            if let Some(end) = self.pass().pop() {
                return end;
            }
            self.queue.submit_and_wait(None).unwrap();
        }
    }
}

fn io(op: Operation, regions: &[dmio::Region]) -> Io<'_> {
    Io {
        op,
        request_flags: RequestFlags::empty(),
        regions,
        choice: false,
        timeout: None,
        flags: IoFlags::empty(),
        memory: MemoryKind::None,
    }
}

#[test]
fn a_frontends_own_memory_goes_to_both_legs() {
    let mut frontend = Frontend::new();
    let lease = frontend.queue.alloc(4096).unwrap();
    frontend.queue.bytes_mut(lease.data()).unwrap().fill(5);
    let whole = || Payload::Whole {
        data: lease.data(),
        cancellable: false,
    };
    let legs = [region(0, 0, 8), region(1, 8, 8)];
    let (value, state, _) = frontend.run(&io(Operation::Write, &legs), whole(), "write");
    assert_eq!((value, state), ("write", RegionState::Ok));
    frontend.queue.bytes_mut(lease.data()).unwrap().fill(0);
    let (value, state, _) = frontend.run(&io(Operation::Read, &legs[1..]), whole(), "read");
    assert_eq!((value, state), ("read", RegionState::Ok));
    assert!(
        frontend
            .queue
            .bytes(lease.data())
            .unwrap()
            .iter()
            .all(|&byte| byte == 5)
    );
    let (_, _, payload) = frontend.run(
        &io(Operation::Read, &legs[..1]),
        Payload::Bounce(Buffers::One(vec![0; 4096])),
        "copy",
    );
    assert!(matches!(payload, Payload::Bounce(Buffers::One(bytes)) if bytes == [5; 4096]));
    assert!(frontend.runner.is_idle() && frontend.runner.occupancy().requests == 0);
}

#[test]
fn what_is_refused_comes_back_and_owners_are_limited() {
    let mut frontend = Frontend::new();
    let far = [region(0, SIZE.0, 8)];
    let bounce = Payload::Bounce(Buffers::One(vec![1; 4096]));
    let (error, payload, value) = frontend
        .runner
        .start(frontend.queue.now(), &io(Operation::Write, &far), bounce, "far")
        .unwrap_err();
    assert!(error.to_string().starts_with("region 0: "), "{error}");
    assert!(matches!(payload, Payload::Bounce(_)) && value == "far");
    // Three owners: two devices, and one that takes the place of another.
    let next = || device(&frontend.machine.create_block_device(SIZE.0 * 512));
    let (third, fourth): (Arc<_>, Arc<_>) = (next(), next());
    let now = frontend.queue.now();
    let mut replace = |with| {
        let pass = &mut Pass {
            now,
            io: &mut frontend.queue,
        };
        frontend.runner.replace(pass, DeviceIndex(0), with, Waker::none())
    };
    replace(&third).unwrap();
    assert!(replace(&fourth).is_err(), "the first is still there");
    frontend.pass();
    let now = frontend.queue.now();
    let pass = &mut Pass {
        now,
        io: &mut frontend.queue,
    };
    frontend
        .runner
        .replace(pass, DeviceIndex(0), &fourth, Waker::none())
        .unwrap();
    frontend.pass();
    let Frontend { mut queue, runner, .. } = frontend;
    runner.close(&mut queue);
    assert!(queue.is_idle());
}

#[test]
fn a_runner_that_is_too_large_is_refused() {
    let machine = SimHandle::new(SimConfig::calm(9));
    let disk = device(&machine.create_block_device(SIZE.0 * 512));
    let config = Config {
        engine: EngineKind::Sim(machine),
        ..Config::default()
    };
    let mut queue = Queue::new(&config).unwrap();
    for (parts, list_max, says) in [
        (u32::MAX, 4, "parts: "),
        (4, u32::MAX, "list_max: "),
        (4, 65, "list_max: 65 "),
    ] {
        let config = RunnerConfig {
            requests: 4,
            regions: 8,
            min_ios: 1,
            orphans_max: 4,
            max_size: SectorCount(16),
            parts,
            list_max,
            owners: 7..10,
            clock: Clock::Passes,
            waker: Waker::none(),
        };
        let made = Runner::<()>::new(config, &[Arc::clone(&disk)], &mut queue, |io, len| io.alloc(len));
        let error = made.unwrap_err();
        assert_eq!(error.kind(), dmio::ErrorKind::Config);
        assert!(error.to_string().starts_with(says), "{error}");
    }
}

#[test]
fn a_runner_that_cannot_be_made_leaves_nothing_behind() {
    let machine = SimHandle::new(SimConfig::calm(9));
    let disk = device(&machine.create_block_device(SIZE.0 * 512));
    let config = Config {
        engine: EngineKind::Sim(machine),
        arena_bytes: 1 << 20,
        ..Config::default()
    };
    let mut queue = Queue::new(&config).unwrap();
    let config = |min_ios| RunnerConfig {
        requests: 4,
        regions: 8,
        min_ios,
        orphans_max: 4,
        max_size: SectorCount(16),
        parts: 4,
        list_max: 4,
        owners: 7..10,
        clock: Clock::Passes,
        waker: Waker::none(),
    };
    let mut make = |min_ios, devices: &[_]| {
        let lease = |io: &mut dyn OpQueue, len| io.alloc(len);
        Runner::<()>::new(config(min_ios), devices, &mut queue, lease).map_err(|error| error.kind())
    };
    let one = [Arc::clone(&disk)];
    assert_eq!(make(1000, &one).err(), Some(dmio::ErrorKind::Memory));
    // The second opens no queue: the device has one.
    let twice = [Arc::clone(&disk), disk];
    assert_eq!(make(4, &twice).err(), Some(dmio::ErrorKind::Device));
    let runner = make(128, &one).unwrap();
    runner.close(&mut queue);
    assert!(queue.alloc(1 << 20).is_some(), "all of the arena is free");
}
