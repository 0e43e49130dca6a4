use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use iomgr_core::{Errno, FileHandle, FileSlot, OpError, OpQueue};
use tqueue::{Interest, Queue};

use super::rig::{bytes, filled, finish, on_each_engine, small, token};

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
            (1..=4).map(|i| queue.cancel(token(i))).collect::<Vec<_>>(),
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
