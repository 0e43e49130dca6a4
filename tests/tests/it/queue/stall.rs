//! A disk that does not answer: what is given up goes on all the same, and its memory is nobody else's until it has ended.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use iomgr_core::{Action, FileHandle, FileSlot, Lease, Op, OpError, OpQueue, Owner, Token};
use iomgr_tests::{Blkio, Loop, TempDir, need, wait};
use rustix::fs::OFlags;
use tqueue::{Cancelled, Config, EngineKind, ErrorKind, Features, Queue};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};

const PAGE: usize = 4096;
const PAGE_BYTES: u32 = 4096;
/// Pages of the device.
const PAGES: usize = 512;

/// A loop device whose I/O from this thread can be stalled, and a queue with it as its one file.
struct Rig {
    queue: Queue,
    file: FileSlot,
    throttle: Blkio,
    backing: PathBuf,
    // In the order of their teardown.
    _device: Loop,
    _dir: TempDir,
}

impl Rig {
    /// `None`, with a word about it, where that cannot be had here.
    fn new(config: Config) -> Option<Self> {
        if !need::blkio() {
            return None;
        }
        let dir = TempDir::new();
        let backing = dir.join("disk");
        fs::write(&backing, vec![0x55; PAGE * PAGES]).unwrap();
        let device = Loop::attach(&backing);
        let throttle = Blkio::new(&device);
        throttle.add_this_thread();
        let mut queue = queue(config)?;
        let direct = i32::try_from(OFlags::DIRECT.bits()).unwrap();
        let opened = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(direct)
            .open(device.path());
        let file = queue.add_file(&FileHandle::new(opened.unwrap())).unwrap();
        Some(Self {
            queue,
            file,
            throttle,
            backing,
            _device: device,
            _dir: dir,
        })
    }

    fn write(&mut self, page: u64, lease: &Lease) {
        push_write(&mut self.queue, self.file, page, lease);
    }

    fn read(&mut self, page: u64, lease: &Lease) {
        let data = lease.data();
        let offset = page * PAGE as u64;
        push(&mut self.queue, self.file, page, Action::Read { offset, data });
    }

    fn zero(&mut self, page: u64) {
        let action = Action::WriteZeroes {
            offset: page * PAGE as u64,
            len: PAGE_BYTES.into(),
            unmap: true,
            fast: false,
        };
        push(&mut self.queue, self.file, page, action);
    }

    /// The first byte of a page of the device, and that all others are the same.
    fn on_disk(&self, page: u64) -> u8 {
        page_of(&self.backing, page)
    }
}

/// `None`, with a word about it, without io_uring.
fn queue(config: Config) -> Option<Queue> {
    let config = Config {
        engine: EngineKind::Uring,
        arena_bytes: 1 << 20,
        ..config
    };
    match Queue::new(&config) {
        Err(error) if [ErrorKind::Unsupported, ErrorKind::Denied].contains(&error.kind()) => {
            need::skip(&error.to_string());
            None
        }
        made => Some(made.unwrap()),
    }
}

fn push(queue: &mut Queue, file: FileSlot, value: u64, action: Action) {
    let token = Token::new(Owner(1), value);
    queue.push(Op { token, file, action }).unwrap();
}

fn push_write(queue: &mut Queue, file: FileSlot, page: u64, lease: &Lease) {
    let action = Action::Write {
        offset: page * PAGE as u64,
        data: lease.data(),
        durable: false,
    };
    push(queue, file, page, action);
}

/// A page of memory full of `byte`.
fn page(queue: &mut Queue, byte: u8) -> Lease {
    let lease = queue.alloc(PAGE_BYTES).unwrap();
    queue.bytes_mut(lease.data()).unwrap().fill(byte);
    lease
}

fn page_of(file: &Path, page: u64) -> u8 {
    let mut bytes = [0; PAGE];
    File::open(file)
        .unwrap()
        .read_exact_at(&mut bytes, page * PAGE as u64)
        .unwrap();
    assert_eq!(bytes, [bytes[0]; PAGE], "a page is written whole");
    bytes[0]
}

/// How all that is outstanding ends, by page.
fn finish(queue: &mut Queue) -> Vec<(u64, Result<u32, OpError>)> {
    let mut ends = Vec::new();
    while !queue.is_idle() {
        queue.submit_and_wait(None).unwrap();
        while let Some(done) = queue.next_completion() {
            ends.push((done.token.value(), done.result));
        }
    }
    ends.sort_by_key(|(page, _)| *page);
    ends
}

/// Everything that can be leased, as pages full of `byte`.
fn lease_all(queue: &mut Queue, byte: u8) -> Vec<Lease> {
    let mut all = Vec::new();
    while let Some(lease) = queue.alloc(PAGE_BYTES) {
        queue.bytes_mut(lease.data()).unwrap().fill(byte);
        all.push(lease);
    }
    all
}

fn free_all(queue: &mut Queue, leases: Vec<Lease>) {
    leases.into_iter().for_each(|lease| queue.free(lease));
}

#[test]
fn queue_stall_a_write_that_is_given_up_lands_all_the_same() {
    let config = Config {
        size: 1,
        stuck_after: Duration::from_millis(50),
        ..Config::default()
    };
    let Some(mut rig) = Rig::new(config) else { return };
    let (first, second) = (page(&mut rig.queue, 0xAA), page(&mut rig.queue, 0xBB));
    rig.throttle.stall();
    rig.write(0, &first);
    // Not next to it: they are two calls, and there is room for one.
    rig.write(2, &second);
    rig.queue.submit().unwrap();

    let given_up = Cancelled {
        never_started: 1,
        ending: 0,
        detached: 1,
    };
    assert_eq!(rig.queue.cancel_all(), given_up);
    assert_eq!(rig.queue.cancel_all(), Cancelled::default());
    let never = rig
        .queue
        .next_completion()
        .map(|done| (done.token.value(), done.result));
    assert_eq!(never, Some((2, Err(OpError::NeverStarted))));

    // The kernel has answered the cancel long since; the write is where it was.
    let stuck = wait::until(|| {
        rig.queue.submit_and_wait(Some(Duration::from_millis(50))).unwrap();
        rig.queue.counters().stuck == 1
    });
    assert!(
        stuck && rig.queue.dump().contains("stuck in the kernel"),
        "{}",
        rig.queue.dump()
    );
    assert_eq!(rig.queue.next_completion(), None);
    assert_eq!(rig.queue.bytes_mut(first.data()), None, "the kernel reads it still");
    assert_eq!((rig.on_disk(0), rig.on_disk(2)), (0x55, 0x55));

    rig.throttle.lift();
    assert_eq!(
        finish(&mut rig.queue),
        [(0, Ok(4096))],
        "it ends once, as if nothing had been said"
    );
    assert_eq!((rig.on_disk(0), rig.on_disk(2)), (0xAA, 0x55));
    free_all(&mut rig.queue, vec![first, second]);
}

#[test]
fn queue_stall_memory_of_a_read_that_is_given_up_is_nobody_elses() {
    let Some(mut rig) = Rig::new(Config::default()) else {
        return;
    };
    let all = lease_all(&mut rig.queue, 0);
    let pages = all.len();
    free_all(&mut rig.queue, all);
    rig.throttle.stall_reads();
    for at in 0..4 {
        let lease = page(&mut rig.queue, 0);
        rig.read(at, &lease);
        rig.queue.submit().unwrap();
        assert_eq!(rig.queue.cancel(Token::new(Owner(1), at)).detached, 1);
        // Its owner cares no more; the kernel does.
        rig.queue.free(lease);
    }
    let canaries = lease_all(&mut rig.queue, 0xC3);
    assert_eq!(
        canaries.len(),
        pages - 4,
        "pages that the kernel may write to were leased again"
    );

    rig.throttle.lift();
    let ends = finish(&mut rig.queue);
    assert_eq!(
        ends,
        [0, 1, 2, 3].map(|at| (at, Ok(4096))),
        "all of them were written to"
    );
    for lease in &canaries {
        assert_eq!(
            rig.queue.bytes(lease.data()).unwrap(),
            [0xC3; PAGE],
            "a read landed in other memory"
        );
    }
    // Now they are to be had again, with what was read.
    let rest: Vec<_> = std::iter::from_fn(|| rig.queue.alloc(PAGE_BYTES)).collect();
    assert_eq!(rest.len(), 4);
    assert!(
        rest.iter()
            .all(|lease| rig.queue.bytes(lease.data()).unwrap() == [0x55; PAGE])
    );
    free_all(&mut rig.queue, canaries.into_iter().chain(rest).collect());
}

#[test]
fn queue_stall_a_write_that_is_given_up_writes_its_own_bytes() {
    let Some(mut rig) = Rig::new(Config::default()) else {
        return;
    };
    rig.throttle.stall();
    for at in 0..4 {
        let lease = page(&mut rig.queue, 0xA0 + at);
        rig.write(at.into(), &lease);
        rig.queue.free(lease);
    }
    rig.queue.submit().unwrap();
    assert_eq!(rig.queue.cancel_all().detached, 4);
    let canaries = lease_all(&mut rig.queue, 0xC3);
    rig.throttle.lift();
    assert!(finish(&mut rig.queue).iter().all(|(_, result)| result.is_ok()));
    assert_eq!([0, 1, 2, 3].map(|at| rig.on_disk(at)), [0xA0, 0xA1, 0xA2, 0xA3]);
    free_all(&mut rig.queue, canaries);
}

#[test]
fn queue_stall_a_dropped_queue_waits_for_the_disk() {
    let Some(mut rig) = Rig::new(Config::default()) else {
        return;
    };
    let lease = page(&mut rig.queue, 0xAA);
    rig.throttle.stall();
    rig.write(0, &lease);
    rig.queue.submit().unwrap();
    let Rig { queue, throttle, .. } = &mut rig;
    let config = Config {
        engine: EngineKind::Sync,
        ..Config::default()
    };
    let dropped = std::mem::replace(queue, Queue::new(&config).unwrap());
    let is_dropped = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Long enough for a drop that does not wait to be over.
            std::thread::park_timeout(Duration::from_millis(100));
            let early = is_dropped.load(Ordering::Acquire);
            throttle.lift();
            assert!(!early, "the queue went while the disk was at its memory");
        });
        drop(dropped);
        is_dropped.store(true, Ordering::Release);
    });
    assert_eq!(rig.on_disk(0), 0xAA);
}

/// Keeps the names of what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<String>>);

struct Text<'a>(&'a mut String);

impl Visit for Text<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        *self.0 += &format!("{field}={value:?} ");
    }
}

impl tracing::Subscriber for Log {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut Text(&mut self.0.lock().unwrap()));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[test]
fn queue_stall_a_queue_that_cannot_wait_leaks_and_says_so() {
    let config = Config {
        drain_max: Duration::from_millis(50),
        // With these, a ring that nobody enters any more would hold the device until the end of this process.
        mask: Features::REGISTERED_FILES | Features::DEFER_TASKRUN,
        ..Config::default()
    };
    let Some(mut rig) = Rig::new(config) else { return };
    let lease = page(&mut rig.queue, 0xAA);
    rig.throttle.stall();
    rig.write(0, &lease);
    rig.queue.submit().unwrap();
    let Rig {
        queue,
        throttle,
        backing,
        _device: device,
        _dir: dir,
        ..
    } = rig;
    let log = Log::default();
    tracing::subscriber::with_default(log.clone(), || drop(queue));
    let said = log.0.lock().unwrap().clone();
    assert!(said.contains("queue_leaked") && said.contains("ops=1"), "{said}");
    throttle.lift();
    // The memory is there, and as it was: what lands is what was to be written.
    assert!(wait::until(|| page_of(&backing, 0) == 0xAA), "the write is lost");
    drop((throttle, device, dir));
}

/// Zeroing a device is work for the kernel's worker threads: what lies in their queue can be had back.
#[test]
fn queue_stall_what_the_kernel_had_not_begun_never_lands() {
    // io_uring has up to four workers for each processor.
    if std::thread::available_parallelism().is_ok_and(|count| count.get() > PAGES / 8) {
        return need::skip("so many processors leave nothing in the queue of the kernel's workers");
    }
    let config = Config {
        size: 512,
        ..Config::default()
    };
    let Some(mut rig) = Rig::new(config) else { return };
    rig.throttle.stall();
    (0..512).for_each(|at| rig.zero(at));
    rig.queue.submit().unwrap();
    assert_eq!(rig.queue.cancel_all().detached, PAGES);
    let mut ends = vec![None; PAGES];
    // What was not begun ends now, although nothing moves.
    let any_ended = wait::until(|| {
        rig.queue.submit_and_wait(Some(Duration::from_millis(50))).unwrap();
        take_ends(&mut rig.queue, &mut ends);
        ends.iter().flatten().count() > 0
    });
    assert!(any_ended, "{:?}", rig.queue.counters());
    let never = |end: &Result<u32, OpError>| *end == Err(OpError::NeverStarted);
    assert!(ends.iter().flatten().all(never), "{ends:?}");
    rig.throttle.lift();
    while !rig.queue.is_idle() {
        rig.queue.submit_and_wait(None).unwrap();
        take_ends(&mut rig.queue, &mut ends);
    }
    for (at, end) in (0..).zip(&ends) {
        match end.expect("all have ended") {
            Ok(_) => assert_eq!(rig.on_disk(at), 0),
            Err(OpError::NeverStarted) => assert_eq!(rig.on_disk(at), 0x55, "page {at} was never begun, and changed"),
            // It was interrupted, and promises nothing.
            Err(OpError::Os(_)) => {}
            Err(end) => panic!("page {at}: {end}"),
        }
    }
}

fn take_ends(queue: &mut Queue, ends: &mut [Option<Result<u32, OpError>>]) {
    while let Some(done) = queue.next_completion() {
        let at = usize::try_from(done.token.value()).unwrap();
        assert_eq!(ends[at].replace(done.result), None, "each op completes once");
    }
}
