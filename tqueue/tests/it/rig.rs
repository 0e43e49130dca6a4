//! What the tests share: the engines to run on, files, and a queue that is run to the end.

use std::collections::HashMap;
use std::fs::File;

use iomgr_core::{Action, Data, FileHandle, FileSlot, Lease, Op, OpError, OpQueue, Owner, Token};
use tqueue::{Config, EngineKind, ErrorKind, Features, Queue};

/// Runs `test` on each engine.
pub(crate) fn on_each_engine(config: &Config, test: impl Fn(&mut Queue)) {
    let engines = [
        (EngineKind::Uring, Features::empty()),
        (EngineKind::Uring, Features::all()),
        (
            EngineKind::Uring,
            Features::DEFER_TASKRUN | Features::QUIET_SENDS | Features::PLAIN_MEMORY_FILES,
        ),
        (EngineKind::Sync, Features::empty()),
    ];
    for (engine, mask) in engines {
        let config = Config {
            engine,
            mask,
            ..config.clone()
        };
        let Some(mut queue) = open(&config) else { continue };
        println!("on {}", queue.info());
        test(&mut queue);
        assert!(queue.is_idle(), "{}", queue.dump());
    }
}

/// Makes a queue; `None`, with a word about it, where this machine has no io_uring for us.
pub(crate) fn open(config: &Config) -> Option<Queue> {
    match Queue::new(config) {
        Err(error) if [ErrorKind::Unsupported, ErrorKind::Denied].contains(&error.kind()) => {
            println!("skipped: {error}");
            None
        }
        made => Some(made.unwrap()),
    }
}

/// A small configuration, on io_uring.
pub(crate) fn small_ring() -> Config {
    Config {
        engine: EngineKind::Uring,
        ..small()
    }
}

/// A small configuration.
pub(crate) fn small() -> Config {
    Config {
        size: 4,
        max_ops: 32,
        net_ops: 16,
        sends: 4,
        arena_bytes: 4 << 20,
        files: 8,
        ..Config::default()
    }
}

/// A file without a name, known to the queue: in memory where plain calls are in use, else on a disk.
pub(crate) fn temp_file(queue: &mut Queue) -> (FileSlot, File) {
    let in_memory = queue.info().features.contains(Features::PLAIN_MEMORY_FILES);
    let file = tempfile::tempfile_in(if in_memory {
        "/dev/shm"
    } else {
        env!("CARGO_TARGET_TMPDIR")
    })
    .unwrap();
    let slot = queue.add_file(&FileHandle::new(file.try_clone().unwrap())).unwrap();
    (slot, file)
}

pub(crate) fn token(value: u64) -> Token {
    Token::new(Owner(7), value)
}

pub(crate) fn push(queue: &mut Queue, value: u64, file: FileSlot, action: Action) {
    queue
        .push(Op {
            token: token(value),
            file,
            action,
        })
        .unwrap();
}

/// Submits and delivers until nothing is outstanding; results by the token's value.
pub(crate) fn finish(queue: &mut Queue) -> HashMap<u64, Result<u32, OpError>> {
    let mut results = HashMap::new();
    while !queue.is_idle() {
        queue.submit_and_wait(None).unwrap();
        while let Some(completion) = queue.next_completion() {
            let again = results.insert(completion.token.value(), completion.result);
            assert_eq!(again, None, "each op completes once");
        }
    }
    results
}

/// Runs one op to its end.
pub(crate) fn run(queue: &mut Queue, file: FileSlot, action: Action) -> Result<u32, OpError> {
    push(queue, 0xabc, file, action);
    finish(queue)[&0xabc]
}

/// A lease with content.
pub(crate) fn filled(queue: &mut Queue, bytes: &[u8]) -> Lease {
    let lease = queue.alloc(u32::try_from(bytes.len()).unwrap()).unwrap();
    queue.bytes_mut(lease.data()).unwrap().copy_from_slice(bytes);
    lease
}

/// The bytes behind `data`.
pub(crate) fn bytes(queue: &Queue, data: Data) -> Vec<u8> {
    queue.bytes(data).unwrap().to_vec()
}
