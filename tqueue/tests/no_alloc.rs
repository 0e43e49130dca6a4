//! After a queue was made, nothing allocates: not pushing, not submitting, not delivering.
#![allow(unsafe_code, reason = "a counting allocator is unsafe by its trait")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "what fails here fails the test, what is skipped says so"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};

use iomgr_core::{Action, FileHandle, Op, OpQueue, Owner, Token};
use tqueue::{Config, EngineKind, ErrorKind, Features, Queue};

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

struct Counting;

// SAFETY: everything is handed to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps `GlobalAlloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `GlobalAlloc`'s contract.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const OPS: u64 = 100_000;

/// Ops of all kinds, more than the kernel takes at a time, with buffers leased anew for each.
fn work(queue: &mut Queue, dir: &str) -> u64 {
    let file = tempfile::tempfile_in(dir).unwrap();
    file.set_len(1 << 20).unwrap();
    let file = queue.add_file(&FileHandle::new(file)).unwrap();
    let (ours, peer) = UnixStream::pair().unwrap();
    let ours = queue.add_file(&FileHandle::new(ours)).unwrap();
    let peer = queue.add_file(&FileHandle::new(peer)).unwrap();
    let token = Token::new(Owner(0), 0);
    let mut leases: Vec<_> = (0..64).map(|_| queue.alloc(4096)).collect();
    let (head, body) = (queue.alloc(16).unwrap(), queue.alloc(512).unwrap());
    let inbox = queue.alloc(1024).unwrap();

    let before = ALLOCATIONS.load(Ordering::Relaxed);
    let mut done = 0;
    while done < OPS {
        for (i, lease) in (0..).zip(&mut leases) {
            queue.free(lease.take().unwrap());
            let data = lease.insert(queue.alloc(4096).unwrap()).data();
            let offset = i % 16 * 4096;
            let action = match i % 8 {
                0 => Action::Flush,
                1 => Action::WriteZeroes {
                    offset,
                    len: 4096,
                    unmap: i % 16 == 1,
                    fast: false,
                },
                2 => Action::Prefetch { offset, len: 4096 },
                3..5 => Action::Read { offset, data },
                _ => Action::Write {
                    offset,
                    data,
                    durable: i % 16 == 5,
                },
            };
            queue.push(Op { token, file, action }).unwrap();
        }
        queue.recv(ours, inbox.data(), token).unwrap();
        queue.send(peer, &[head.data(), body.data()], token).unwrap();
        queue.timer(queue.now(), token).unwrap();
        while !queue.is_idle() {
            queue.submit_and_wait(None).unwrap();
            while let Some(completion) = queue.next_completion() {
                completion.result.unwrap();
                done += 1;
            }
        }
    }
    assert!(queue.counters().merges > 0, "ops that are contiguous are merged");
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

/// One test, because the count is of the whole process.
#[test]
fn nothing_allocates_on_the_data_path() {
    let filters = ["fault:rate=0", "latency:1us-2us", "trace", "checksum:size=1MiB"];
    let engines = [
        (EngineKind::Uring, Features::empty(), &[][..]),
        (
            EngineKind::Uring,
            Features::PLAIN_MEMORY_FILES | Features::QUIET_SENDS,
            &[],
        ),
        (EngineKind::Sync, Features::empty(), &[]),
        (EngineKind::Uring, Features::empty(), &filters),
        (EngineKind::Sync, Features::empty(), &filters),
    ];
    for (engine, mask, filters) in engines {
        let config = Config {
            engine,
            mask,
            size: 16,
            max_ops: 64,
            filters: filters.iter().map(|text| text.parse().unwrap()).collect(),
            ..Config::default()
        };
        let mut queue = match Queue::new(&config) {
            Err(error) if [ErrorKind::Unsupported, ErrorKind::Denied].contains(&error.kind()) => {
                println!("skipped: {error}");
                continue;
            }
            made => made.unwrap(),
        };
        let allocations = work(&mut queue, "/dev/shm");
        assert_eq!(allocations, 0, "{OPS} ops on {}", queue.info());
    }
}
