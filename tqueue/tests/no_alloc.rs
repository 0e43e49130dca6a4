//! After a queue was made, nothing allocates: not pushing, not submitting, not delivering.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "what fails here fails the test, what is skipped says so"
)]

use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;

use iomgr_core::{Action, Errno, FileHandle, FileSlot, Full, Lease, Op, OpError, OpQueue, Owner, Token};
use tqueue::{Config, EngineKind, ErrorKind, Features, Queue};

/// Disk ops of a round; more than a queue takes at a time.
const ROUND: u64 = 80;
const SIZE: u32 = 16;
const MAX_OPS: u32 = 64;

fn ops() -> u64 {
    if std::env::var_os("IOMGR_SOAK").is_some() {
        10_000_000
    } else {
        100_000
    }
}

/// What the rounds work on.
struct Load {
    queue: Queue,
    file: FileSlot,
    ours: FileSlot,
    peer: FileSlot,
    leases: Vec<Option<Lease>>,
    head: Lease,
    body: Lease,
    inbox: Lease,
}

/// How many ops ended how.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    done: u64,
    never_started: u64,
    handed_back: u64,
}

impl Load {
    fn new(mut queue: Queue, dir: &str) -> Self {
        let file = tempfile::tempfile_in(dir).unwrap();
        file.set_len(1 << 20).unwrap();
        let (ours, peer) = UnixStream::pair().unwrap();
        Self {
            file: queue.add_file(&FileHandle::new(file)).unwrap(),
            ours: queue.add_file(&FileHandle::new(ours)).unwrap(),
            peer: queue.add_file(&FileHandle::new(peer)).unwrap(),
            leases: (0..ROUND).map(|_| queue.alloc(4096)).collect(),
            head: queue.alloc(16).unwrap(),
            body: queue.alloc(512).unwrap(),
            inbox: queue.alloc(1024).unwrap(),
            queue,
        }
    }

    /// Rounds until so many ops have ended.
    fn run(&mut self, ops: u64) -> Tally {
        let mut tally = Tally::default();
        while tally.done < ops {
            self.round(&mut tally);
        }
        tally
    }

    /// Ops of all kinds, with buffers leased anew for each; some are cancelled before the kernel sees them, some after.
    fn round(&mut self, tally: &mut Tally) {
        let before = *tally;
        for i in 0..ROUND {
            self.push(i, tally);
        }
        let (queue, token) = (&mut self.queue, token(ROUND));
        queue.recv(self.ours, self.inbox.data(), token).unwrap();
        queue
            .send(self.peer, &[self.head.data(), self.body.data()], token)
            .unwrap();
        queue.timer(queue.now(), token).unwrap();
        let mut cancelled = queue.cancel(self::token(3)).never_started;
        queue.submit().unwrap();
        // The first ones are with the kernel, or done; the last ones are deferred.
        for value in [0, 1, u64::from(MAX_OPS) - 1] {
            cancelled += queue.cancel(self::token(value)).never_started;
        }
        while !queue.is_idle() {
            queue.submit_and_wait(None).unwrap();
            while let Some(completion) = queue.next_completion() {
                tally.done += 1;
                match completion.result {
                    Err(OpError::NeverStarted) => tally.never_started += 1,
                    Err(OpError::Os(Errno::CANCELED)) => {}
                    result => drop(result.unwrap()),
                }
            }
        }
        // The kernel may say so of others that it has.
        assert!(tally.never_started - before.never_started >= cancelled as u64);
        assert_eq!(
            tally.done - before.done + tally.handed_back - before.handed_back,
            ROUND + 3
        );
    }

    fn push(&mut self, i: u64, tally: &mut Tally) {
        let lease = &mut self.leases[usize::try_from(i).unwrap()];
        self.queue.free(lease.take().unwrap());
        let data = lease.insert(self.queue.alloc(4096).unwrap()).data();
        // Neighbours, in runs that end at other ops.
        let offset = i % 32 * 4096;
        let action = match i % 16 {
            0 => Action::Flush,
            1 => Action::WriteZeroes {
                offset,
                len: 4096,
                unmap: i % 32 == 1,
                fast: false,
            },
            2 => Action::Prefetch { offset, len: 4096 },
            3..8 => Action::Read { offset, data },
            _ => Action::Write {
                offset,
                data,
                durable: i % 16 == 9,
            },
        };
        let op = Op {
            token: token(i),
            file: self.file,
            action,
        };
        if let Err(Full(back)) = self.queue.push(op) {
            assert!(back == op && i >= u64::from(MAX_OPS), "op {i} has room");
            tally.handed_back += 1;
        }
    }
}

fn token(value: u64) -> Token {
    Token::new(Owner(0), value)
}

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
            size: SIZE,
            max_ops: MAX_OPS,
            filters: filters.iter().map(|text| text.parse().unwrap()).collect(),
            ..Config::default()
        };
        let queue = match Queue::new(&config) {
            Err(error) if [ErrorKind::Unsupported, ErrorKind::Denied].contains(&error.kind()) => {
                println!("skipped: {error}");
                continue;
            }
            made => made.unwrap(),
        };
        check(&mut Load::new(queue, "/dev/shm"), filters.is_empty());
    }
}

/// Filters hold ops up, so that fewer come together behind them.
fn check(load: &mut Load, unfiltered: bool) {
    let ops = if unfiltered { ops() } else { ops() / 10 };
    // Leases and the file are touched for the first time.
    load.run(ops / 10);
    let (pages, mut tally) = (resident_pages(), Tally::default());
    let allocations = allocation_counter::measure(|| tally = load.run(ops)).count_total;
    let more_pages = resident_pages().saturating_sub(pages);
    let (info, counters) = (load.queue.info(), load.queue.counters());
    assert_eq!(allocations, 0, "allocations of {tally:?} on {info}");
    assert!(more_pages < 1024, "{more_pages} more pages after {pages} on {info}");
    assert!(counters.merges > 0, "ops that are contiguous are merged");
    assert!(tally.handed_back > 0 && tally.never_started > 0, "{tally:?}");
    assert!(counters.deferrals > 0 || !unfiltered, "{counters:?}");
    assert!(counters.max_in_kernel <= u64::from(SIZE), "{counters:?}");
    println!("{tally:?}, {more_pages} pages more, on {info}");
}

/// Pages of memory that the process takes up; reads its file into a buffer that is there.
fn resident_pages() -> u64 {
    let mut text = [0; 256];
    let file = std::fs::File::open("/proc/self/statm").unwrap();
    let len = file.read_at(&mut text, 0).unwrap();
    let text = std::str::from_utf8(&text[..len]).unwrap();
    text.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}
