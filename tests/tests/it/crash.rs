//! Group `crash`: servers that die in the middle of things.

use std::time::Duration;

use iomgr_tests::server::{Outcome, Starting};
use iomgr_tests::{Blkio, Client, Loop, Server, TempDir, Tool, need, pattern, wait};

use crate::disk::{Disk, Kind, soak};
use crate::history::History;

const MIB: u64 = 1 << 20;

/// After process death nothing acknowledged is lost (ARCHITECTURE.md, Durability 2): a client writes into ever new
/// blocks, the server is killed after a random number of acknowledgements, and another takes over.
#[test]
fn crash_sigkill_during_allocating_writes_loses_nothing() {
    let rounds = if soak() { 50 } else { 15 };
    let disk = Disk::new(Kind::DynamicVhd, 8192 * MIB);
    let mut random = fastrand::Rng::with_seed(4);
    let mut history = History::default();
    for round in 0..rounds {
        let cache = if round % 2 == 0 { "writeback" } else { "none" };
        let queues = if round % 3 == 0 { "1" } else { "2" };
        let server = disk.serve(&["--cache", cache, "--queues", queues, "--lock-timeout", "60"]);
        check(&server, &mut history);
        write_until_killed(server, &mut history, &mut random, round);
        disk.is_valid();
        if need::tools(&["qemu-img"]) {
            assert_eq!(disk.qemu_info()["virtual-size"], 8192 * MIB);
        }
    }
    let server = disk.serve(&[]);
    check(&server, &mut history);
    assert!(
        history.len() > 100,
        "hardly anything was written: {} sectors",
        history.len()
    );
    server.stop();
    others_agree(&disk);
}

/// Keeps 16 writes in flight, none of them over another; kills the server and takes what it still answered.
fn write_until_killed(server: Server, history: &mut History, random: &mut fastrand::Rng, round: u64) {
    let mut client = Client::connect(&server).unwrap();
    let mut kill_after = random.u32(1..=300);
    let mut bytes = vec![0; 32 * 512];
    loop {
        while history.in_flight() < 16 && kill_after > 0 {
            let sectors = random.u64(1..=32);
            let first = random.u64(0..client.size_bytes() / 512 - sectors);
            if history.overlaps_in_flight(first, sectors) {
                continue;
            }
            let write = history.next_write();
            let bytes = &mut bytes[..usize::try_from(sectors).unwrap() * 512];
            pattern::stamp(bytes, first, write);
            let flags = if write % 13 == round % 13 {
                iomgr_tests::nbd::FUA
            } else {
                0
            };
            match client.send_write(flags, first * 512, bytes) {
                Ok(cookie) => history.sent(cookie, write, first, sectors),
                Err(error) => panic!("the server went by itself: {error}\n{}", server.stderr()),
            }
        }
        let Ok((cookie, result)) = client.receive() else { break };
        result.unwrap_or_else(|error| panic!("write failed with NBD error {error}: {}", server.stderr()));
        history.acknowledged(cookie);
        kill_after = kill_after.saturating_sub(1);
        if kill_after == 0 {
            server.kill_only();
        }
    }
    server.kill();
}

/// Reads every sector ever written: each holds its last acknowledged write, or one that was in flight.
fn check(server: &Server, history: &mut History) {
    let mut client = Client::connect(server).unwrap();
    for (first, sectors) in history.runs() {
        let bytes = client.bytes(first * 512, usize::try_from(sectors * 512).unwrap());
        for (sector, bytes) in (first..).zip(bytes.chunks_exact(512)) {
            history.found(sector, pattern::written_by(bytes, sector).unwrap());
        }
    }
    history.settle();
    client.disconnect().unwrap();
}

/// The closed image, read by us and by QEMU, is one and the same disk.
fn others_agree(disk: &Disk) {
    disk.is_valid();
    if need::tools(&["qemu-img"]) {
        let raw = disk.dir.join("converted.raw");
        Tool::iomgr().arg("convert").arg(disk.image()).arg(&raw).run();
        disk.holds(&raw);
    }
}

#[test]
fn crash_second_server_is_refused_and_told_why() {
    for kind in [Kind::Raw, Kind::DynamicVhd] {
        let disk = Disk::new(kind, 16 * MIB);
        let first = disk.serve(&[]);
        match Starting::new(&disk.dir.join("run2"), disk.image(), &["--name", "second"]).wait(wait::PATIENCE) {
            Outcome::Ended(ended) => {
                assert_eq!(ended.code, Some(1), "{ended:#?}");
                assert!(speaks_of_the_lock(&ended.stderr), "{ended:#?}");
            }
            other => panic!("two servers on one image: {other:?}"),
        }
        let mut client = Client::connect(&first).unwrap();
        client.write(0, 0, &[1; 512]).unwrap().unwrap();
        first.stop();
        disk.serve(&[]).stop();
    }
}

fn speaks_of_the_lock(text: &str) -> bool {
    ["lock", "in use", "used by", "busy"]
        .iter()
        .any(|word| text.contains(word))
}

/// The lock is the fence after a crash (Durability 6): while a write of the killed server may still land, nobody else
/// gets the disk; afterwards no write of the dead comes over one of the living.
#[test]
fn crash_lock_waits_for_the_dead_servers_writes() {
    if !need::blkio() {
        return;
    }
    let dir = TempDir::new();
    let file = dir.join("disk");
    std::fs::File::create(&file).unwrap().set_len(16 * MIB).unwrap();
    let device = Loop::attach(&file);
    let serve = |name| Starting::new(&dir.join(name), device.path(), &["--format", "raw", "--cache", "none"]);
    let Outcome::Ready(first) = serve("run1").wait(wait::PATIENCE) else {
        panic!("the first server does not start")
    };
    let throttle = Blkio::new(&device);
    throttle.add(first.pid());
    throttle.stall();
    let offsets = [0, MIB, 2 * MIB, 3 * MIB];
    let mut client = Client::connect(&first).unwrap();
    for offset in offsets {
        client.send_write(0, offset, &stamped(offset, 1)).unwrap();
    }
    // One connection's requests are taken in order: an answered read means that the writes are with the kernel.
    client.bytes(8 * MIB, 4096);
    first.kill_only();

    let second = match serve("run2").wait(Duration::from_secs(3)) {
        Outcome::Ready(_) => panic!("the lock was granted while writes were in flight"),
        Outcome::Pending(waiting) => {
            throttle.lift();
            waiting.wait(wait::PATIENCE)
        }
        Outcome::Ended(ended) => {
            assert!(speaks_of_the_lock(&ended.stderr), "{ended:#?}");
            throttle.lift();
            serve("run3").wait(wait::PATIENCE)
        }
    };
    let Outcome::Ready(second) = second else {
        panic!("the lock is not granted after the last write: {second:?}")
    };
    first.kill();
    assert_nothing_lands_later(&second, &offsets);
    second.stop();
}

fn stamped(offset: u64, write: u64) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    pattern::stamp(&mut bytes, offset / 512, write);
    bytes
}

/// What was in flight is there (it was with the kernel), and what is written now stays.
fn assert_nothing_lands_later(server: &Server, offsets: &[u64]) {
    let mut client = Client::connect(server).unwrap();
    for &offset in offsets {
        pattern::assert_same(&client.bytes(offset, 4096), &stamped(offset, 1));
        client.write(0, offset, &stamped(offset, 2)).unwrap().unwrap();
    }
    client.flush().unwrap().unwrap();
    for &offset in offsets {
        pattern::assert_same(&client.bytes(offset, 4096), &stamped(offset, 2));
    }
    client.disconnect().unwrap();
}
