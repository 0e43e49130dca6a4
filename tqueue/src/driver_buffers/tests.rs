use std::os::unix::fs::FileExt;

use iomgr_core::{Action, FileSlot, Op, OpError, Owner, Token};

use super::*;
use crate::EngineKind;

const SLOTS: u16 = 4;

fn queue(engine: EngineKind) -> Option<Queue> {
    let config = Config {
        engine,
        driver_buffers: SLOTS,
        ..Config::default()
    };
    Queue::new(&config).map_err(|error| println!("skipped: {error}")).ok()
}

fn registered(index: u32, offset: u32, len: u32) -> Data {
    Data {
        home: DataHome::Registered(index),
        offset,
        len,
    }
}

fn file(queue: &mut Queue, bytes: &[u8]) -> (File, FileSlot) {
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(bytes, 0).unwrap();
    let slot = queue.add_file(&FileHandle::new(file.try_clone().unwrap())).unwrap();
    (file, slot)
}

/// Runs ops together; how each ended.
fn run(queue: &mut Queue, ops: &[(FileSlot, Action)]) -> Vec<Result<(), OpError>> {
    for (value, &(file, action)) in (0..).zip(ops) {
        let token = Token::new(Owner(1), value);
        queue.push(Op { token, file, action }).unwrap();
    }
    let mut ends = vec![None; ops.len()];
    while ends.contains(&None) {
        queue.submit_and_wait(None).unwrap();
        while let Some(completion) = queue.next_completion() {
            ends[usize::try_from(completion.token.value()).unwrap()] = Some(completion.op_done().result);
        }
    }
    ends.into_iter().flatten().collect()
}

/// The driver is played: a buffer of it is a page of the arena.
#[test]
fn parts_of_a_buffer_are_read_and_written_and_never_merged() {
    let mut queue = queue(EngineKind::Sync).unwrap();
    let (on_disk, slot) = file(&mut queue, &[[1; 512], [2; 512]].concat());
    let lease = queue.alloc(4096).unwrap();
    queue.play_driver_buffer(3, Some(lease.data()));
    let read = |offset, at| Action::Read {
        offset,
        data: registered(3, at, 512),
    };
    let zeros = queue.zeros().unwrap();
    let ops = [(slot, read(0, 0)), (slot, read(512, 512)), (zeros, read(0, 1024))];
    assert_eq!(run(&mut queue, &ops), [Ok(()); 3]);
    assert_eq!(queue.counters().merges, 0);
    let bytes = queue.bytes(lease.data()).unwrap();
    assert_eq!((bytes[0], bytes[512], bytes[1024]), (1, 2, 0));
    let write = Action::Write {
        offset: 0,
        data: registered(3, 512, 512),
        durable: false,
    };
    assert_eq!(run(&mut queue, &[(slot, write)]), [Ok(())]);
    let mut sector = [0; 512];
    on_disk.read_exact_at(&mut sector, 0).unwrap();
    assert_eq!(sector, [2; 512]);
    queue.free(lease);
}

#[test]
fn bytes_are_out_of_reach() {
    let mut queue = queue(EngineKind::Sync).unwrap();
    let lease = queue.alloc(4096).unwrap();
    queue.play_driver_buffer(0, Some(lease.data()));
    let data = registered(0, 0, 512);
    assert!(queue.bytes(data).is_none() && queue.bytes_mut(data).is_none() && !queue.fill_zeros(data));
    queue.free(lease);
}

#[test]
fn what_is_no_buffer_ends_the_op_alone() {
    let mut queue = queue(EngineKind::Sync).unwrap();
    let (_, slot) = file(&mut queue, &[1; 512]);
    let lease = queue.alloc(512).unwrap();
    queue.play_driver_buffer(0, Some(lease.data()));
    let read = |data| (slot, Action::Read { offset: 0, data });
    let ops = [
        read(registered(0, 0, 512)),
        read(registered(0, 1, 512)),
        read(registered(0, u32::MAX, 512)),
        read(registered(1, 0, 512)),
        read(registered(SLOTS.into(), 0, 512)),
        read(registered(u32::MAX, 0, 512)),
    ];
    let invalid = Err(OpError::Os(Errno::INVAL));
    assert_eq!(
        run(&mut queue, &ops),
        [Ok(()), invalid, invalid, invalid, invalid, invalid]
    );
    queue.free(lease);
}

/// Where no driver has put a buffer, the kernel says so: the op did go to the table, from any kind of file.
#[test]
fn the_ring_asks_the_kernel_for_the_buffer() {
    let Some(mut queue) = queue(EngineKind::Uring) else {
        return;
    };
    let (_, slot) = file(&mut queue, &[1; 512]);
    let zeros = queue.zeros().unwrap();
    let data = registered(SLOTS as u32 - 1, 0, 512);
    let write = Action::Write {
        offset: 0,
        data,
        durable: false,
    };
    let ops = [
        (slot, Action::Read { offset: 0, data }),
        (slot, write),
        (zeros, Action::Read { offset: 0, data }),
    ];
    assert_eq!(run(&mut queue, &ops), [Err(OpError::Os(Errno::FAULT)); 3]);
    assert_eq!(queue.counters().plain_calls, 0);
}

/// Memory of the queue's own goes on as it did.
#[test]
fn both_kinds_of_memory_are_used_together() {
    let Some(mut queue) = queue(EngineKind::Uring) else {
        return;
    };
    let (_, slot) = file(&mut queue, &[7; 4096]);
    let lease = queue.alloc(4096).unwrap();
    let read = Action::Read {
        offset: 0,
        data: lease.data(),
    };
    assert_eq!(run(&mut queue, &[(slot, read)]), [Ok(())]);
    assert_eq!(queue.bytes(lease.data()).unwrap()[4095], 7);
    queue.free(lease);
}
