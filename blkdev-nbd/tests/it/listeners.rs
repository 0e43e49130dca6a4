//! Several ways in, and who came through them.

use std::net::{TcpListener, TcpStream};

use blkdev_nbd::proto::CommandType;
use blkdev_nbd::test_utils::MemDevice;
use blkdev_nbd::{ConnectionStats, Listener};
use iomgr_core::{Errno, Operation};
use rustix::net::sockopt;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, getuid, pidfd_getfd, pidfd_open};

use crate::client::{Client, Stream, header};
use crate::server::TestServer;

#[test]
fn unix_and_tcp_clients_see_one_disk() {
    let mut addresses = Vec::new();
    let server = TestServer::with(MemDevice::new("disk", 1 << 20), |config| {
        config.threads = 2;
        for _ in 0..2 {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            addresses.push(listener.local_addr().unwrap());
            config.listeners.push(listener.into());
        }
    });
    let mut clients = vec![server.client()];
    for address in addresses {
        let mut client = Client::connect_tcp(address);
        assert_eq!(client.go("disk"), 1 << 20);
        clients.push(client);
    }
    for (n, client) in (1u8..).zip(&mut clients) {
        client.write(u64::from(n) * 512, &[n; 512]);
    }
    for client in &mut clients {
        assert_eq!(client.read(512, 1536), [[1; 512], [2; 512], [3; 512]].concat());
    }
    let peers: Vec<_> = stats(&server).into_iter().map(|connection| connection.peer).collect();
    let us = format!("unix pid {} uid {}", std::process::id(), getuid().as_raw());
    assert_eq!(peers[0], us);
    assert!(
        peers[1..].iter().all(|peer| peer.starts_with("127.0.0.1:")),
        "{peers:?}"
    );
    server.stop();
}

#[test]
fn tcp_replies_do_not_wait_and_dead_peers_are_found_out() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = TestServer::with(MemDevice::new("disk", 1 << 20), |config| {
        config.listeners = vec![Listener::from(listener)];
    });
    let mut client = Client::connect_tcp(address);
    client.go("disk");
    let Stream::Tcp(ours) = &client.stream else {
        unreachable!("it was connected by TCP")
    };
    // The server runs in this process: its end is the socket whose peer is our address.
    let ours = ours.local_addr().unwrap();
    let theirs = sockets().find(|socket| socket.peer_addr().is_ok_and(|peer| peer == ours));
    let theirs = theirs.expect("the server has a socket to us");
    assert!(theirs.nodelay().unwrap());
    assert!(sockopt::socket_keepalive(&theirs).unwrap());
    let (idle, every) = (sockopt::tcp_keepidle(&theirs), sockopt::tcp_keepintvl(&theirs));
    let gone_after = idle.unwrap() + every.unwrap() * sockopt::tcp_keepcnt(&theirs).unwrap();
    assert_eq!(gone_after.as_secs(), 120);
    server.stop();
}

#[test]
fn connections_tell_what_they_do() {
    let server = TestServer::new();
    let mut busy = server.client();
    let silent = server.raw_client();
    busy.write(0, &[1; 4096]);
    busy.read(0, 1024);
    assert_eq!(busy.ask(CommandType::Flush, 0, 0, &[]), 0);
    assert_eq!(busy.ask(CommandType::Trim, 0, 512, &[]), 0);
    server.device.fail(Operation::Write, Errno::NOSPC);
    assert_eq!(busy.ask(CommandType::Write, 0, 512, &[1; 512]), 28);
    server.device.hold();
    busy.command(header(CommandType::Read, 1, 0, 8192), &[]);
    server.device.wait_submitted(6);
    let [first, second] = <[_; 2]>::try_from(stats(&server)).unwrap();
    assert_eq!((first.id, first.export.as_deref()), (1, Some("disk")));
    assert_eq!((first.in_flight, first.held_bytes), (1, 8192));
    let counts = first
        .figures
        .each_ref()
        .map(|figures| (figures.ops(), figures.bytes(), figures.errors()));
    assert_eq!(counts, [(1, 1024, 0), (2, 4096, 1), (1, 0, 0), (1, 512, 0)]);
    assert!(first.figures.iter().all(|figures| !figures.latency(1.0).is_zero()));
    assert!(first.last_active_ago <= first.opened_for);
    assert_eq!((second.id, second.export, second.figures[0].ops()), (2, None, 0));
    server.device.release();
    drop((busy, silent));
    server.stop();
}

/// Duplicates of all descriptors of this process, taken for sockets.
fn sockets() -> impl Iterator<Item = TcpStream> {
    let us = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    let numbers = std::fs::read_dir("/proc/self/fd").unwrap();
    let numbers = numbers.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap());
    // The one that lists them is gone by the time it is asked for.
    let files = numbers.filter_map(move |number| pidfd_getfd(&us, number, PidfdGetfdFlags::empty()).ok());
    files.map(TcpStream::from)
}

fn stats(server: &TestServer) -> Vec<ConnectionStats> {
    server.server.as_ref().unwrap().connections()
}
