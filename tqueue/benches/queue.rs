//! What an op costs from push to delivery, 32 at a time, next to the same ops on a bare ring. They lie apart in the file, so
//! that each is a call of its own; in the groups named `merged` they are contiguous, and one call.
#![allow(unsafe_code, reason = "the bare ring that we compare with has no safe interface")]

use std::fs::File;
use std::hint::black_box;
use std::io::Read as _;
use std::os::fd::AsRawFd;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use io_uring::{IoUring, opcode, types};
use iomgr_core::{Action, FileHandle, FileSlot, Lease, Op, OpQueue, Owner, Token};
use tqueue::{Config, EngineKind, Features, PlanLimits, Queue};

const BATCH: u64 = 32;
const LEN: u32 = 4096;
const ALL: usize = 32 * 4096;
/// From one op to the next, where they lie apart.
const APART: u64 = 2 * LEN as u64;
const TOGETHER: u64 = LEN as u64;
const MERGING: PlanLimits = PlanLimits {
    max_bytes: 1 << 20,
    max_segments: 64,
};

/// In the page cache of a disk, so that io_uring reads without a worker thread.
const DISK: &str = "/var/tmp";
const MEMORY: &str = "/dev/shm";

fn file_in(dir: &str) -> File {
    let file = tempfile::tempfile_in(dir).expect("a folder to write to");
    std::io::copy(&mut std::io::repeat(1).take(BATCH * APART), &mut &file).expect("there is space");
    file
}

struct Rig {
    queue: Queue,
    file: FileSlot,
    leases: Vec<Lease>,
}

impl Rig {
    fn new(dir: &str, engine: EngineKind, mask: Features) -> Self {
        let mut queue = Queue::new(&Config {
            engine,
            mask,
            plan: MERGING,
            ..Config::default()
        })
        .expect("an engine");
        let file = queue.add_file(&FileHandle::new(file_in(dir))).expect("room");
        let leases = (0..BATCH).map(|_| queue.alloc(LEN).expect("room")).collect();
        Self { queue, file, leases }
    }

    fn batch(&mut self, write: bool, step: u64) {
        for (i, lease) in (0..).zip(&self.leases) {
            let (offset, data) = (i * step, lease.data());
            let action = if write {
                Action::Write {
                    offset,
                    data,
                    durable: false,
                }
            } else {
                Action::Read { offset, data }
            };
            let token = Token::new(Owner(1), i);
            self.queue
                .push(Op {
                    token,
                    file: self.file,
                    action,
                })
                .expect("room");
        }
        let mut left = BATCH;
        while left > 0 {
            self.queue.submit_and_wait(None).expect("the ring works");
            while let Some(done) = self.queue.next_completion() {
                assert_eq!(done.result, Ok(LEN));
                left -= 1;
            }
        }
    }
}

struct Bare {
    ring: IoUring,
    file: File,
    memory: Vec<u8>,
    fixed: bool,
}

impl Bare {
    fn new(fixed: bool) -> Self {
        let mut builder = IoUring::builder();
        let ring = builder
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(128)
            .expect("io_uring");
        let file = file_in(DISK);
        let mut memory = vec![0; ALL];
        if fixed {
            let buffer = libc::iovec {
                iov_base: memory.as_mut_ptr().cast(),
                iov_len: memory.len(),
            };
            // SAFETY: the memory lives as long as the ring.
            unsafe { ring.submitter().register_buffers(&[buffer]) }.expect("memlock");
            ring.submitter().register_files(&[file.as_raw_fd()]).expect("room");
        }
        Self {
            ring,
            file,
            memory,
            fixed,
        }
    }

    fn batch(&mut self) {
        for (i, piece) in (0..).zip(self.memory.chunks_mut(LEN as usize)) {
            let (offset, address) = (i * APART, piece.as_mut_ptr());
            let entry = if self.fixed {
                opcode::ReadFixed::new(types::Fixed(0), address, LEN, 0)
                    .offset(offset)
                    .build()
            } else {
                opcode::Read::new(types::Fd(self.file.as_raw_fd()), address, LEN)
                    .offset(offset)
                    .build()
            };
            // SAFETY: the memory lives as long as the ring, and the batch ends below.
            unsafe { self.ring.submission().push(&entry.user_data(i)) }.expect("room");
        }
        let mut left = BATCH;
        while left > 0 {
            self.ring.submit_and_wait(1).expect("the ring works");
            for entry in self.ring.completion() {
                assert_eq!(black_box(entry.result()), LEN as i32);
                left -= 1;
            }
        }
    }
}

fn benches(criterion: &mut Criterion) {
    use EngineKind::{Sync, Uring};
    let (all, none) = (Features::empty(), Features::all());
    let mut group = criterion.benchmark_group("read_4k_batch_of_32");
    group.throughput(Throughput::Elements(BATCH));
    let mut bare = Bare::new(false);
    group.bench_function("disk_bare_ring", |bench| bench.iter(|| bare.batch()));
    let plain = Features::REGISTERED_BUFFERS | Features::REGISTERED_FILES;
    let mut rig = Rig::new(DISK, Uring, plain);
    group.bench_function("disk_queue", |bench| bench.iter(|| rig.batch(false, APART)));
    let mut bare = Bare::new(true);
    group.bench_function("disk_bare_ring_registered", |bench| bench.iter(|| bare.batch()));
    let mut rig = Rig::new(DISK, Uring, all);
    group.bench_function("disk_queue_registered", |bench| bench.iter(|| rig.batch(false, APART)));
    let mut rig = Rig::new(DISK, Sync, all);
    group.bench_function("disk_queue_sync", |bench| bench.iter(|| rig.batch(false, APART)));
    let mut rig = Rig::new(MEMORY, Uring, none);
    group.bench_function("memory_queue_ring", |bench| bench.iter(|| rig.batch(false, APART)));
    let mut rig = Rig::new(MEMORY, Uring, all);
    group.bench_function("memory_queue_plain", |bench| bench.iter(|| rig.batch(false, APART)));
    group.finish();

    let mut group = criterion.benchmark_group("write_4k_batch_of_32");
    group.throughput(Throughput::Elements(BATCH));
    let mut rig = Rig::new(MEMORY, Uring, none);
    group.bench_function("memory_queue_ring", |bench| bench.iter(|| rig.batch(true, APART)));
    let mut rig = Rig::new(MEMORY, Uring, all);
    group.bench_function("memory_queue_plain", |bench| bench.iter(|| rig.batch(true, APART)));
    group.finish();

    let mut group = criterion.benchmark_group("merged_4k_batch_of_32");
    group.throughput(Throughput::Elements(BATCH));
    let mut rig = Rig::new(DISK, Uring, all);
    group.bench_function("disk_read", |bench| bench.iter(|| rig.batch(false, TOGETHER)));
    group.bench_function("disk_write", |bench| bench.iter(|| rig.batch(true, TOGETHER)));
    let mut rig = Rig::new(MEMORY, Uring, all);
    group.bench_function("memory_read_plain", |bench| bench.iter(|| rig.batch(false, TOGETHER)));
    let mut rig = Rig::new(DISK, Sync, all);
    group.bench_function("disk_read_sync", |bench| bench.iter(|| rig.batch(false, TOGETHER)));
    group.finish();

    // No op reaches an engine: what is left is the queue's own work, plan not included.
    let mut rig = Rig::new(MEMORY, Sync, all);
    criterion.bench_function("push_cancel_deliver", |bench| {
        bench.iter(|| {
            let token = Token::new(Owner(1), 1);
            let action = Action::Read {
                offset: 0,
                data: rig.leases[0].data(),
            };
            rig.queue
                .push(Op {
                    token,
                    file: rig.file,
                    action,
                })
                .expect("room");
            rig.queue.cancel(token);
            black_box(rig.queue.next_completion())
        });
    });
}

criterion_group!(queue, benches);
criterion_main!(queue);
