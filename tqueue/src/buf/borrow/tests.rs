use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use iomgr_core::{Action, FileHandle, FileSlot, Op, OpQueue, Owner, Token};

use super::*;
use crate::sim::{Fault, OpKinds, SimConfig, SimHandle};
use crate::{Config, EngineKind};

struct Rig {
    queue: Queue,
    file: FileSlot,
}

impl AsMut<Queue> for Rig {
    fn as_mut(&mut self) -> &mut Queue {
        &mut self.queue
    }
}

impl Rig {
    fn new(engine: EngineKind, file: &FileHandle) -> Option<Self> {
        let config = Config {
            engine,
            lent: 4,
            ..Config::default()
        };
        let mut queue = Queue::new(&config).map_err(|error| println!("skipped: {error}")).ok()?;
        let file = queue.add_file(file).unwrap();
        Some(Self { queue, file })
    }

    fn push(&mut self, value: u64, action: Action) {
        let (token, file) = (Token::new(Owner(0), value), self.file);
        self.queue.push(Op { token, file, action }).unwrap();
    }

    fn ends(&mut self) -> Vec<(u64, bool)> {
        let mut ends = Vec::new();
        while !self.queue.is_idle() {
            self.queue.submit_and_wait(None).unwrap();
            while let Some(completion) = self.queue.next_completion() {
                ends.push((completion.token.value(), completion.result.is_ok()));
            }
        }
        ends
    }
}

fn real(engine: EngineKind) -> Option<Rig> {
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 20).unwrap();
    Rig::new(engine, &FileHandle::new(file))
}

fn rigs() -> impl Iterator<Item = Rig> {
    [EngineKind::Uring, EngineKind::Sync].into_iter().filter_map(real)
}

fn write(offset: u64, data: Data) -> Action {
    Action::Write {
        offset,
        data,
        durable: false,
    }
}

#[test]
fn what_is_borrowed_is_written_and_read_in_parts() {
    for mut rig in rigs() {
        let written = [vec![1; 700], vec![2; 300]];
        let parts = written.each_ref().map(|part| IoSlice::new(part));
        Queue::borrowed(&mut rig, Borrowed::Shared(&parts), |rig, parts| {
            // The two are merged.
            rig.push(1, write(0, parts[0]));
            rig.push(2, write(700, parts[1]));
        })
        .unwrap();
        assert_eq!(rig.ends(), [(1, true), (2, true)], "delivered after the call");
        let mut read = [vec![0; 100], vec![0; 900]];
        let mut parts = read.each_mut().map(|part| IoSliceMut::new(part));
        Queue::borrowed(&mut rig, Borrowed::Mut(&mut parts), |rig, parts| {
            rig.push(
                3,
                Action::Read {
                    offset: 0,
                    data: parts[0],
                },
            );
            rig.push(
                4,
                Action::Read {
                    offset: 100,
                    data: parts[1],
                },
            );
            rig.ends()
        })
        .unwrap();
        assert_eq!(read.concat(), written.concat());
    }
}

#[test]
fn ops_over_borrowed_and_own_memory_are_merged() {
    let machine = SimHandle::new(SimConfig::calm(1));
    let disk = machine.create_block_device(1 << 20);
    let mut rig = Rig::new(EngineKind::Sim(machine), &disk.handle()).unwrap();
    let lease = rig.queue.alloc(512).unwrap();
    rig.queue.bytes_mut(lease.data()).unwrap().fill(9);
    Queue::borrowed(&mut rig, Borrowed::Shared(&[IoSlice::new(&[3; 512])]), |rig, parts| {
        rig.push(1, write(0, parts[0]));
        rig.push(2, write(512, lease.data()));
        assert_eq!(rig.ends(), [(1, true), (2, true)]);
    })
    .unwrap();
    assert_eq!(rig.queue.counters().merges, 1);
    let mut read = [0; 1024];
    iomgr_core::Storage::read_at(&disk, &mut read, 0).unwrap();
    assert!(read[..512] == [3; 512] && read[512..] == [9; 512]);
}

#[test]
fn it_waits_for_ops_that_are_slow_and_for_none_else() {
    let machine = SimHandle::new(SimConfig::calm(7));
    let disk = machine.create_block_device(1 << 20);
    disk.inject(Fault::late(Duration::from_secs(5)).on(OpKinds::WRITE));
    let mut rig = Rig::new(EngineKind::Sim(machine.clone()), &disk.handle()).unwrap();
    let start = machine.now();
    let call = |rig: &mut Rig, parts: &[Data]| rig.push(1, write(0, parts[0]));
    Queue::borrowed(&mut rig, Borrowed::Shared(&[IoSlice::new(&[1; 512])]), call).unwrap();
    assert!(machine.now().since(start) >= Duration::from_secs(5));
    assert_eq!(rig.ends(), [(1, true)]);
    let start = machine.now();
    Queue::borrowed(&mut rig, Borrowed::Shared(&[IoSlice::new(&[1; 512])]), |_, _| ()).unwrap();
    assert_eq!(machine.now(), start, "nothing to wait for");
}

#[test]
fn a_panic_waits_as_well() {
    let machine = SimHandle::new(SimConfig::calm(7));
    let disk = machine.create_block_device(1 << 20);
    disk.inject(Fault::delay(Duration::from_secs(5)));
    let mut rig = Rig::new(EngineKind::Sim(machine.clone()), &disk.handle()).unwrap();
    let (start, mut memory) = (machine.now(), [0; 512]);
    let caught = catch_unwind(AssertUnwindSafe(|| {
        Queue::borrowed(
            &mut rig,
            Borrowed::Mut(&mut [IoSliceMut::new(&mut memory)]),
            |rig, parts| {
                rig.push(
                    1,
                    Action::Read {
                        offset: 0,
                        data: parts[0],
                    },
                );
                panic!("on purpose");
            },
        )
    }));
    assert!(caught.is_err());
    assert!(machine.now().since(start) >= Duration::from_secs(5));
    assert_eq!(rig.ends(), [(1, true)]);
}

#[test]
fn names_are_worth_nothing_after_the_call() {
    let mut rig = real(EngineKind::Sync).unwrap();
    let call = |_: &mut Rig, parts: &[Data]| parts[0];
    let data = Queue::borrowed(&mut rig, Borrowed::Shared(&[IoSlice::new(&[1; 512])]), call).unwrap();
    assert!(rig.queue.bytes(data).is_none());
    rig.push(1, write(0, data));
    assert_eq!(rig.ends(), [(1, false)]);
}

#[test]
fn what_is_shared_is_never_filled() {
    for mut rig in rigs() {
        let memory = [1; 512];
        Queue::borrowed(&mut rig, Borrowed::Shared(&[IoSlice::new(&memory)]), |rig, parts| {
            assert!(rig.queue.bytes(parts[0]).is_some());
            assert!(rig.queue.bytes_mut(parts[0]).is_none() && !rig.queue.fill_zeros(parts[0]));
            rig.push(
                1,
                Action::Read {
                    offset: 0,
                    data: parts[0],
                },
            );
            assert_eq!(rig.ends(), [(1, false)]);
        })
        .unwrap();
        assert_eq!(memory, [1; 512]);
    }
}

#[test]
fn too_many_parts_and_empty_ones_are_refused_before_the_call() {
    let mut rig = real(EngineKind::Sync).unwrap();
    let mut refusal = |parts: &[IoSlice<'_>]| {
        let never = |_: &mut Rig, _: &[Data]| panic!("not called");
        Queue::borrowed(&mut rig, Borrowed::Shared(parts), never).unwrap_err()
    };
    assert_eq!(refusal(&[IoSlice::new(&[1; 8]); 5]), Errno::NOBUFS);
    assert_eq!(refusal(&[IoSlice::new(&[1; 8]), IoSlice::new(&[])]), Errno::INVAL);
    // What was taken before is free again.
    let four = [IoSlice::new(&[1; 8]); 4];
    assert_eq!(
        Queue::borrowed(&mut rig, Borrowed::Shared(&four), |_, parts| parts.len()),
        Ok(4)
    );
}

#[test]
fn scopes_nest() {
    let mut rig = real(EngineKind::Sync).unwrap();
    let (written, mut read) = ([5; 512], [0; 512]);
    Queue::borrowed(&mut rig, Borrowed::Shared(&[IoSlice::new(&written)]), |rig, outer| {
        rig.push(1, write(0, outer[0]));
        assert_eq!(rig.ends(), [(1, true)]);
        Queue::borrowed(rig, Borrowed::Mut(&mut [IoSliceMut::new(&mut read)]), |rig, inner| {
            rig.push(
                2,
                Action::Read {
                    offset: 0,
                    data: inner[0],
                },
            );
        })
        .unwrap();
    })
    .unwrap();
    assert_eq!(read, written);
    assert_eq!(rig.ends(), [(2, true)]);
}
