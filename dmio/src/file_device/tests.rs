use std::os::unix::fs::FileExt;
use std::time::Duration;

use iomgr_core::{
    Busy, CancelOutcome, Data, Done, Errno, Lease, OpQueue, Operation, Owner, Pass, Request, RequestFlags, Sector,
    SectorCount, SectorRange, Storage, Tag, Waker,
};
use tqueue::sim::{Fault, OpKinds, SimConfig, SimDisk, SimHandle};
use tqueue::{Config, EngineKind, Queue};

use super::*;
use crate::ErrorKind;

const DEPTH: u32 = 8;

struct Rig {
    io: Queue,
    queue: Box<dyn DeviceQueue>,
}

impl Rig {
    fn new(device: &FileDevice, engine: EngineKind, max_ops: u32) -> Self {
        let config = Config {
            engine,
            size: 4.min(max_ops),
            max_ops,
            ..Config::default()
        };
        let mut io = Queue::new(&config).unwrap();
        let queue = device.open_queue(context(&mut io)).unwrap();
        Self { io, queue }
    }

    fn submit(&mut self, request: Request) -> Result<(), Busy> {
        let now = self.io.now();
        let io = &mut self.io;
        self.queue.submit(&mut Pass { now, io }, request)
    }

    fn cancel(&mut self, tag: u32) -> CancelOutcome {
        let now = self.io.now();
        let io = &mut self.io;
        self.queue.cancel(&mut Pass { now, io }, Tag(tag))
    }

    /// All that ends until the queue is idle.
    fn ends(&mut self) -> Vec<(u32, Result<(), Errno>)> {
        let mut ends = Vec::new();
        loop {
            while let Some(Done { tag, result }) = self.queue.poll_done() {
                ends.push((tag.0, result));
            }
            if self.queue.is_idle() {
                return ends;
            }
            self.io.submit_and_wait(Some(Duration::from_secs(1))).unwrap();
            while let Some(completion) = self.io.next_completion() {
                let (now, io) = (self.io.now(), &mut self.io);
                self.queue.op_done(&mut Pass { now, io }, completion.op_done());
            }
            if self.queue.wake_at().is_some_and(|at| at <= self.io.now()) {
                let (now, io) = (self.io.now(), &mut self.io);
                self.queue.kick(&mut Pass { now, io });
            }
        }
    }

    fn run(&mut self, request: Request) -> Result<(), Errno> {
        self.submit(request).unwrap();
        let ends = self.ends();
        assert_eq!(ends.len(), 1);
        ends[0].1
    }

    fn filled(&mut self, byte: u8) -> Lease {
        let lease = self.io.alloc(4096).unwrap();
        self.io.bytes_mut(lease.data()).unwrap().fill(byte);
        lease
    }
}

fn context(io: &mut Queue) -> QueueContext<'_> {
    QueueContext {
        index: 0,
        count: 1,
        owner: Owner(1),
        depth: DEPTH,
        waker: Waker::none(),
        io,
    }
}

fn request(tag: u32, op: Operation, data: Data) -> Request {
    let count = if op == Operation::Flush { 0 } else { 8 };
    Request {
        tag: Tag(tag),
        op,
        flags: RequestFlags::empty(),
        range: SectorRange::new(Sector(u64::from(tag) * 8 * u64::from(count > 0)), SectorCount(count)).unwrap(),
        data,
        arrival: iomgr_core::Timestamp::ZERO,
        deadline: None,
    }
}

fn simulated() -> (SimDisk, FileDevice, EngineKind) {
    let machine = SimHandle::new(SimConfig::calm(1));
    let disk = machine.create_block_device(1 << 20);
    let device = FileDevice::over("simulated", disk.handle(), disk.limits());
    (disk, device, EngineKind::Sim(machine))
}

#[test]
fn a_file_is_written_read_zeroed_and_flushed() {
    for buffered in [false, true] {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len((1 << 20) + 100).unwrap();
        let options = FileOptions {
            read_only: false,
            buffered,
        };
        let device = FileDevice::open(file.path(), options).unwrap();
        assert_eq!(device.limits().size, SectorCount(2048), "the tail is cut off");
        assert!(!(buffered && device.is_direct()));
        for engine in [EngineKind::Auto, EngineKind::Sync] {
            let mut rig = Rig::new(&device, engine, 64);
            let lease = rig.filled(7);
            let fua = Request {
                flags: RequestFlags::FUA,
                ..request(1, Operation::Write, lease.data())
            };
            assert_eq!(rig.run(fua), Ok(()));
            rig.io.bytes_mut(lease.data()).unwrap().fill(0);
            assert_eq!(rig.run(request(1, Operation::Read, lease.data())), Ok(()));
            assert!(rig.io.bytes(lease.data()).unwrap().iter().all(|&byte| byte == 7));
            for op in [
                Operation::WriteZeroes,
                Operation::Discard,
                Operation::Flush,
                Operation::Prefetch,
            ] {
                assert_eq!(rig.run(request(1, op, Data::NONE)), Ok(()), "{op:?}");
            }
            let mut bytes = [1; 4096];
            file.as_file().read_exact_at(&mut bytes, 4096).unwrap();
            assert_eq!(bytes, [0; 4096]);
            rig.queue.close(&mut rig.io);
        }
    }
}

#[test]
fn it_has_one_queue_at_a_time() {
    let (_disk, device, engine) = simulated();
    let mut rig = Rig::new(&device, engine, 64);
    let error = device.open_queue(context(&mut rig.io)).unwrap_err();
    assert!(
        error.to_string().starts_with("simulated has a queue already"),
        "{error}"
    );
    rig.queue.close(&mut rig.io);
    assert!(device.open_queue(context(&mut rig.io)).is_ok());
}

#[test]
fn what_is_no_disk_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    for path in [dir.path(), &fifo, &dir.path().join("none")] {
        let error = FileDevice::open(path, FileOptions::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Device);
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    }
}

#[test]
fn bad_requests_fail_alone() {
    let (_disk, device, engine) = simulated();
    let mut rig = Rig::new(&device, engine, 64);
    let lease = rig.filled(1);
    let short = request(0, Operation::Read, lease.data().slice(0, 512));
    let behind = Request {
        range: SectorRange::new(Sector(2041), SectorCount(8)).unwrap(),
        ..request(0, Operation::Read, lease.data())
    };
    for bad in [short, behind] {
        assert_eq!(rig.run(bad), Err(Errno::INVAL));
    }
    let limits = Limits {
        read_only: true,
        ..device.limits()
    };
    let device = FileDevice::over("read-only", device.file.clone(), limits);
    rig.queue = device.open_queue(context(&mut rig.io)).unwrap();
    assert_eq!(rig.run(request(0, Operation::Discard, Data::NONE)), Err(Errno::ROFS));
    assert_eq!(rig.run(request(0, Operation::Read, lease.data())), Ok(()));
}

#[test]
fn fua_is_durable_and_so_is_what_a_flush_covers() {
    let (disk, device, engine) = simulated();
    let mut rig = Rig::new(&device, engine, 64);
    let (fua, plain) = (rig.filled(1), rig.filled(2));
    let durable = Request {
        flags: RequestFlags::FUA,
        ..request(0, Operation::Write, fua.data())
    };
    assert_eq!(rig.run(durable), Ok(()));
    assert_eq!(disk.volatile_changes(), 0);
    assert_eq!(rig.run(request(1, Operation::Write, plain.data())), Ok(()));
    assert_eq!(disk.volatile_changes(), 1);
    assert_eq!(rig.run(request(1, Operation::Flush, Data::NONE)), Ok(()));
    assert_eq!(disk.volatile_changes(), 0);
}

#[test]
fn flushes_are_shared_and_a_failed_one_is_final() {
    let (disk, device, engine) = simulated();
    disk.machine().record(100);
    let mut rig = Rig::new(&device, engine, 64);
    for tag in 0..3 {
        rig.submit(request(tag, Operation::Flush, Data::NONE)).unwrap();
    }
    assert_eq!(rig.ends().len(), 3);
    let flushes = disk.machine().trace().to_string().matches(": flush").count();
    assert_eq!(flushes, 2, "the first, and one for all that came meanwhile");
    disk.inject(Fault::error(Errno::IO).on(OpKinds::FLUSH).times(1));
    assert_eq!(rig.run(request(0, Operation::Flush, Data::NONE)), Err(Errno::IO));
    let lease = rig.filled(1);
    for op in [Operation::Flush, Operation::Discard] {
        assert_eq!(rig.run(request(0, op, Data::NONE)), Err(Errno::IO), "{op:?}");
    }
    assert_eq!(rig.run(request(0, Operation::Write, lease.data())), Err(Errno::IO));
    assert_eq!(rig.run(request(0, Operation::Read, lease.data())), Ok(()));
}

#[test]
fn a_durable_write_that_came_to_no_flush_fails_alone() {
    let (disk, device, engine) = simulated();
    let mut rig = Rig::new(&device, engine, 64);
    let lease = rig.filled(1);
    let durable = || Request {
        flags: RequestFlags::FUA,
        ..request(0, Operation::Write, lease.data())
    };
    for errno in [
        Errno::NOSPC,
        Errno::DQUOT,
        Errno::FBIG,
        Errno::NOMEM,
        Errno::INVAL,
        Errno::OPNOTSUPP,
    ] {
        disk.inject(Fault::error(errno).on(OpKinds::WRITE).times(1));
        assert_eq!(rig.run(durable()), Err(errno));
        assert_eq!(rig.run(durable()), Ok(()), "after {errno}");
    }
    disk.inject(Fault::error(Errno::IO).on(OpKinds::WRITE).times(1));
    assert_eq!(rig.run(durable()), Err(Errno::IO));
    assert_eq!(rig.run(durable()), Err(Errno::IO), "that may have been its flush");
}

#[test]
fn what_has_not_begun_is_taken_back_and_the_rest_goes_on() {
    let (disk, device, engine) = simulated();
    let mut rig = Rig::new(&device, engine, 64);
    let leases: Vec<_> = (0..5).map(|_| rig.filled(3)).collect();
    // Apart from each other, so that none is merged; the fifth has to wait for a place in the engine.
    for (tag, lease) in (0..).zip(&leases) {
        let mut request = request(tag, Operation::Write, lease.data());
        request.range = SectorRange::new(Sector(u64::from(tag) * 64), SectorCount(8)).unwrap();
        rig.submit(request).unwrap();
    }
    rig.io.submit().unwrap();
    assert_eq!(rig.cancel(4), CancelOutcome::NeverStarted);
    assert_eq!(rig.cancel(0), CancelOutcome::Detached);
    assert_eq!(rig.cancel(7), CancelOutcome::Unknown);
    let mut ends = rig.ends();
    ends.sort_unstable_by_key(|end| end.0);
    assert_eq!(
        ends,
        [
            (0, Ok(())),
            (1, Ok(())),
            (2, Ok(())),
            (3, Ok(())),
            (4, Err(Errno::CANCELED))
        ]
    );
    let mut bytes = [0; 512];
    disk.read_at(&mut bytes, 4 * 64 * 512).unwrap();
    assert_eq!(bytes, [0; 512]);
}

#[test]
fn a_full_queue_hands_requests_back_and_a_flush_waits_for_room() {
    let (_disk, device, engine) = simulated();
    let mut rig = Rig::new(&device, engine, 2);
    let leases: Vec<_> = (0..3).map(|_| rig.filled(3)).collect();
    let write = |rig: &mut Rig, tag: u32| rig.submit(request(tag, Operation::Write, leases[tag as usize].data()));
    write(&mut rig, 0).unwrap();
    write(&mut rig, 1).unwrap();
    let Busy(back) = write(&mut rig, 2).unwrap_err();
    assert_eq!(back.tag, Tag(2));
    rig.submit(request(3, Operation::Flush, Data::NONE)).unwrap();
    assert!(rig.queue.wake_at().is_some());
    let ends = rig.ends();
    assert!(ends.len() == 3 && ends.contains(&(3, Ok(()))), "{ends:?}");
}

#[test]
fn a_flush_that_is_given_up_ends_at_once_if_it_waits() {
    let (_disk, device, engine) = simulated();
    let mut rig = Rig::new(&device, engine, 64);
    rig.submit(request(0, Operation::Flush, Data::NONE)).unwrap();
    rig.submit(request(1, Operation::Flush, Data::NONE)).unwrap();
    assert_eq!(rig.cancel(1), CancelOutcome::Detached);
    assert_eq!(rig.cancel(0), CancelOutcome::Detached);
    assert_eq!(rig.ends(), [(1, Err(Errno::CANCELED)), (0, Ok(()))]);
}
