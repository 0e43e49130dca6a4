//! Giving ops up: what is said at once, and how they end.
//!
//! An empty pipe stands for a disk that hangs: io_uring reads it as a stream, waits, and can be asked to give the read back.

use std::time::Duration;

use iomgr_core::{Action, Errno, FileHandle, FileSlot, Lease, OpError, OpQueue};
use tqueue::{Cancelled, Queue};

use crate::rig::{finish, on_each_engine, open, push, small, small_ring, temp_file, token};

/// A read of a pipe into which nothing is written.
fn hang(queue: &mut Queue, value: u64) -> (std::io::PipeWriter, Lease) {
    let (reader, writer) = std::io::pipe().unwrap();
    let file = queue.add_file(&FileHandle::new(reader)).unwrap();
    let lease = queue.alloc(4096).unwrap();
    let data = lease.data();
    push(queue, value, file, Action::Read { offset: 0, data });
    (writer, lease)
}

fn flush(queue: &mut Queue, value: u64, file: FileSlot) {
    push(queue, value, file, Action::Flush);
}

#[test]
fn it_is_said_at_once_what_had_not_begun() {
    on_each_engine(&small(), |queue| {
        let (file, _) = temp_file(queue);
        queue.timer(queue.now() + Duration::from_secs(1000), token(1)).unwrap();
        queue.submit().unwrap();
        flush(queue, 1, file);
        flush(queue, 1, file);
        flush(queue, 2, file);
        let expected = Cancelled {
            never_started: 2,
            ending: 1,
            detached: 0,
        };
        assert_eq!(queue.cancel(token(1)), expected);
        assert_eq!(
            queue.cancel(token(1)),
            Cancelled::default(),
            "nothing is given up twice"
        );
        let mut ends = [0; 3];
        while !queue.is_idle() {
            queue.submit_and_wait(None).unwrap();
            while let Some(done) = queue.next_completion() {
                ends[0] += u32::from(done.result == Err(OpError::NeverStarted));
                ends[1] += u32::from(done.result == Err(OpError::Os(Errno::CANCELED)));
                ends[2] += u32::from(done.result.is_ok());
            }
        }
        assert_eq!(ends, [2, 1, 1]);
    });
}

#[test]
fn what_the_kernel_gives_back_never_started() {
    let Some(mut queue) = open(&small_ring()) else { return };
    let (mut writer, lease) = hang(&mut queue, 1);
    queue.submit().unwrap();
    assert_eq!(queue.cancel_all().detached, 1);
    assert_eq!(
        queue.bytes(lease.data()),
        None,
        "until the kernel has spoken, the memory is its"
    );
    assert_eq!(finish(&mut queue)[&1], Err(OpError::NeverStarted));
    assert!(queue.bytes_mut(lease.data()).is_some());
    // Nobody reads any more: what is written lands nowhere.
    queue.bytes_mut(lease.data()).unwrap().fill(1);
    std::io::Write::write_all(&mut writer, &[9; 4096]).unwrap();
    queue.submit().unwrap();
    assert_eq!(queue.bytes(lease.data()).unwrap(), [1; 4096]);
    queue.free(lease);
}

#[test]
fn what_the_kernel_did_in_part_is_no_more_than_cancelled() {
    let Some(mut queue) = open(&small_ring()) else { return };
    let (mut writer, lease) = hang(&mut queue, 1);
    std::io::Write::write_all(&mut writer, &[9; 512]).unwrap();
    while queue.counters().continued == 0 {
        queue.submit_and_wait(Some(Duration::from_millis(1))).unwrap();
    }
    let given_up = queue.cancel_all();
    assert_eq!(given_up.ending + given_up.detached, 1);
    assert_eq!(finish(&mut queue)[&1], Err(OpError::Os(Errno::CANCELED)));
    queue.free(lease);
}

#[test]
fn what_was_merged_with_an_op_that_is_given_up_goes_on() {
    let Some(mut queue) = open(&small_ring()) else { return };
    let (reader, mut writer) = std::io::pipe().unwrap();
    let file = queue.add_file(&FileHandle::new(reader)).unwrap();
    let leases = [(); 3].map(|()| queue.alloc(512).unwrap());
    for (value, lease) in (0..).zip(&leases) {
        let data = lease.data();
        push(
            &mut queue,
            value,
            file,
            Action::Read {
                offset: value * 512,
                data,
            },
        );
    }
    queue.submit().unwrap();
    assert_eq!(queue.counters().merges, 2);
    assert_eq!(queue.cancel(token(0)).detached, 1);
    queue.submit_and_wait(None).unwrap();
    let first = queue.next_completion().unwrap();
    assert_eq!((first.token, first.result), (token(0), Err(OpError::NeverStarted)));
    std::io::Write::write_all(&mut writer, &[[1; 512], [2; 512]].concat()).unwrap();
    let results = finish(&mut queue);
    assert_eq!((results[&1], results[&2]), (Ok(512), Ok(512)));
    assert_eq!(queue.bytes(leases[1].data()).unwrap(), [1; 512]);
    assert_eq!(queue.bytes(leases[2].data()).unwrap(), [2; 512]);
    leases.into_iter().for_each(|lease| queue.free(lease));
}
