//! Group `full`: storage that runs out, storage that fails.

use std::fs;
use std::os::unix::fs::FileExt;

use iomgr_tests::nbd::{ENOSPC, FUA};
use iomgr_tests::{Client, Mount, NbdFuse, Nbdkit, Server, TempDir, Tool, fuse, need, pattern};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

const MIB: u64 = 1 << 20;
const STEP: usize = 64 * 1024;

#[test]
fn full_disk_below_a_dynamic_vhd_is_enospc_and_no_more() {
    goes_on_after_enospc("disk.vhd");
}

#[test]
fn full_disk_below_a_sparse_raw_file_is_enospc_and_no_more() {
    goes_on_after_enospc("disk.raw");
}

/// A file system of 8 MiB fills up below a disk of 64 MiB; the same server goes on when it is made larger.
fn goes_on_after_enospc(name: &str) {
    if !need::root() {
        return;
    }
    let dir = TempDir::new();
    let small = Mount::tmpfs(&dir.join("small"), "8M");
    let image = small.join(name);
    Tool::iomgr().arg("create").arg(&image).args(["--size", "64M"]).run();
    let expected = fs::File::create_new(dir.join("expected")).unwrap();
    expected.set_len(64 * MIB).unwrap();
    let server = Server::start::<&str>(&dir.join("run"), &image, &[]);
    let mut client = Client::connect(&server).unwrap();

    let (full_at, error) = write_from(&mut client, &expected, 0, 64 * MIB).expect_err("64 MiB do not fit into 8 MiB");
    assert_eq!(error, ENOSPC, "{}", server.stderr());
    assert!(full_at >= 2 * MIB, "full after {full_at} bytes");
    assert_reads(&mut client, &expected, full_at);
    assert!(client.flush().unwrap().is_ok(), "what was acknowledged can be flushed");

    small.resize("100M");
    write_from(&mut client, &expected, full_at, 64 * MIB).expect("there is room now");
    client.flush().unwrap().unwrap();
    assert_reads(&mut client, &expected, 64 * MIB);
    client.disconnect().unwrap();
    server.stop();
    if name.ends_with(".vhd") {
        Tool::iomgr().arg("check").arg(&image).run();
    }
    if need::tools(&["qemu-img"]) {
        let format = if name.ends_with(".vhd") { "vpc" } else { "raw" };
        let compare = Tool::new("qemu-img").args(["compare", "-f", "raw", "-F", format]);
        compare.arg(dir.join("expected")).arg(&image).run();
    }
}

/// A limit on the size of files (`ulimit -f`) is an error of the write that meets it, not the server's end.
#[test]
fn full_a_file_at_its_size_limit_fails_the_write_alone() {
    let dir = TempDir::new();
    let image = dir.join("disk.raw");
    fs::File::create_new(&image).unwrap().set_len(64 * MIB).unwrap();
    let server = Server::start::<&str>(&dir.join("run"), &image, &[]);
    let limit = Rlimit {
        current: Some(4 * MIB),
        maximum: Some(4 * MIB),
    };
    prlimit(Pid::from_raw(server.pid().cast_signed()), Resource::Fsize, limit).unwrap();
    let mut client = Client::connect(&server).unwrap();
    assert_eq!(client.write(0, 8 * MIB, &[1; STEP]).unwrap(), Err(ENOSPC));
    assert_eq!(client.write(0, MIB, &[2; STEP]).unwrap(), Ok(()));
    assert_eq!(client.bytes(MIB, STEP), [2; STEP]);
    client.disconnect().unwrap();
    server.stop();
}

/// Writes stamped steps to the disk and to the expected file; stops at the first error and says where.
fn write_from(client: &mut Client, expected: &fs::File, from: u64, to: u64) -> Result<(), (u64, u32)> {
    let mut bytes = vec![0; STEP];
    for offset in (from..to).step_by(STEP) {
        pattern::stamp(&mut bytes, offset / 512, 1);
        client
            .write(0, offset, &bytes)
            .unwrap()
            .map_err(|error| (offset, error))?;
        expected.write_all_at(&bytes, offset).unwrap();
    }
    Ok(())
}

fn assert_reads(client: &mut Client, expected: &fs::File, to: u64) {
    let mut bytes = vec![0; STEP];
    for offset in (0..to).step_by(STEP) {
        expected.read_exact_at(&mut bytes, offset).unwrap();
        pattern::assert_same(&client.bytes(offset, STEP), &bytes);
    }
}

/// A failed flush is never retried into success (ARCHITECTURE.md, Durability 5): the kernel marks the pages clean, so a
/// later success would say nothing of the lost ones.
#[test]
fn full_failed_flush_stays_failed() {
    if !need::fuse() || !need::tools(&["nbdkit"]) {
        return;
    }
    if !fuse::nbdkit_has("eval") {
        return need::skip("nbdkit has no plugin eval");
    }
    let dir = TempDir::new();
    let trip = dir.join("trip");
    let nbdkit = Nbdkit::failing_flush(&dir.join("nbdkit.sock"), &dir.join("store"), &trip, 4 * MIB);
    let backing = NbdFuse::mount(&nbdkit.uri(), &dir.join("backing"));
    let server = Server::start(&dir.join("run"), backing.path(), &["--format", "raw", "--name", "disk"]);
    let mut client = Client::connect(&server).unwrap();
    client.write(0, 0, &[1; 4096]).unwrap().unwrap();
    client.flush().unwrap().unwrap();

    client.write(0, 4096, &[2; 4096]).unwrap().unwrap();
    fs::write(&trip, "").unwrap();
    assert!(client.flush().unwrap().is_err(), "the file's fsync fails");
    fs::remove_file(&trip).unwrap();
    assert!(client.flush().unwrap().is_err(), "a second flush must not succeed");
    assert!(
        client.write(FUA, 8192, &[3; 4096]).unwrap().is_err(),
        "nor a write that promises durability"
    );
    pattern::assert_same(&client.bytes(0, 4096), &[1; 4096]);
    client.disconnect().unwrap();
    drop(server);

    // A new server starts afresh: what it reads is what the storage kept.
    let server = Server::start(&dir.join("run"), backing.path(), &["--format", "raw", "--name", "disk"]);
    let mut client = Client::connect(&server).unwrap();
    client.write(FUA, 8192, &[4; 4096]).unwrap().unwrap();
    client.flush().unwrap().unwrap();
    client.disconnect().unwrap();
    server.stop();
    backing.unmount();
}
