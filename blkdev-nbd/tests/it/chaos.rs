//! Everything at once: too little memory, too few slots, and clients that ask for anything and go at any moment.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use blkdev_nbd::proto::{CommandHeader, CommandType, OptionCode, OptionHeader};
use blkdev_nbd::test_utils::MemDevice;
use blkdev_nbd::{ErrorKind, Export};
use iomgr_core::Class;
use iomgr_core::manager::test_utils::CountingManager;
use iomgr_core::manager::{Verdict, Wait};

use crate::client::{Client, header, pattern, text32};
use crate::server::{MIB, TestServer};

/// A generator that needs no crate: xorshift.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    fn command(&mut self) -> CommandHeader {
        use CommandType::{BlockStatus, Cache, Flush, Read, Trim, Write, WriteZeroes};
        let kinds = [
            Read,
            Read,
            Read,
            Write,
            Write,
            Trim,
            WriteZeroes,
            Cache,
            Flush,
            BlockStatus,
        ];
        let kind = kinds[usize::try_from(self.below(10)).unwrap()];
        let lens = [512, 4096, 65536, 65536 + 512, 300 << 10, MIB, 2 * MIB, 4 * MIB];
        let len = lens[usize::try_from(self.below(8)).unwrap()];
        match kind {
            Flush => header(kind, 1, 0, 0),
            _ => header(kind, 1, self.below(8) << 19, len),
        }
    }

    /// Says some things, hears some of what it is told, and goes.
    fn visit(&mut self, client: &mut Client) -> std::io::Result<()> {
        let zeros = vec![self.below(256).to_le_bytes()[0]; 4 << 20];
        for _ in 0..self.below(12) {
            let command = self.command();
            client.stream.write_all(&command.emit())?;
            let payload = &zeros[..command.payload_len() as usize];
            let said = match self.below(8) {
                0 => &payload[..payload.len() / 2],
                _ => payload,
            };
            client.stream.write_all(said)?;
            if said.len() < payload.len() {
                break;
            }
        }
        let heard = self.below(3) * self.below(3 << 20);
        (&mut client.stream).take(heard).read_to_end(&mut Vec::new())?;
        Ok(())
    }
}

#[test]
fn clients_that_do_anything_and_go_leave_all_of_the_memory_behind() {
    let soon = Some(Duration::from_millis(20));
    let server = TestServer::with(MemDevice::new("disk", 8 << 20), |config| {
        config.queue.arena_bytes = 3 << 20;
        config.depth = 3;
        // However late the server hears that they went.
        config.limits.connections = 8 * 60 + 1;
        config.limits.in_flight = 5;
        config.limits.stall_timeout = Duration::from_millis(50);
    });
    let visitor = |seed: u64| {
        let mut dice = Dice(seed);
        let server = &server;
        move || {
            for _ in 0..60 {
                let mut client = match dice.below(2) {
                    0 => server.client(),
                    _ => server.structured_client(),
                };
                client.set_patience(soon);
                if dice.below(8) == 0 {
                    server.device.hold();
                }
                // It may be dropped, or lose its patience.
                let _any_end = dice.visit(&mut client);
                server.device.release();
            }
        }
    };
    thread::scope(|scope| {
        for seed in 1..9 {
            scope.spawn(visitor(seed * 7919));
        }
    });
    let mut client = server.client();
    let bytes = pattern(2 * MIB, 3);
    client.write(0, &bytes);
    assert!(client.read(0, 2 * MIB) == bytes, "the largest payload finds room");
    server.stop();
}

/// A manager that holds what comes for a millisecond or for ever: reads, writes, or nothing.
fn some_manager(turn: u64) -> Arc<CountingManager> {
    let wait = Duration::from_millis([1, 3_600_000][usize::try_from(turn / 4 % 2).unwrap()]);
    CountingManager::with_policy(&format!("m{turn}"), move |ask| match (turn % 4, ask.head.class) {
        (0, Class::Read) | (1, Class::Write) if ask.now.as_nanos() % 3 != 0 => Verdict::No(Wait::Until(ask.now + wait)),
        _ => Verdict::Go,
    })
}

/// Asks for an export and then for anything, until it has had enough or is dropped.
fn visit_some_export(dice: &mut Dice, server: &TestServer, names: &[&str]) -> std::io::Result<()> {
    let mut client = server.raw_client();
    client.set_patience(Some(Duration::from_millis(5)));
    let name = names[usize::try_from(dice.below(names.len() as u64)).unwrap()];
    let data = [&text32(name)[..], &[0, 0]].concat();
    let (option, len) = (OptionCode::Go as u32, u32::try_from(data.len()).unwrap());
    let option = OptionHeader { option, len }.emit();
    client
        .stream
        .write_all(&[&3u32.to_be_bytes(), &option[..], &data].concat())?;
    // The greeting, two pieces of information, and the acknowledgement; less if there is no such export.
    (&mut client.stream)
        .take(18 + 32 + 34 + 20)
        .read_to_end(&mut Vec::new())?;
    dice.visit(&mut client)
}

/// Attaches a device and detaches it again and again; it holds requests now and then.
fn come_and_go(dice: &mut Dice, server: &TestServer, name: &str) {
    let running = server.server.as_ref().unwrap();
    for _ in 0..100 {
        let device = Arc::new(MemDevice::new(name, 8 << 20));
        let export = Export {
            name: name.to_owned(),
            description: String::new(),
            device: device.clone(),
            managed: server.registry.attach(name).unwrap(),
        };
        running.attach(export).unwrap();
        thread::park_timeout(Duration::from_millis(dice.below(10)));
        if dice.below(32) == 0 {
            device.hold();
        }
        match running.detach(name, Duration::from_millis(dice.below(20))) {
            Ok(()) => {}
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Busy);
                device.release();
                running.detach(name, Duration::from_secs(60)).unwrap();
            }
        }
        assert_eq!((device.open_queues(), Arc::strong_count(&device)), (0, 1));
    }
}

#[test]
fn exports_managers_and_clients_that_come_and_go_at_any_moment_leave_nothing() {
    const NAMES: [&str; 4] = ["disk", "x", "y", ""];
    let server = TestServer::with(MemDevice::new("disk", 8 << 20), |config| {
        config.queue.arena_bytes = 3 << 20;
        config.depth = 3;
        config.threads = 2;
        config.spare_exports = 2;
        config.limits.connections = 1000;
        config.limits.in_flight = 5;
        config.limits.stall_timeout = Duration::from_millis(50);
    });
    let (over, mut managers) = (AtomicBool::new(false), Vec::new());
    thread::scope(|scope| {
        let (server, over) = (&server, &over);
        for seed in 1..9 {
            scope.spawn(move || {
                let mut dice = Dice(seed * 104_729);
                while !over.load(Ordering::Relaxed) {
                    // It may be refused, dropped, or lose its patience.
                    let _any_end = visit_some_export(&mut dice, server, &NAMES);
                }
            });
        }
        let movers = ["x", "y"]
            .map(|name| scope.spawn(move || come_and_go(&mut Dice(u64::from(name.as_bytes()[0])), server, name)));
        while !movers.iter().all(thread::ScopedJoinHandle::is_finished) {
            let manager = some_manager(managers.len() as u64);
            server.registry.replace(manager.clone()).unwrap();
            managers.push(manager);
            thread::park_timeout(Duration::from_millis(3));
        }
        over.store(true, Ordering::Relaxed);
        movers.into_iter().for_each(|mover| mover.join().unwrap());
    });
    server.registry.replace(CountingManager::new("free")).unwrap();
    let mut client = server.client();
    let bytes = pattern(2 * MIB, 3);
    client.write(0, &bytes);
    assert!(client.read(0, 2 * MIB) == bytes, "the largest payload finds room");
    let counters = server.registry.counters();
    assert!(counters.pending() == 0 && counters.frees > 200, "{counters:?}");
    server.stop();
    managers.iter().for_each(|manager| manager.assert_quiet());
}
