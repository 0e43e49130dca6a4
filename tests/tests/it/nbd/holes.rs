//! Holes: a copy has them where its source had, and block status tells exactly the image's map.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use iomgr_tests::nbd::{Command, Span};
use iomgr_tests::{Client, TempDir, Tool, need};
use serde_json::Value;

use crate::clients::nbdcopy;
use crate::disk::{Disk, Kind};

const MIB: u64 = 1 << 20;
const SIZE_BYTES: u64 = 64 * MIB;
/// Holes of a file in memory are whole pages.
const PAGE: u64 = 4096;

/// A run of a disk: where it begins, its length, is it a hole, does it read as zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    start: u64,
    len: u64,
    hole: bool,
    zero: bool,
}

/// Joins neighbours of one kind: where a client asked twice, it shows two.
fn joined(runs: impl Iterator<Item = Run>) -> Vec<Run> {
    let mut joined: Vec<Run> = Vec::new();
    for run in runs {
        match joined.last_mut() {
            Some(last) if (last.hole, last.zero) == (run.hole, run.zero) => last.len += run.len,
            _ => joined.push(run),
        }
    }
    joined
}

/// Block status, as `nbdinfo --map` shows it.
fn status(uri: &str) -> Vec<Run> {
    let map = Tool::new("nbdinfo").args(["--map", "--json", uri]).json();
    let number = |entry: &Value, key: &str| entry[key].as_u64().unwrap();
    let runs = map.as_array().unwrap().iter().map(|entry| Run {
        start: number(entry, "offset"),
        len: number(entry, "length"),
        hole: number(entry, "type") & 1 != 0,
        zero: number(entry, "type") & 2 != 0,
    });
    joined(runs)
}

/// A map with the words of `qemu-img map`, as ours has them too.
fn map(tool: Tool) -> Vec<Run> {
    let map = tool.json();
    let runs = map.as_array().unwrap().iter().map(|entry| Run {
        start: entry["start"].as_u64().unwrap(),
        len: entry["length"].as_u64().unwrap(),
        hole: entry["data"] == false,
        zero: entry["zero"] == true,
    });
    joined(runs)
}

fn qemu_map(format: &str, image: &Path) -> Vec<Run> {
    map(Tool::new("qemu-img")
        .args(["map", "-f", format, "--output=json"])
        .arg(image))
}

fn our_map(image: &Path) -> Vec<Run> {
    map(Tool::iomgr().arg("map").arg(image).arg("--json"))
}

/// Panics with the first run that differs; whole maps would fill pages.
#[track_caller]
fn assert_same<T: PartialEq + std::fmt::Debug>(found: &[T], expected: &[T], what: &str) {
    let differs = found
        .iter()
        .zip(expected)
        .position(|(found, expected)| found != expected);
    if let Some(at) = differs {
        panic!("{what}: run {at} is {:?}, expected {:?}", found[at], expected[at]);
    }
    assert_eq!(found.len(), expected.len(), "{what}: the number of runs");
}

/// Random bytes in some pages of a sparse file. Its first page is there: `qemu-img` makes that of every file that it makes.
fn scattered(dir: &TempDir, name: &str, seed: u64) -> PathBuf {
    let path = dir.join(name);
    let file = File::create(&path).unwrap();
    file.set_len(SIZE_BYTES).unwrap();
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; 64 << 10];
    file.write_all_at(&[1; 4096], 0).unwrap();
    for _ in 0..40 {
        let len = random.u64(1..=16) * PAGE;
        let at = random.u64(0..(SIZE_BYTES - len) / PAGE) * PAGE;
        random.fill(&mut bytes);
        file.write_all_at(&bytes[..usize::try_from(len).unwrap()], at).unwrap();
    }
    path
}

fn allocated(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

/// By what a file goes into a served disk, and a served disk into a file.
type Copier = fn(&Path, &Path);

fn by_nbdcopy(from: &Path, to: &Path) {
    nbdcopy(from.as_os_str(), to.as_os_str());
}

fn by_qemu_img(from: &Path, to: &Path) {
    let convert = Tool::new("qemu-img").args(["convert", "-f", "raw", "-O", "raw", "-W", "-m", "8"]);
    // A served disk is there already; a file is made.
    let convert = if to.starts_with("nbd+unix:") {
        convert.arg("-n")
    } else {
        convert
    };
    convert.arg(from).arg(to).run();
}

fn survive(kind: Kind, copy: Copier) {
    if !need::tools(&["nbdcopy", "nbdinfo", "qemu-img"]) {
        return;
    }
    let disk = Disk::new(kind, SIZE_BYTES);
    let (source, back) = (scattered(&disk.dir, "source", 3), disk.dir.join("back"));
    let server = disk.serve(&[]);
    copy(&source, server.uri().as_ref());
    copy(server.uri().as_ref(), &back);
    let seen = status(server.uri());
    server.stop();
    Tool::new("cmp").arg(&source).arg(&back).run();
    let expected = qemu_map("raw", &source);
    assert_eq!(
        qemu_map("raw", &back),
        expected,
        "the copy of the copy has the source's holes"
    );
    assert_eq!(allocated(&back), allocated(&source));
    if kind == Kind::Raw {
        assert_same(&seen, &expected, "block status of the copy");
        assert_eq!(allocated(disk.image()), allocated(&source));
    } else {
        let what = "a block of the VHD is there if the source has bytes in it";
        assert_same(&holes(&seen), &holes(&blocks(&expected)), what);
    }
    disk.holds(&source);
}

/// The runs as an image of 2 MiB blocks must have them: data where there is some in the block.
fn blocks(runs: &[Run]) -> Vec<Run> {
    let block = 2 * MIB;
    let is_hole = |at: u64| {
        let inside = |run: &&Run| run.start < at + block && at < run.start + run.len;
        runs.iter().filter(inside).all(|run| run.hole)
    };
    let starts = (0..SIZE_BYTES / block).map(|number| number * block);
    joined(starts.map(|start| Run {
        start,
        len: block,
        hole: is_hole(start),
        zero: is_hole(start),
    }))
}

fn holes(runs: &[Run]) -> Vec<(u64, u64)> {
    runs.iter()
        .filter(|run| run.hole)
        .map(|run| (run.start, run.len))
        .collect()
}

#[test]
fn nbd_holes_survive_nbdcopy_into_a_raw_file_and_back() {
    survive(Kind::Raw, by_nbdcopy);
}

#[test]
fn nbd_holes_survive_nbdcopy_into_a_vhd_and_back() {
    survive(Kind::DynamicVhd, by_nbdcopy);
}

#[test]
fn nbd_holes_survive_qemu_img_into_a_raw_file_and_back() {
    survive(Kind::Raw, by_qemu_img);
}

#[test]
fn nbd_holes_survive_qemu_img_into_a_vhd_and_back() {
    survive(Kind::DynamicVhd, by_qemu_img);
}

#[test]
fn nbd_block_status_is_the_map_of_raw_files() {
    if !need::tools(&["nbdinfo", "qemu-img"]) {
        return;
    }
    for seed in 0..8 {
        let disk = Disk::new(Kind::Raw, SIZE_BYTES);
        let server = changed_at_random(&disk, seed);
        let seen = status(server.uri());
        server.stop();
        let map = qemu_map("raw", disk.image());
        assert_same(&seen, &map, &format!("QEMU's map, seed {seed}"));
        assert_same(&seen, &our_map(disk.image()), &format!("our map, seed {seed}"));
    }
}

#[test]
fn nbd_block_status_is_the_map_of_vhds() {
    if !need::tools(&["nbdinfo", "qemu-img"]) {
        return;
    }
    for seed in 0..10 {
        let kind = if seed < 8 { Kind::DynamicVhd } else { Kind::FixedVhd };
        let disk = Disk::new(kind, SIZE_BYTES);
        let server = changed_at_random(&disk, seed);
        let seen = status(server.uri());
        server.stop();
        assert_same(
            &seen,
            &our_map(disk.image()),
            &format!("our map of a {kind:?}, seed {seed}"),
        );
        if kind == Kind::DynamicVhd {
            let map = qemu_map("vpc", disk.image());
            assert_same(&holes(&seen), &holes(&map), &format!("QEMU's map, seed {seed}"));
        }
        zeros_are_zeros(&disk, &seen);
    }
}

/// Writes, trims and zeros at random places of a served disk; the server goes on.
fn changed_at_random(disk: &Disk, seed: u64) -> iomgr_tests::Server {
    let server = disk.serve(&[]);
    let mut client = Client::connect(&server).unwrap();
    let mut random = fastrand::Rng::with_seed(seed);
    let bytes = vec![0xa5; 256 << 10];
    for _ in 0..60 {
        let len = random.u64(1..=64) * PAGE;
        let offset = random.u64(0..(SIZE_BYTES - len) / PAGE) * PAGE;
        let span = |times: u64| Span {
            offset,
            len: u32::try_from((len * times).min(SIZE_BYTES - offset)).unwrap(),
        };
        match random.u8(0..8) {
            0 => client.simple(Command::Trim, 0, span(20)).unwrap().unwrap(),
            1 => client.simple(Command::WriteZeroes, 0, span(20)).unwrap().unwrap(),
            _ => client
                .write(0, offset, &bytes[..usize::try_from(len).unwrap()])
                .unwrap()
                .unwrap(),
        }
    }
    client.flush().unwrap().unwrap();
    client.disconnect().unwrap();
    server
}

/// What was called zero is zero, by QEMU's reading of the closed image.
fn zeros_are_zeros(disk: &Disk, runs: &[Run]) {
    let raw = disk.dir.join("raw");
    Tool::new("qemu-img")
        .args(["convert", "-f", "vpc", "-O", "raw"])
        .arg(disk.image())
        .arg(&raw)
        .run();
    let bytes = fs::read(&raw).unwrap();
    for run in runs.iter().filter(|run| run.zero) {
        let range = usize::try_from(run.start).unwrap()..usize::try_from(run.start + run.len).unwrap();
        assert!(bytes[range].iter().all(|&byte| byte == 0), "{run:?} is not zero");
    }
}
