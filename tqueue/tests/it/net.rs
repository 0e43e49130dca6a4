use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use iomgr_core::{Action, Errno, FileHandle, FileSlot, OpError, OpQueue};
use tqueue::{Config, Interest, Queue};

use super::rig::{bytes, filled, finish, on_each_engine, open, push, small, small_ring, token};

fn pair(queue: &mut Queue) -> (FileSlot, UnixStream) {
    let (ours, peer) = UnixStream::pair().unwrap();
    (queue.add_file(&FileHandle::new(ours)).unwrap(), peer)
}

#[test]
fn a_receive_ends_when_bytes_come_and_when_the_peer_closes() {
    on_each_engine(&small(), |queue| {
        let (socket, mut peer) = pair(queue);
        let lease = queue.alloc(100).unwrap();
        queue.recv(socket, lease.data(), token(1)).unwrap();
        queue.submit().unwrap();
        assert_eq!(queue.next_completion(), None);
        peer.write_all(b"hello").unwrap();
        assert_eq!(finish(queue)[&1], Ok(5));
        assert_eq!(bytes(queue, lease.data().slice(0, 5)), b"hello");
        drop(peer);
        queue.recv(socket, lease.data(), token(2)).unwrap();
        assert_eq!(finish(queue)[&2], Ok(0));
        queue.free(lease);
    });
}

#[test]
fn a_send_larger_than_the_socket_takes_is_sent_whole() {
    for parts in [1, 3] {
        on_each_engine(&small(), |queue| {
            let (socket, mut peer) = pair(queue);
            let content: Vec<u8> = (0..1_500_000u32).map(|i| (i % 253) as u8).collect();
            let lease = filled(queue, &content);
            let reader = std::thread::spawn(move || {
                let mut got = Vec::new();
                peer.read_to_end(&mut got).unwrap();
                got
            });
            let all: Vec<_> = (0..parts).map(|i| lease.data().slice(i * 500_000, 500_000)).collect();
            queue.send(socket, &all, token(1)).unwrap();
            let total = parts * 500_000;
            assert_eq!(finish(queue)[&1], Ok(total));
            queue.remove_file(socket);
            assert!(reader.join().unwrap() == content[..total as usize]);
            queue.free(lease);
        });
    }
}

#[test]
fn a_send_to_nobody_is_an_error() {
    on_each_engine(&small(), |queue| {
        let (socket, peer) = pair(queue);
        drop(peer);
        let lease = filled(queue, b"x");
        queue.send(socket, &[lease.data()], token(1)).unwrap();
        queue.send(socket, &[], token(2)).unwrap();
        let results = finish(queue);
        assert_eq!(results[&1], Err(OpError::Os(Errno::PIPE)));
        assert_eq!(results[&2], Err(OpError::Os(Errno::INVAL)));
        queue.free(lease);
    });
}

#[test]
fn what_waits_can_be_cancelled() {
    on_each_engine(&small(), |queue| {
        let (socket, _peer) = pair(queue);
        let lease = queue.alloc(100).unwrap();
        queue.recv(socket, lease.data(), token(1)).unwrap();
        queue.poll_fd(socket, Interest::READ, token(2)).unwrap();
        queue.timer(queue.now() + Duration::from_secs(1000), token(3)).unwrap();
        queue.submit().unwrap();
        queue.timer(queue.now() + Duration::from_secs(1000), token(4)).unwrap();
        assert_eq!(
            (1..=4)
                .map(|i| queue.cancel(token(i)).never_started)
                .collect::<Vec<_>>(),
            [0, 0, 0, 1]
        );
        let results = finish(queue);
        for i in 1..=3 {
            assert_eq!(results[&i], Err(OpError::Os(Errno::CANCELED)));
        }
        assert_eq!(results[&4], Err(OpError::NeverStarted));
        queue.free(lease);
    });
}

#[test]
fn a_timer_fires_not_before_its_time() {
    on_each_engine(&small(), |queue| {
        let at = queue.now() + Duration::from_millis(3);
        queue.timer(at, token(1)).unwrap();
        queue.timer(queue.now(), token(2)).unwrap();
        let results = finish(queue);
        assert_eq!((results[&1], results[&2]), (Ok(0), Ok(0)));
        assert!(queue.now() >= at);
    });
}

#[test]
fn a_poll_tells_of_an_eventfd() {
    on_each_engine(&small(), |queue| {
        let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        let waker = event.try_clone().unwrap();
        let slot = queue.add_file(&FileHandle::new(event)).unwrap();
        queue.poll_fd(slot, Interest::READ, token(1)).unwrap();
        queue.submit_and_wait(Some(Duration::from_millis(1))).unwrap();
        assert_eq!(queue.next_completion(), None, "the time was over first");
        rustix::io::write(&waker, &1u64.to_ne_bytes()).unwrap();
        assert_eq!(finish(queue)[&1], Ok(u32::from(Interest::READ.bits())));
    });
}

/// A request at depth 1: receive, read the disk, send the reply, wait for the next request.
#[test]
fn a_request_at_depth_one_costs_two_enters() {
    for (in_memory, enters) in [(false, 2), (true, 1)] {
        let dir = if in_memory {
            "/dev/shm"
        } else {
            env!("CARGO_TARGET_TMPDIR")
        };
        let Some(mut queue) = open(&small_ring()) else { return };
        let disk = tempfile::tempfile_in(dir).unwrap();
        disk.write_all_at(&[7; 4096], 0).unwrap();
        let disk = queue.add_file(&FileHandle::new(disk)).unwrap();
        let (socket, mut peer) = pair(&mut queue);
        let (inbox, body) = (queue.alloc(16).unwrap(), queue.alloc(4096).unwrap());
        let client = std::thread::spawn(move || {
            let mut reply = [0; 4112];
            for _ in 0..100 {
                peer.write_all(&[1; 16]).unwrap();
                peer.read_exact(&mut reply).unwrap();
            }
        });
        let mut served = 0;
        queue.recv(socket, inbox.data(), token(1)).unwrap();
        while served < 100 {
            queue.submit_and_wait(None).unwrap();
            while let Some(done) = queue.next_completion() {
                match (done.token.value(), done.result) {
                    (1, Ok(16)) => push(
                        &mut queue,
                        2,
                        disk,
                        Action::Read {
                            offset: 0,
                            data: body.data(),
                        },
                    ),
                    (2, Ok(4096)) => {
                        queue.recv(socket, inbox.data(), token(1)).unwrap();
                        queue.send(socket, &[inbox.data(), body.data()], token(3)).unwrap();
                    }
                    (3, Ok(4112)) => served += 1,
                    // The client has gone; the reply before was the last.
                    (1, Ok(0)) => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        client.join().unwrap();
        let counters = queue.counters();
        assert!(counters.enters <= 100 * enters + 4, "{counters:?}");
        assert_eq!(counters.quiet_sends, 100);
    }
}

/// A reply that the socket does not take whole: nothing but the peer's reading lets it go on, and nothing else ends the wait.
#[test]
fn a_send_that_comes_short_does_not_hang_behind_a_receive() {
    let config = Config {
        arena_bytes: 8 << 20,
        ..small()
    };
    on_each_engine(&config, |queue| {
        let (socket, mut peer) = pair(queue);
        let lease = filled(queue, &vec![3; 3 << 20]);
        let inbox = queue.alloc(16).unwrap();
        let client = std::thread::spawn(move || {
            let mut reply = vec![0; 3 << 20];
            peer.read_exact(&mut reply).unwrap();
            peer.write_all(b"thanks").unwrap();
        });
        queue.recv(socket, inbox.data(), token(1)).unwrap();
        queue
            .send(
                socket,
                &[lease.data().slice(0, 1 << 20), lease.data().slice(1 << 20, 2 << 20)],
                token(2),
            )
            .unwrap();
        let results = finish(queue);
        assert_eq!((results[&1], results[&2]), (Ok(6), Ok(3 << 20)));
        client.join().unwrap();
        queue.free(lease);
        queue.free(inbox);
    });
}

#[test]
fn a_send_that_somebody_waits_for_ends_the_wait() {
    on_each_engine(&small(), |queue| {
        let (socket, _peer) = pair(queue);
        let (inbox, lease) = (queue.alloc(16).unwrap(), filled(queue, b"reply"));
        queue.recv(socket, inbox.data(), token(1)).unwrap();
        queue.submit().unwrap();
        // Said outright, or by asking for memory that is not there.
        for hurry in [true, false] {
            queue.send(socket, &[lease.data()], token(2)).unwrap();
            if hurry {
                queue.wake_for_sends();
            } else {
                assert_eq!(queue.alloc(u32::MAX / 2), None);
            }
            queue.submit_and_wait(None).unwrap();
            assert_eq!(queue.next_completion().unwrap().token, token(2));
        }
        queue.cancel(token(1));
        assert_eq!(finish(queue)[&1], Err(OpError::Os(Errno::CANCELED)));
        queue.free(lease);
    });
}

#[test]
fn sockets_that_never_wait_work_as_well() {
    on_each_engine(&small(), |queue| {
        let (ours, mut peer) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let socket = queue.add_file(&FileHandle::new(ours)).unwrap();
        let (inbox, lease) = (queue.alloc(16).unwrap(), filled(queue, &vec![3; 1 << 20]));
        queue.recv(socket, inbox.data(), token(1)).unwrap();
        queue.send(socket, &[lease.data()], token(2)).unwrap();
        let client = std::thread::spawn(move || {
            let mut reply = vec![0; 1 << 20];
            peer.read_exact(&mut reply).unwrap();
            peer.write_all(b"thanks").unwrap();
        });
        let results = finish(queue);
        assert_eq!((results[&1], results[&2]), (Ok(6), Ok(1 << 20)));
        client.join().unwrap();
        queue.free(lease);
    });
}

#[test]
fn a_queue_dropped_in_the_middle_ends_what_waits_and_frees_its_files() {
    let (ours, mut peer) = UnixStream::pair().unwrap();
    let Some(mut queue) = open(&small_ring()) else { return };
    let socket = queue.add_file(&FileHandle::new(ours)).unwrap();
    let inbox = queue.alloc(16).unwrap();
    queue.recv(socket, inbox.data(), token(1)).unwrap();
    queue.timer(queue.now() + Duration::from_secs(1000), token(2)).unwrap();
    queue.submit().unwrap();
    drop(queue);
    assert_eq!(
        peer.read(&mut [0; 1]).unwrap(),
        0,
        "our end is closed, for certain and at once"
    );
}
