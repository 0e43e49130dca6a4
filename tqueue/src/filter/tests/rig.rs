//! A queue with filters on a file, run op by op.

use std::collections::HashMap;
use std::fs::File;

use iomgr_core::{Action, FileHandle, FileSlot, Op, OpError, OpQueue, Owner, Token};

use crate::filter::FilterConfig;
use crate::{Config, EngineKind, Queue};

pub(super) struct Rig {
    pub(super) queue: Queue,
    pub(super) file: FileSlot,
    real: Option<File>,
}

pub(super) fn token(value: u64) -> Token {
    Token::new(Owner(1), value)
}

/// Few ops, little memory, the synchronous engine.
pub(super) fn config(filters: Vec<FilterConfig>) -> Config {
    Config {
        engine: EngineKind::Sync,
        size: 4,
        max_ops: 64,
        net_ops: 4,
        sends: 4,
        arena_bytes: 1 << 20,
        filters,
        ..Config::default()
    }
}

impl Rig {
    pub(super) fn new(filters: Vec<FilterConfig>) -> Self {
        let real = tempfile::tempfile().unwrap();
        let mut queue = Queue::new(&config(filters)).unwrap();
        let file = queue.add_file(&FileHandle::new(real.try_clone().unwrap())).unwrap();
        Self {
            queue,
            file,
            real: Some(real),
        }
    }

    /// On a simulated block device of this many bytes, on a machine with all its moods.
    #[cfg(feature = "test-utils")]
    pub(super) fn simulated(filters: Vec<FilterConfig>, len: u64) -> Self {
        use crate::sim::{SimConfig, SimHandle};
        let mut moods = SimConfig::new(len);
        (moods.short_every, moods.interrupt_every, moods.stall_every) = (2, 3, 10);
        let machine = SimHandle::new(moods);
        let disk = machine.create_block_device(len);
        let config = Config {
            engine: EngineKind::Sim(machine),
            ..config(filters)
        };
        let mut queue = Queue::new(&config).unwrap();
        let file = queue.add_file(&disk.handle()).unwrap();
        let real = None;
        Self { queue, file, real }
    }

    /// The file's size.
    pub(super) fn len(&self) -> u64 {
        self.real().metadata().unwrap().len()
    }

    pub(super) fn real(&self) -> &File {
        self.real.as_ref().expect("it is not simulated")
    }

    pub(super) fn set_len(&self, len: u64) {
        self.real().set_len(len).unwrap();
    }

    pub(super) fn push(&mut self, value: u64, action: Action) {
        let op = Op {
            token: token(value),
            file: self.file,
            action,
        };
        self.queue.push(op).unwrap();
    }

    /// Runs all that is outstanding to its end.
    pub(super) fn finish(&mut self) -> HashMap<u64, Result<u32, OpError>> {
        let mut done = HashMap::new();
        while !self.queue.is_idle() {
            self.queue.submit_and_wait(None).unwrap();
            while let Some(completion) = self.queue.next_completion() {
                assert!(done.insert(completion.token.value(), completion.result).is_none());
            }
        }
        done
    }

    /// Runs one op.
    pub(super) fn run(&mut self, action: Action) -> Result<u32, OpError> {
        self.push(0, action);
        self.finish()[&0]
    }

    pub(super) fn write(&mut self, offset: u64, content: &[u8]) -> Result<u32, OpError> {
        let lease = self.queue.alloc(content.len().try_into().unwrap()).unwrap();
        let data = lease.data();
        self.queue.bytes_mut(data).unwrap().copy_from_slice(content);
        let result = self.run(Action::Write {
            offset,
            data,
            durable: false,
        });
        self.queue.free(lease);
        result
    }

    pub(super) fn read(&mut self, offset: u64, len: u32) -> Result<Vec<u8>, OpError> {
        let lease = self.queue.alloc(len).unwrap();
        let data = lease.data();
        let result = self.run(Action::Read { offset, data });
        let content = self.queue.bytes(data).unwrap().to_vec();
        self.queue.free(lease);
        result.map(|_| content)
    }
}
