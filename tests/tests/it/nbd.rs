//! Group `nbd`: real clients over NBD.

mod copies;
mod crowd;
mod habits;
mod holes;
mod pause;
mod views;

use iomgr_tests::nbd::{Command, EIO, FUA, Span};
use iomgr_tests::{Client, Tool, need, pattern};

use crate::clients;
use crate::disk::{Disk, Kind};

const MIB: u64 = 1 << 20;

#[test]
fn nbd_clients_agree_on_a_raw_file() {
    clients::agree_on(Kind::Raw);
}

#[test]
fn nbd_clients_agree_on_a_fixed_vhd() {
    clients::agree_on(Kind::FixedVhd);
}

#[test]
fn nbd_clients_agree_on_a_dynamic_vhd() {
    clients::agree_on(Kind::DynamicVhd);
}

/// A client that reads the export's flags sees what the server can do.
#[test]
fn nbd_export_says_what_it_can_do() {
    if !need::tools(&["nbdinfo"]) {
        return;
    }
    let disk = Disk::new(Kind::DynamicVhd, 16 * MIB);
    let server = disk.serve(&[]);
    let info = Tool::new("nbdinfo").args(["--json", server.uri()]).json();
    let export = &info["exports"][0];
    for can in ["can_flush", "can_fua", "can_trim", "can_zero", "can_multi_conn"] {
        assert_eq!(export[can], true, "{can} in {info}");
    }
    assert_eq!(export["is_read_only"], false);
    assert_eq!(export["export-size"], 16 * MIB);
    assert_eq!(export["block_size_minimum"], 512);
    server.stop();
}

#[test]
fn nbd_read_only_export_refuses_writes() {
    let disk = Disk::new(Kind::DynamicVhd, 16 * MIB);
    let before = std::fs::read(disk.image()).unwrap();
    let server = disk.serve(&["--read-only"]);
    let mut client = Client::connect(&server).unwrap();
    assert!(client.write(0, 0, &[1; 512]).unwrap().is_err());
    assert!(
        client
            .simple(Command::Trim, 0, Span { offset: 0, len: 4096 })
            .unwrap()
            .is_err()
    );
    assert!(
        client
            .simple(Command::WriteZeroes, 0, Span { offset: 0, len: 4096 })
            .unwrap()
            .is_err()
    );
    pattern::assert_same(&client.bytes(0, 512), &[0; 512]);
    server.stop();
    assert!(
        std::fs::read(disk.image()).unwrap() == before,
        "a read-only server changed the image"
    );
}

#[test]
fn nbd_requests_beyond_the_end_fail_alone() {
    let disk = Disk::new(Kind::DynamicVhd, 16 * MIB);
    let server = disk.serve(&[]);
    let mut client = Client::connect(&server).unwrap();
    assert_eq!(client.size_bytes(), 16 * MIB);
    let read = client
        .read(Span {
            offset: 16 * MIB - 512,
            len: 1024,
        })
        .unwrap();
    assert!(
        read.is_err_and(|error| error != EIO),
        "reading beyond the end is the client's mistake"
    );
    assert!(client.write(0, 16 * MIB, &[1; 512]).unwrap().is_err());
    assert!(client.write(0, u64::MAX - 511, &[1; 512]).unwrap().is_err());
    assert_eq!(client.write(FUA, 16 * MIB - 512, &[1; 512]).unwrap(), Ok(()));
    assert_eq!(
        client
            .read(Span {
                offset: 16 * MIB - 512,
                len: 512
            })
            .unwrap(),
        Ok(vec![1; 512])
    );
    server.stop();
}

/// Trimmed blocks of a dynamic image read as zeros and give their space back.
#[test]
fn nbd_trim_gives_blocks_back() {
    let disk = Disk::new(Kind::DynamicVhd, 64 * MIB);
    let server = disk.serve(&[]);
    let mut client = Client::connect(&server).unwrap();
    let mut bytes = vec![0; 1 << 20];
    for mib in 0..32 {
        pattern::stamp(&mut bytes, mib * MIB / 512, 1);
        client.write(0, mib * MIB, &bytes).unwrap().unwrap();
    }
    client.flush().unwrap().unwrap();
    let full = allocated(&disk);
    // Up to one sector before the end of a block: that block is not whole and must stay.
    let span = Span {
        offset: 0,
        len: 24 * (1 << 20) - 512,
    };
    client.simple(Command::Trim, 0, span).unwrap().unwrap();
    client.flush().unwrap().unwrap();
    assert_eq!(
        client
            .read(Span {
                offset: 3 * MIB,
                len: 4096
            })
            .unwrap(),
        Ok(vec![0; 4096])
    );
    let last = client
        .read(Span {
            offset: 24 * MIB - 512,
            len: 512,
        })
        .unwrap()
        .unwrap();
    assert_eq!(
        pattern::written_by(&last, 24 * MIB / 512 - 1),
        Ok(Some(1)),
        "trim reached a sector outside its range"
    );
    client.disconnect().unwrap();
    server.stop();
    disk.is_valid();
    assert!(
        allocated(&disk) + 20 * MIB < full,
        "22 MiB of whole blocks were trimmed, {full} before"
    );
}

/// What the image's file takes of its file system.
fn allocated(disk: &Disk) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(disk.image()).unwrap().blocks() * 512
}

/// Eight clients at once, each in its own part of the disk, on servers with one and with two threads.
#[test]
fn nbd_many_connections_keep_their_bytes() {
    for queues in ["1", "2"] {
        let disk = Disk::new(Kind::DynamicVhd, 64 * MIB);
        let server = disk.serve(&["--queues", queues]);
        std::thread::scope(|scope| {
            for part in 0..8 {
                let client = Client::connect(&server).unwrap();
                scope.spawn(move || write_and_read_part(client, part * 8 * MIB));
            }
        });
        server.stop();
        disk.is_clean();
    }
}

fn write_and_read_part(mut client: Client, start: u64) {
    let mut bytes = vec![0; 8192];
    let offsets: Vec<u64> = (0..64)
        .map(|step| start + step * 128 * 1024 + 512 * (step % 7))
        .collect();
    for &offset in &offsets {
        pattern::stamp(&mut bytes, offset / 512, 7);
        client.send_write(0, offset, &bytes).unwrap();
    }
    for _ in &offsets {
        client.receive().unwrap().1.unwrap();
    }
    client.flush().unwrap().unwrap();
    for &offset in &offsets {
        let read = client.bytes(offset, 8192);
        for (sector, bytes) in (offset / 512..).zip(read.chunks_exact(512)) {
            assert_eq!(pattern::written_by(bytes, sector), Ok(Some(7)));
        }
    }
    client.disconnect().unwrap();
}
