//! Real NBD clients on every kind of image: what they wrote is what they read, and what others find after closing.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use iomgr_tests::{TempDir, Tool, need};

use crate::disk::{Disk, Kind, soak};

const MIB: u64 = 1 << 20;
/// The size of a disk that the clients work on.
pub(crate) const SIZE_BYTES: u64 = 64 * MIB;

/// Commands of `qemu-io` that leave the same bytes on every disk: odd sizes, both sides of a VHD block's edge, FUA,
/// zeros with and without unmapping. What a discard leaves is up to the disk, so it is written over.
const PATTERNS: &[&str] = &[
    "write -P 0x11 0 4k",
    "write -P 0x22 512 512",
    "write -P 0x33 1M 1536",
    "write -P 0x44 2096640 1024",
    "write -f -P 0x55 5M 64k",
    "write -z 1049088 1024",
    "write -z -u 6M 3M",
    "write -P 0x66 7340032 512",
    "discard 10M 4M",
    "write -z 10M 4M",
    "discard 20M 100k",
    "write -P 0x77 20M 100k",
    "write -P 0x88 67108352 512",
    "flush",
];

/// Runs all of it on one kind of image.
pub(crate) fn agree_on(kind: Kind) {
    if !need::tools(TOOLS) {
        return;
    }
    let disk = Disk::new(kind, SIZE_BYTES);
    let server = disk.serve(&[]);
    let expected = exercise(server.uri(), &disk.dir);
    server.stop();
    disk.holds(&expected);
}

/// The programs that [`exercise`] starts.
pub(crate) const TOOLS: &[&str] = &["nbdcopy", "nbdinfo", "qemu-io", "qemu-img", "fio"];

/// Runs all clients on a served, empty disk of [`SIZE_BYTES`]; returns a raw file with what it holds in the end.
pub(crate) fn exercise(uri: &str, dir: &TempDir) -> PathBuf {
    let (expected, read_back) = (dir.join("expected"), dir.join("read-back"));
    scatter(&expected);
    let size = Tool::new("nbdinfo").args(["--size", uri]).run();
    assert_eq!(size.trim(), SIZE_BYTES.to_string());

    nbdcopy(expected.as_os_str(), uri.as_ref());
    qemu_io(uri.as_ref());
    qemu_io(&expected);
    nbdcopy(uri.as_ref(), read_back.as_os_str());
    Tool::new("cmp").arg(&expected).arg(&read_back).run();

    fio_verify(uri);
    fs::remove_file(&expected).unwrap();
    nbdcopy(uri.as_ref(), expected.as_os_str());
    expected
}

/// Random bytes in some places of a sparse file, at odd sectors and sizes.
fn scatter(path: &Path) {
    let file = File::create(path).unwrap();
    file.set_len(SIZE_BYTES).unwrap();
    let mut random = fastrand::Rng::with_seed(2);
    let mut bytes = vec![0; 300 * 512];
    for _ in 0..60 {
        let len = random.usize(1..300) * 512;
        random.fill(&mut bytes[..len]);
        let sector = random.u64(0..(SIZE_BYTES - len as u64) / 512);
        file.write_all_at(&bytes[..len], sector * 512).unwrap();
    }
}

/// Four connections, many requests in flight on each.
pub(crate) fn nbdcopy(from: &std::ffi::OsStr, to: &std::ffi::OsStr) {
    let args = ["--connections=4", "--threads=4", "--requests=64", "--flush"];
    Tool::new("nbdcopy").args(args).arg(from).arg(to).run();
}

pub(crate) fn qemu_io(target: &Path) {
    let commands = PATTERNS.iter().flat_map(|command| ["-c", command]);
    let ended = Tool::new("qemu-io")
        .args(["-f", "raw", "-d", "unmap"])
        .args(commands)
        .arg(target)
        .run_for_code(0);
    assert!(!ended.stdout.contains("failed"), "{}", ended.stdout);
}

/// Random writes of mixed sizes at depth 64 over 4 connections, each verified.
pub(crate) fn fio_verify(uri: &str) {
    let loops = if soak() { "20" } else { "1" };
    let fio = Tool::new("fio").args([
        "--name=verify",
        "--ioengine=nbd",
        "--rw=randwrite",
        "--iodepth=64",
        "--numjobs=4",
    ]);
    let fio = fio.args([
        "--bssplit=512/10:4k/40:16k/25:64k/25",
        "--size=16M",
        "--offset_increment=16M",
    ]);
    let fio = fio.args(["--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--loops", loops]);
    // Else fio leaves files in the folder that the tests run in.
    let fio = fio.arg("--verify_state_save=0");
    fio.args(["--output-format=terse"]).arg(format!("--uri={uri}")).run();
}
