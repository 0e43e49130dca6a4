//! Group `tools`: convert, compare and map against QEMU's tools, on block devices and file systems that share blocks.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use iomgr_tests::{Loop, Mount, Process, TempDir, Tool, need, wait};
use rustix::process::Signal;
use serde_json::Value;

const MIB: u64 = 1 << 20;
const KIB: u64 = 1 << 10;

/// A raw image of `size` bytes with `runs` runs of noise of at most `run_max` bytes, and holes between.
fn raw_image(path: &Path, size: u64, runs: u32, run_max: u64, seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    for _ in 0..runs {
        let len = rng.u64(1..=run_max / 512) * 512;
        let at = rng.u64(..=(size - len.min(size)) / 512) * 512;
        let mut bytes = vec![0; usize::try_from(len.min(size)).unwrap()];
        rng.fill(&mut bytes);
        file.write_all_at(&bytes, at).unwrap();
    }
}

fn qemu_format(path: &Path) -> &'static str {
    match path.extension().is_some_and(|extension| extension == "vhd") {
        true => "vpc",
        false => "raw",
    }
}

fn qemu_compare(a: &Path, b: &Path) {
    let formats = ["-f", qemu_format(a), "-F", qemu_format(b)];
    Tool::new("qemu-img").arg("compare").args(formats).arg(a).arg(b).run();
}

fn qemu_convert(a: &Path, b: &Path) {
    let formats = ["-f", qemu_format(a), "-O", qemu_format(b)];
    let tool = Tool::new("qemu-img").arg("convert").args(formats);
    // Else QEMU rounds the size to a geometry.
    let exact = if qemu_format(b) == "vpc" {
        &["-o", "force_size=on"][..]
    } else {
        &[]
    };
    tool.args(exact).arg(a).arg(b).run();
}

fn iomgr(verb: &str, a: &Path, b: &Path, more: &[&str]) -> Tool {
    Tool::iomgr().arg(verb).arg(a).arg(b).args(more)
}

/// Runs of data as `(start, length)`, by either tool's map.
fn data_runs(map: &Value) -> Vec<(u64, u64)> {
    let number = |entry: &Value, key: &str| entry[key].as_u64().unwrap();
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for entry in map.as_array().unwrap().iter().filter(|entry| entry["zero"] == false) {
        let (start, length) = (number(entry, "start"), number(entry, "length"));
        match runs.last_mut() {
            Some(last) if last.0 + last.1 == start => last.1 += length,
            _ => runs.push((start, length)),
        }
    }
    runs
}

fn our_map(image: &Path) -> Value {
    Tool::iomgr().arg("map").arg(image).arg("--json").json()
}

fn qemu_map(image: &Path) -> Value {
    let args = ["map", "--output=json", "-f", qemu_format(image)];
    Tool::new("qemu-img").args(args).arg(image).json()
}

/// There and back again by each pair of tools; QEMU finds the same bytes, and holes stay holes.
#[test]
fn tools_images_go_through_qemu_and_back() {
    if !need::tools(&["qemu-img"]) {
        return;
    }
    let dir = TempDir::new();
    for seed in 0..4 {
        let source = dir.join("source.raw");
        raw_image(&source, 48 * MIB + seed * 512, 20, MIB, seed);
        for kind in ["raw", "vhd"] {
            let (ours, theirs, back) = (
                dir.join(format!("ours.{kind}")),
                dir.join(format!("theirs.{kind}")),
                dir.join("back.raw"),
            );
            iomgr("convert", &source, &ours, &["--force", "--verify"]).run();
            qemu_compare(&source, &ours);
            qemu_convert(&source, &theirs);
            iomgr("compare", &source, &theirs, &[]).run();
            iomgr("compare", &ours, &theirs, &[]).run();
            iomgr("convert", &theirs, &back, &["--force"]).run();
            qemu_compare(&source, &back);
            assert_eq!(
                data_runs(&our_map(&back)),
                data_runs(&our_map(&source)),
                "{kind}, seed {seed}: holes differ"
            );
            qemu_convert(&ours, &back);
            iomgr("compare", &source, &back, &["--strict"]).run();
        }
    }
}

/// QEMU's map and ours name the same runs of data, at the same places in the file.
#[test]
fn tools_maps_agree_with_qemu() {
    if !need::tools(&["qemu-img"]) {
        return;
    }
    let dir = TempDir::new();
    let places = |map: &Value| -> Vec<(u64, u64, Option<u64>)> {
        let entries = map.as_array().unwrap().iter();
        let word = |entry: &Value, key: &str| entry[key].as_u64();
        entries
            .filter(|entry| entry["zero"] == false)
            .map(|entry| {
                (
                    word(entry, "start").unwrap(),
                    word(entry, "length").unwrap(),
                    word(entry, "offset"),
                )
            })
            .collect()
    };
    for seed in 0..4 {
        let raw = dir.join("a.raw");
        raw_image(&raw, 32 * MIB, 12, 2 * MIB, seed);
        let [ours, theirs] = ["ours.vhd", "theirs.vhd"].map(|name| dir.join(name));
        iomgr("convert", &raw, &ours, &["--force"]).run();
        qemu_convert(&raw, &theirs);
        for image in [&raw, &ours, &theirs] {
            assert_eq!(
                places(&our_map(image)),
                places(&qemu_map(image)),
                "{image:?}, seed {seed}"
            );
        }
    }
}

/// Exit codes and words for equal, different, and what cannot be compared.
#[test]
fn tools_compare_tells_different_from_not_comparable() {
    let dir = TempDir::new();
    let [a, b, longer] = ["a.raw", "b.raw", "longer.raw"].map(|name| dir.join(name));
    raw_image(&a, 8 * MIB, 5, MIB, 1);
    for copy in [&b, &longer] {
        fs::copy(&a, copy).unwrap();
    }
    let file = File::options().read(true).write(true).open(&b).unwrap();
    File::options()
        .write(true)
        .open(&longer)
        .unwrap()
        .set_len(9 * MIB)
        .unwrap();
    assert!(iomgr("compare", &a, &b, &[]).run().contains("identical"));
    assert!(iomgr("compare", &a, &longer, &[]).run().contains("identical"));
    iomgr("compare", &a, &longer, &["--strict"]).run_for_code(1);
    let mut byte = [0];
    file.read_exact_at(&mut byte, 5 * MIB + 3).unwrap();
    file.write_all_at(&[!byte[0]], 5 * MIB + 3).unwrap();
    let found = iomgr("compare", &a, &b, &["--json"]).run_for_code(1).stdout;
    let found: Value = serde_json::from_str(&found).unwrap();
    assert_eq!(
        (&found["identical"], &found["difference"]["offset"]),
        (&false.into(), &(5 * MIB + 3).into())
    );
    iomgr("compare", &a, &dir.join("none.raw"), &[]).run_for_code(3);
    iomgr("compare", &a, &dir.join("no-format"), &[]).run_for_code(2);
}

/// A source, and where its copy, the part of it and the note of that are.
struct Resumed {
    dir: TempDir,
    source: PathBuf,
    target: PathBuf,
}

impl Resumed {
    fn new(extension: &str, mib: u64) -> Resumed {
        let dir = TempDir::new();
        let (source, target) = (dir.join("source.raw"), dir.join(format!("copy.{extension}")));
        raw_image(&source, mib * MIB, u32::try_from(mib).unwrap(), 2 * MIB, mib);
        Resumed { dir, source, target }
    }

    fn note(&self) -> PathBuf {
        let name = self.target.file_name().unwrap().to_string_lossy();
        self.dir.join(format!("{name}.iomgr-part.json"))
    }

    fn done_bytes(&self) -> u64 {
        let text = fs::read(self.note()).unwrap_or_default();
        let note: Value = serde_json::from_slice(&text).unwrap_or_default();
        note["done_bytes"].as_u64().unwrap_or(0)
    }

    /// Starts a run and kills it when the note has come to `at`; whether it was killed before its end.
    fn kill_at(&self, at: u64) -> bool {
        let tool = iomgr("convert", &self.source, &self.target, &["--resume"]);
        let process = Process::start(tool, Stdio::null(), Stdio::null());
        wait::until(|| self.target.exists() || self.done_bytes() >= at);
        process.signal(Signal::KILL);
        process.ended_within(wait::PATIENCE).unwrap();
        !self.target.exists()
    }
}

/// Killed at random positions, gone on with, and in the end the source.
#[test]
fn tools_a_killed_conversion_is_resumed() {
    for (extension, seed) in [("raw", 1), ("vhd", 2)] {
        let mut rng = fastrand::Rng::with_seed(seed);
        let resumed = Resumed::new(extension, 320);
        let mut kills = 0;
        for _ in 0..4 {
            let at = resumed.done_bytes() + rng.u64(1..=96 * MIB);
            kills += u32::from(resumed.kill_at(at));
        }
        let finished = iomgr(
            "convert",
            &resumed.source,
            &resumed.target,
            &["--resume", "--json", "--force", "--verify"],
        )
        .json();
        assert_eq!(finished["verified"], true, "{finished}");
        assert!(kills > 0, "{extension}: never killed before its end");
        iomgr("compare", &resumed.source, &resumed.target, &["--strict"]).run();
        assert!(!resumed.note().exists());
        if extension == "vhd" {
            let ended = Tool::iomgr().arg("check").arg(&resumed.target).end();
            assert!(matches!(ended.code, Some(0 | 3)), "{ended:?}");
        }
    }
}

/// SIGTERM with `--resume` keeps all that was copied; the next run does not read it again.
#[test]
fn tools_a_terminated_conversion_goes_on() {
    let resumed = Resumed::new("raw", 320);
    let tool = iomgr("convert", &resumed.source, &resumed.target, &["--resume"]);
    let process = Process::start(tool, Stdio::null(), Stdio::null());
    wait::until(|| resumed.note().exists() || resumed.target.exists());
    process.signal(Signal::TERM);
    let code = process.exit_code();
    if code == 0 {
        // It was faster than the signal.
        assert!(resumed.target.exists());
        return;
    }
    assert_eq!(code, 143);
    let done = resumed.done_bytes();
    let finished = iomgr("convert", &resumed.source, &resumed.target, &["--resume", "--json"]).json();
    assert_eq!(finished["resumed_at_bytes"], done, "{finished}");
    iomgr("compare", &resumed.source, &resumed.target, &["--strict"]).run();
}

/// An image onto a block device that is larger and full of other bytes: the image, then zeros.
#[test]
fn tools_an_image_goes_onto_a_block_device() {
    if !need::loop_devices() {
        return;
    }
    let dir = TempDir::new();
    let [backing, source, vhd] = ["backing", "source.raw", "source.vhd"].map(|name| dir.join(name));
    fs::write(&backing, vec![0xa5; usize::try_from(24 * MIB).unwrap()]).unwrap();
    raw_image(&source, 20 * MIB + 512, 10, MIB, 5);
    iomgr("convert", &source, &vhd, &[]).run();
    let device = Loop::attach(&backing);
    let refused = iomgr("convert", &source, device.path(), &[]).run_for_code(1);
    assert!(refused.stderr.contains("--force"), "{refused:?}");
    for image in [&source, &vhd] {
        iomgr("convert", image, device.path(), &["--force", "--verify"]).run();
        iomgr("compare", image, device.path(), &[]).run();
        iomgr("compare", image, device.path(), &["--strict"]).run_for_code(1);
        let refused = iomgr("convert", image, device.path(), &["--force", "--resume"]).run_for_code(1);
        assert!(refused.stderr.contains("--resume"), "{refused:?}");
    }
    iomgr("convert", device.path(), &dir.join("back.raw"), &[]).run();
    iomgr("compare", &source, &dir.join("back.raw"), &[]).run();
    let large = dir.join("large.raw");
    raw_image(&large, 25 * MIB, 1, MIB, 1);
    let refused = iomgr("convert", &large, device.path(), &["--force"]).run_for_code(1);
    assert!(refused.stderr.contains("size"), "{refused:?}");
    iomgr("compare", &source, device.path(), &[]).run();
}

/// A device takes a VHD as well, and gives it back.
#[test]
fn tools_a_device_holds_a_vhd() {
    if !need::loop_devices() {
        return;
    }
    let dir = TempDir::new();
    let [backing, source, back] = ["backing", "source.raw", "back.raw"].map(|name| dir.join(name));
    fs::write(&backing, vec![0xa5; usize::try_from(32 * MIB).unwrap()]).unwrap();
    raw_image(&source, 20 * MIB, 10, MIB, 6);
    let device = Loop::attach(&backing);
    for more in [&["--to", "vhd", "--fixed"][..], &["--to", "vhd"]] {
        let more = [more, &["--force", "--verify"]].concat();
        iomgr("convert", &source, device.path(), &more).run();
        iomgr("compare", &source, device.path(), &["--strict", "--format-b", "vhd"]).run();
        iomgr("convert", device.path(), &back, &["--from", "vhd", "--force"]).run();
        iomgr("compare", &source, &back, &["--strict"]).run();
    }
}

/// A full file system ends a conversion with words that say so; with more room it goes on.
#[test]
fn tools_a_conversion_that_met_a_full_disk_goes_on() {
    if !need::root() {
        return;
    }
    let dir = TempDir::new();
    let source = dir.join("source.raw");
    raw_image(&source, 64 * MIB, 40, 2 * MIB, 9);
    for name in ["copy.raw", "copy.vhd"] {
        let mount = Mount::tmpfs(&dir.join("full"), "12M");
        let target = mount.join(name);
        let full = iomgr("convert", &source, &target, &["--json"]).run_for_code(1);
        let error: Value = serde_json::from_str(full.stderr.lines().last().unwrap()).unwrap();
        assert!(error["hint"] == "make room on the file system", "{error}");
        assert_eq!(
            fs::read_dir(mount.path()).unwrap().count(),
            0,
            "{name}: something is left"
        );
        iomgr("convert", &source, &target, &["--resume"]).run_for_code(1);
        assert!(!target.exists());
        mount.resize("200M");
        iomgr("convert", &source, &target, &["--resume", "--verify"]).run();
        iomgr("compare", &source, &target, &["--strict"]).run();
    }
}

/// A fixed image takes its space when it is made, not when it is written.
#[test]
fn tools_a_fixed_image_that_does_not_fit_is_not_made() {
    if !need::root() {
        return;
    }
    let dir = TempDir::new();
    let mount = Mount::tmpfs(&dir.join("small"), "2M");
    let path = mount.join("a.vhd");
    let create = |size: &str| Tool::iomgr().args(["create", "--fixed", "--size", size]).arg(&path);
    let ended = create("10M").run_for_code(1);
    assert!(
        ended.stderr.contains("a.vhd: its space cannot be set aside; make room"),
        "{ended:#?}"
    );
    assert!(!path.exists());
    create("1M").run();
}

/// A new raw disk on a block device holds zeros, whatever was there.
#[test]
fn tools_a_device_is_made_an_empty_disk() {
    if !need::loop_devices() {
        return;
    }
    let dir = TempDir::new();
    let [backing, empty] = ["backing", "empty.raw"].map(|name| dir.join(name));
    fs::write(&backing, vec![0xa5; usize::try_from(8 * MIB).unwrap()]).unwrap();
    let device = Loop::attach(&backing);
    let create = |size: &str| {
        Tool::iomgr()
            .args(["create", "--force", "--size", size])
            .arg(device.path())
    };
    assert!(create("9M").run_for_code(2).stderr.contains("fewer than"));
    // The disk is the device.
    let made = create("1M").run();
    assert!(made.contains("raw, 8388608 bytes"), "{made}");
    raw_image(&empty, 8 * MIB, 0, 512, 0);
    iomgr("compare", &empty, device.path(), &["--strict"]).run();
}

/// Where the file system shares blocks, convert does, for every pair of formats that lets it.
#[test]
fn tools_blocks_are_shared_where_the_file_system_can() {
    if !need::loop_devices() || !need::tools(&["mkfs.xfs"]) {
        return;
    }
    let dir = TempDir::new();
    let backing = dir.join("backing");
    File::create(&backing).unwrap().set_len(512 * MIB).unwrap();
    let device = Loop::attach(&backing);
    Tool::new("mkfs.xfs")
        .args(["-q", "-m", "reflink=1"])
        .arg(device.path())
        .run();
    let mount = Mount::device(device.path(), &dir.join("mount"), "rw");
    let [raw, fixed, dynamic, back, theirs] =
        ["a.raw", "fixed.vhd", "dynamic.vhd", "back.raw", "theirs.vhd"].map(|name| mount.join(name));
    raw_image(&raw, 40 * MIB + 512, 9, 3 * MIB, 7);
    let convert = |from: &Path, to: &Path, more: &[&str]| {
        let copied = iomgr("convert", from, to, more)
            .args(["--json", "--verify", "--force"])
            .json();
        iomgr("compare", &raw, to, &["--strict"]).run();
        copied
    };
    let shares = |copied: &Value| {
        let data: u64 = data_runs(&our_map(&raw)).iter().map(|(_, length)| length).sum();
        let shared = copied["offloaded_bytes"].as_u64().unwrap();
        assert!(copied["means"] == "reflink" && shared > data / 2, "{copied}");
    };
    shares(&convert(&raw, &fixed, &["--fixed"]));
    shares(&convert(&fixed, &back, &[]));
    convert(&raw, &dynamic, &[]);
    shares(&convert(&dynamic, &back, &[]));
    shares(&convert(&back, &mount.join("again.raw"), &[]));
    let blocks = |path: &Path| fs::metadata(path).unwrap().blocks();
    assert!(
        blocks(&back) * 512 < 40 * MIB,
        "holes are holes: {} blocks",
        blocks(&back)
    );
    if need::tools(&["qemu-img"]) {
        // Of QEMU's blocks one in eight lies on a boundary of the file system's: the others cannot be shared.
        qemu_convert(&raw, &theirs);
        let copied = convert(&theirs, &back, &[]);
        assert!(
            copied["written_bytes"].as_u64() > copied["offloaded_bytes"].as_u64(),
            "{copied}"
        );
    }
    mount.unmount();
}

/// A page is what the manual's reader takes without a complaint.
#[test]
fn tools_manual_pages_are_well_formed() {
    if !need::tools(&["groff"]) {
        return;
    }
    let dir = TempDir::new();
    let pages = Tool::iomgr()
        .args(["man", "--json", "--out"])
        .arg(dir.join("man1"))
        .json();
    let pages = pages["files"].as_array().unwrap();
    assert!(pages.len() > 10, "{pages:?}");
    for page in pages {
        let page = page.as_str().unwrap();
        let ended = Tool::new("groff").args(["-man", "-ww", "-Tutf8", page]).run_for_code(0);
        assert!(ended.stderr.is_empty(), "{page}: {}", ended.stderr);
        assert!(
            ended.stdout.len() > usize::try_from(KIB).unwrap(),
            "{page} is short: {}",
            ended.stdout
        );
    }
}
