//! The queue in somebody else's event loop.

use std::io::Write;

use iomgr_core::{Action, FileHandle, OpQueue};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tqueue::{Config, Features, Queue};

use crate::rig::{open, push, small_ring, token};

/// Is the queue's descriptor readable, now or within a minute?
fn is_readable(queue: &Queue, wait_s: i64) -> bool {
    let fd = queue.completion_fd().expect("io_uring has one");
    let timeout = Timespec {
        tv_sec: wait_s,
        tv_nsec: 0,
    };
    poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&timeout)).unwrap() == 1
}

#[test]
fn a_loop_of_ones_own_hears_of_completions() {
    for mask in [Features::empty(), Features::DEFER_TASKRUN, Features::all()] {
        let Some(mut queue) = open(&Config { mask, ..small_ring() }) else {
            return;
        };
        let (reader, mut writer) = std::io::pipe().unwrap();
        let file = queue.add_file(&FileHandle::new(reader)).unwrap();
        let lease = queue.alloc(8192).unwrap();
        let data = lease.data();
        push(&mut queue, 1, file, Action::Read { offset: 0, data });
        queue.submit().unwrap();
        assert!(queue.next_completion().is_none() && !is_readable(&queue, 0));
        // Half of it is not the end of it, and nobody has to do anything for the other half to be asked for.
        writer.write_all(&[1; 4096]).unwrap();
        assert!(is_readable(&queue, 60));
        queue.submit().unwrap();
        assert!(queue.next_completion().is_none() && !is_readable(&queue, 0));
        writer.write_all(&[2; 4096]).unwrap();
        assert!(is_readable(&queue, 60));
        queue.submit().unwrap();
        let read = queue.next_completion().expect("all of it was written");
        assert_eq!((read.token, read.result), (token(1), Ok(8192)));
        assert!(!is_readable(&queue, 0) && queue.is_idle());
        queue.free(lease);
    }
}
