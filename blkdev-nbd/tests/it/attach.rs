//! Exports that come and go while the server runs.

use std::error::Error as _;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use blkdev_nbd::proto::{CommandType, OptionCode};
use blkdev_nbd::test_utils::MemDevice;
use blkdev_nbd::{Error, ErrorKind, Export, Server};
use iomgr_core::manager::test_utils::CountingManager;
use iomgr_core::manager::{DeviceId, Verdict, Wait};
use iomgr_core::{Class, Device, FileHandle, Operation};

use crate::client::{Client, header, text32};
use crate::server::{MIB, TestServer};

/// Nobody waits that long.
const HOUR: Duration = Duration::from_secs(3600);
const SHUTDOWN: u32 = 108;
/// `NBD_REP_ERR_UNKNOWN`.
const UNKNOWN: u32 = 1 << 31 | 6;

fn server(threads: u16) -> TestServer {
    TestServer::with(MemDevice::new("disk", 1 << 20), |config| config.threads = threads)
}

/// A server whose manager holds the writes to all devices but its first, for an hour.
fn throttling(threads: u16) -> TestServer {
    let manager = CountingManager::with_policy("no-writes", |ask| {
        match ask.head.class == Class::Write && ask.device != DeviceId(0) {
            true => Verdict::No(Wait::Until(ask.now + HOUR)),
            false => Verdict::Go,
        }
    });
    TestServer::start(MemDevice::new("disk", 1 << 20), manager, |config| {
        config.threads = threads
    })
    .unwrap()
}

impl TestServer {
    fn running(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    /// Attaches a device under its name.
    fn attach(&self, device: &Arc<MemDevice>) -> Result<(), Error> {
        self.running().attach(Export {
            name: device.name().to_owned(),
            description: "attached".to_owned(),
            device: device.clone(),
            managed: self.registry.attach(device.name()).unwrap(),
        })
    }

    fn attach_new(&self, name: &str) -> Arc<MemDevice> {
        let device = Arc::new(MemDevice::new(name, 1 << 20));
        self.attach(&device).unwrap();
        device
    }

    /// A client that has chosen this export.
    fn client_of(&self, name: &str) -> Client {
        let mut client = self.raw_client();
        client.go(name);
        client
    }

    fn detach(&self, name: &str) {
        self.running().detach(name, HOUR).unwrap();
    }
}

/// The names in the answer to a LIST.
fn list(client: &mut Client) -> Vec<String> {
    let mut replies = client.option(OptionCode::List as u32, b"");
    assert_eq!(replies.pop(), Some((1, vec![])));
    let name = |(kind, data): (u32, Vec<u8>)| {
        let len = u32::from_be_bytes(data[..4].try_into().unwrap()) as usize;
        assert_eq!(kind, 2);
        String::from_utf8(data[4..4 + len].to_vec()).unwrap()
    };
    replies.into_iter().map(name).collect()
}

/// What a GO is answered with in the end.
fn try_go(client: &mut Client, name: &str) -> u32 {
    let data = [&text32(name)[..], &[0, 0]].concat();
    client.option(OptionCode::Go as u32, &data).pop().unwrap().0
}

#[test]
fn an_export_is_there_when_attach_returns_and_gone_when_detach_does() {
    let server = server(2);
    // Two connections on each thread, half of them older than the export.
    let newcomers = |count| {
        let greeted = (0..count).map(|_| {
            let mut client = server.raw_client();
            client.greet(3);
            client
        });
        greeted.collect::<Vec<_>>()
    };
    let mut clients = newcomers(2);
    let device = server.attach_new("late");
    clients.extend(newcomers(2));
    for (at, client) in (0u64..).zip(&mut clients) {
        assert_eq!(list(client), ["disk", "late"]);
        assert_eq!(client.choose("late"), 1 << 20);
        client.write(at * 512, &[7; 512]);
    }
    assert_eq!(device.bytes()[..2048], [7; 2048]);
    let stats = server.running().connections();
    assert!(stats.iter().all(|stats| stats.export.as_deref() == Some("late")));
    let requests = server.running().stats().requests_total;

    server.detach("late");
    assert_eq!((device.open_queues(), device.closed_queues()), (0, vec![1, 0]));
    assert_eq!(Arc::strong_count(&device), 1, "nobody has anything of it any more");
    assert_eq!(
        server.running().stats().requests_total,
        requests,
        "what was done stays done"
    );
    clients.into_iter().for_each(|client| assert_eq!(client.rest(), b""));
    let mut client = server.raw_client();
    client.greet(3);
    assert_eq!(list(&mut client), ["disk"]);
    assert_eq!(try_go(&mut client, "late"), UNKNOWN);
    let gone = server.running().detach("late", HOUR).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    assert_eq!(gone.to_string(), "there is no such export: \"late\"");
    server.attach(&device).unwrap();
    assert_eq!(try_go(&mut client, "late"), 1, "its name and its device are free");
    assert_eq!(client.read(0, 512), [7; 512]);
    server.stop();
}

#[test]
fn the_default_export_is_the_one_that_is_there_the_longest() {
    let server = server(1);
    let sizes = [2u64, 3].map(|mib| mib << 20);
    for (name, size) in ["second", "third"].into_iter().zip(sizes) {
        server.attach(&Arc::new(MemDevice::new(name, size))).unwrap();
    }
    server.detach("disk");
    // This one gets the lane of the first.
    server.attach_new("fourth");
    assert_eq!(server.raw_client().go(""), 2 << 20);
    server.detach("second");
    assert_eq!(server.raw_client().go(""), 3 << 20);
    server.detach("third");
    server.detach("fourth");

    // A server without exports goes on.
    let mut client = server.raw_client();
    client.greet(3);
    assert_eq!(list(&mut client), [""; 0]);
    assert_eq!(try_go(&mut client, ""), UNKNOWN);
    server.attach_new("fifth");
    assert_eq!(client.choose(""), 1 << 20);
    client.write(0, &[1; 512]);
    server.stop();
}

#[test]
fn a_handshake_forgets_what_it_agreed_on_for_an_export_that_is_gone() {
    let server = server(1);
    server.attach_new("late");
    let mut client = server.raw_client();
    client.greet(3);
    assert_eq!(client.option(OptionCode::StructuredReply as u32, b""), [(1, vec![])]);
    let query = [&text32("late")[..], &1u32.to_be_bytes(), &text32("base:allocation")].concat();
    assert_eq!(client.option(OptionCode::SetMetaContext as u32, &query)[0].0, 4);
    server.detach("late");
    server.attach_new("late");
    client.choose("late");
    // The context was another export's, although that had the same name, and the same lane.
    client.command(header(CommandType::BlockStatus, 1, 0, 512), &[]);
    let (chunk, _) = client.chunk();
    assert_eq!((chunk.kind >> 15, chunk.cookie), (1, 1), "an error");
    server.stop();
}

#[test]
fn detaching_ends_what_a_manager_holds_and_disturbs_nobody_else() {
    let server = throttling(2);
    let device = server.attach_new("slow");
    let mut others = [server.client(), server.client()];
    let mut clients: Vec<_> = (0..4).map(|_| server.client_of("slow")).collect();
    for client in &mut clients {
        // More than there are slots for, so some wait for those.
        let write = [&header(CommandType::Write, 1, 0, 512).emit()[..], &[1; 512]].concat();
        client.send(&write.repeat(100));
        client.command(header(CommandType::Flush, 2, 0, 0), &[]);
    }
    others.iter_mut().for_each(|client| client.write(0, &[2; 512]));
    server.detach("slow");
    assert!(device.log().iter().all(|request| request.op == Operation::Flush));
    for client in clients {
        let rest = client.rest();
        assert_eq!(rest.len() % 16, 0);
        let errors = rest
            .chunks(16)
            .map(|reply| (reply[15], u32::from_be_bytes(reply[4..8].try_into().unwrap())));
        let (writes, flushes): (Vec<_>, Vec<_>) = errors.partition(|(cookie, _)| *cookie == 1);
        assert!(writes.iter().all(|(_, error)| *error == SHUTDOWN) && flushes.len() <= 1);
    }
    for client in &mut others {
        assert_eq!(client.read(0, 512), [2; 512]);
    }
    assert_eq!(server.registry.pending_total(), 0);
    server.stop();
}

#[test]
fn detaching_lets_the_device_end_what_it_has() {
    let server = server(2);
    let device = server.attach_new("late");
    let mut clients = [server.client_of("late"), server.client_of("late")];
    device.hold();
    for client in &mut clients {
        client.command(header(CommandType::Write, 1, 0, 512), &[1; 512]);
    }
    device.wait_submitted(2);
    thread::scope(|scope| {
        let detaching = scope.spawn(|| server.detach("late"));
        // It is taken off the list before anybody waits.
        let mut client = server.raw_client();
        client.greet(3);
        while list(&mut client).len() > 1 {
            client = server.raw_client();
            client.greet(3);
        }
        let busy = server.running().detach("late", HOUR).unwrap_err();
        assert_eq!(busy.kind(), ErrorKind::Busy);
        let taken = server.attach(&Arc::new(MemDevice::new("late", 512))).unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::Config);
        // Others may come and go meanwhile.
        server.attach_new("other");
        server.detach("other");
        device.release();
        detaching.join().unwrap();
    });
    for client in clients {
        assert_eq!(client.rest()[4..8], [0; 4], "a reply, then the end");
    }
    server.stop();
}

#[test]
fn a_device_that_works_for_itself_is_detached_when_that_has_ended() {
    use std::io::Write;
    let server = server(1);
    let device = Arc::new(MemDevice::new("late", 1 << 20));
    let (reader, mut writer) = std::io::pipe().unwrap();
    device.read_for_itself(FileHandle::new(reader));
    server.attach(&device).unwrap();
    let client = server.client_of("late");
    thread::scope(|scope| {
        let detaching = scope.spawn(|| server.detach("late"));
        // Its clients are gone before.
        assert_eq!(client.rest(), b"");
        writer.write_all(b"x").unwrap();
        detaching.join().unwrap();
    });
    assert_eq!(device.open_queues(), 0);
    server.stop();
}

#[test]
fn a_client_that_does_not_read_is_cut_off_in_the_end() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = TestServer::with(MemDevice::new("disk", 1 << 20), |config| {
        config.listeners.push(listener.into())
    });
    let device = Arc::new(MemDevice::new("late", 64 << 20));
    server.attach(&device).unwrap();
    let mut clients = [server.raw_client(), Client::connect_tcp(address)];
    for client in &mut clients {
        client.go("late");
        client.command(header(CommandType::Read, 1, 0, 16 * MIB), &[]);
    }
    device.wait_submitted(2);
    server.running().detach("late", Duration::from_millis(50)).unwrap();
    assert_eq!(device.open_queues(), 0);
    server.stop();
    drop(clients);
}

#[test]
fn a_device_that_does_not_end_can_be_detached_again() {
    let server = server(2);
    let device = server.attach_new("late");
    device.hold();
    let mut client = server.client_of("late");
    client.command(header(CommandType::Read, 1, 0, 512), &[]);
    device.wait_submitted(1);
    let busy = server.running().detach("late", Duration::ZERO).unwrap_err();
    assert_eq!(busy.kind(), ErrorKind::Busy);
    assert_eq!(client.rest(), b"", "its clients are gone");
    let mut client = server.raw_client();
    client.greet(3);
    assert_eq!(try_go(&mut client, "late"), UNKNOWN);
    thread::scope(|scope| {
        let again = scope.spawn(|| server.detach("late"));
        device.release();
        again.join().unwrap();
    });
    assert_eq!(device.open_queues(), 0);
    server.attach(&device).unwrap();
    assert_eq!(try_go(&mut client, "late"), 1);
    server.stop();
}

#[test]
fn a_device_that_does_not_open_leaves_nothing() {
    let server = server(3);
    let device = Arc::new(MemDevice::new("late", 1 << 20));
    device.break_queue(2);
    let error = server.attach(&device).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Device);
    assert_eq!(
        error.to_string(),
        "a device cannot be opened: queue 2 of export \"late\""
    );
    assert_eq!(error.source().unwrap().to_string(), "queue 2 is broken");
    assert_eq!((device.open_queues(), device.closed_queues()), (0, vec![1, 0]));
    assert_eq!(Arc::strong_count(&device), 1);
    server.attach_new("late");
    server.stop();
}

#[test]
fn there_is_room_for_so_many_exports() {
    let server = TestServer::with(MemDevice::new("disk", 1 << 20), |config| config.spare_exports = 2);
    server.attach_new("a");
    server.attach_new("b");
    let full = server.attach(&Arc::new(MemDevice::new("c", 512))).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::Config);
    assert!(full.to_string().contains("3 exports"), "{full}");
    server.detach("a");
    server.attach_new("c");
    server.stop();
}

#[test]
fn a_stop_ends_a_detach_that_waits() {
    let mut server = TestServer::with(MemDevice::new("disk", 1 << 20), |config| {
        config.threads = 2;
        config.limits.stop_timeout = Duration::from_millis(50);
    });
    let device = Arc::new(MemDevice::new("late", 64 << 20));
    server.attach(&device).unwrap();
    let mut client = server.client_of("late");
    client.command(header(CommandType::Read, 1, 0, 16 * MIB), &[]);
    device.wait_submitted(1);
    thread::scope(|scope| {
        let detaching = scope.spawn(|| server.running().detach("late", HOUR));
        server.running().begin_stop();
        detaching.join().unwrap().unwrap();
    });
    let refused = server.attach(&Arc::new(MemDevice::new("more", 512))).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "this cannot be done now: the server is being stopped"
    );
    server.server.take().unwrap().stop().unwrap();
    assert_eq!((device.open_queues(), server.device.open_queues()), (0, 0));
    drop(client);
}

#[test]
fn a_stop_waits_for_no_manager_for_ever() {
    let mut server = TestServer::with(MemDevice::new("disk", 1 << 20), |config| {
        config.limits.stop_timeout = Duration::from_millis(50);
    });
    let manager = CountingManager::with_policy("never", |ask| Verdict::No(Wait::Until(ask.now + HOUR)));
    server.registry.replace(manager.clone()).unwrap();
    let mut client = server.client();
    client.command(header(CommandType::Read, 1, 0, 512), &[]);
    // It is held when the server has answered somebody who came later.
    server.raw_client().go("disk");
    server.server.take().unwrap().stop().unwrap();
    assert_eq!(server.device.submitted(), 0);
    client.rest();
    manager.assert_quiet();
}

#[test]
fn held_writes_leave_room_for_reads_however_many_they_are() {
    let server = throttling(1);
    let device = server.attach_new("slow");
    let mut writers: Vec<_> = (0..3).map(|_| server.client_of("slow")).collect();
    for writer in &mut writers {
        let write = [&header(CommandType::Write, 1, 0, 512).emit()[..], &[1; 512]].concat();
        writer.send(&write.repeat(128));
    }
    let mut reader = server.client_of("slow");
    // Each read is a pass of the loop. Once the writers wait for slots, nothing of theirs moves any more.
    let held = || {
        server
            .running()
            .connections()
            .iter()
            .map(|conn| conn.in_flight)
            .sum::<u32>()
    };
    while held() < 128 + 3 {
        reader.read(0, 512);
    }
    let flushes = [header(CommandType::Flush, 1, 0, 0).emit(); 8].concat();
    reader.send(&flushes);
    (0..8).for_each(|_| assert_eq!(reader.reply(), (1, 0)));
    assert_eq!(reader.read(512, 4096), [0; 4096]);
    assert!(device.log().iter().all(|request| request.op != Operation::Write));
    server.detach("slow");
    server.stop();
}
