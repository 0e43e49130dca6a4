//! Converting, comparing and mapping images, against their bytes.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use fastrand::Rng;
use tempfile::TempDir;
use vbd::{
    CompareOptions, Comparison, ConvertOptions, Copied, CreateOptions, Difference, ErrorKind, ExtentKind, Format,
    MapEntry, Phase, Progress, compare, convert, create, map,
};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Bytes of a disk: runs of noise, runs of zeros, of any length from a sector.
fn random_disk(rng: &mut Rng, len_max: usize) -> Vec<u8> {
    let sectors = rng.usize(1..=len_max / 512);
    let mut disk = vec![0; sectors * 512];
    let mut at = 0;
    while at < disk.len() {
        let longest = *rng.choice(&[512, 4 * KIB, 300 * KIB, 3 * MIB]).unwrap();
        let run = rng.usize(1..=longest / 512) * 512;
        let end = (at + run).min(disk.len());
        if rng.bool() {
            rng.fill(&mut disk[at..end]);
        }
        at = end;
    }
    disk
}

/// A raw image; stretches of zeros are holes where `sparse`.
fn write_raw(path: &Path, disk: &[u8], sparse: bool) {
    let file = fs::File::create(path).unwrap();
    file.set_len(disk.len() as u64).unwrap();
    for (index, page) in disk.chunks(4 * KIB).enumerate() {
        if !sparse || page.iter().any(|&byte| byte != 0) {
            file.write_all_at(page, (index * 4 * KIB) as u64).unwrap();
        }
    }
}

fn ignore(_: Progress) -> bool {
    true
}

fn converted(source: &Path, target: &Path, options: &ConvertOptions) -> Copied {
    convert(source, target, options, &mut ignore).unwrap()
}

fn compared(a: &Path, b: &Path) -> Comparison {
    compare([a, b], &CompareOptions::default(), &mut ignore).unwrap()
}

fn mapped(path: &Path) -> Vec<MapEntry> {
    let mut entries = Vec::new();
    map(path, None, &mut |entry| {
        entries.push(entry);
        Ok(())
    })
    .unwrap();
    entries
}

/// The map covers the disk without gaps, neighbours differ, zeros are zeros, and data lies where it says.
fn check_map(path: &Path, disk: &[u8]) {
    let file = fs::read(path).unwrap();
    let entries = mapped(path);
    let mut at = 0;
    for entry in &entries {
        assert_eq!(entry.start, at, "{entries:?}");
        let [start, end] = [entry.start, entry.start + entry.length].map(|at| usize::try_from(at).unwrap());
        let bytes = &disk[start..end];
        assert_eq!(entry.zero, matches!(entry.kind, ExtentKind::Hole | ExtentKind::Zero));
        assert!(
            !entry.zero || bytes.iter().all(|&byte| byte == 0),
            "{entry:?} is not zeros"
        );
        if let Some(offset) = entry.offset {
            let offset = usize::try_from(offset).unwrap();
            assert!(file[offset..offset + bytes.len()] == *bytes, "{entry:?} lies elsewhere");
        }
        at += entry.length;
    }
    assert_eq!(at, disk.len() as u64);
    for pair in entries.windows(2) {
        let goes_on = pair[0].offset.map(|offset| offset + pair[0].length) == pair[1].offset;
        assert!(pair[0].kind != pair[1].kind || !goes_on, "{pair:?} are one");
    }
}

#[test]
fn every_conversion_keeps_every_byte() {
    let dir = TempDir::new().unwrap();
    for seed in 0..25 {
        let mut rng = Rng::with_seed(seed);
        let disk = random_disk(&mut rng, 9 * MIB);
        let mut source = dir.path().join("0.img");
        write_raw(&source, &disk, rng.bool());
        for step in 1..4 {
            let (extension, fixed) = *rng.choice(&[("img", false), ("vhd", false), ("vhd", true)]).unwrap();
            let target = dir.path().join(format!("{step}.{extension}"));
            let options = ConvertOptions {
                fixed,
                force: true,
                verify: rng.bool(),
                ..ConvertOptions::default()
            };
            let copied = converted(&source, &target, &options);
            assert_eq!(
                (copied.size_bytes, copied.verified),
                (disk.len() as u64, options.verify),
                "seed {seed}"
            );
            assert_eq!(compared(&source, &target).difference, None, "seed {seed}");
            check_map(&target, &disk);
            source = target;
        }
        let last = dir.path().join("last.img");
        let force = ConvertOptions {
            force: true,
            ..ConvertOptions::default()
        };
        converted(&source, &last, &force);
        assert!(fs::read(&last).unwrap() == disk, "seed {seed}: bytes differ");
    }
    let left: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    assert!(
        left.iter().all(|path| !path.to_string_lossy().contains("iomgr-part")),
        "{left:?}"
    );
}

#[test]
fn zeros_take_no_space_in_the_target() {
    let dir = TempDir::new().unwrap();
    let [source, raw, vhd] = ["a.img", "b.img", "c.vhd"].map(|name| dir.path().join(name));
    let mut disk = vec![0; 16 * MIB];
    disk[5 * MIB..5 * MIB + 64 * KIB].fill(1);
    write_raw(&source, &disk, false);
    let copied = converted(&source, &raw, &ConvertOptions::default());
    assert_eq!(copied.written_bytes, 64 * KIB as u64);
    let kinds: Vec<_> = mapped(&raw).iter().map(|entry| entry.kind).collect();
    assert_eq!(kinds, [ExtentKind::Hole, ExtentKind::Data, ExtentKind::Hole]);
    converted(&raw, &vhd, &ConvertOptions::default());
    let data: u64 = mapped(&vhd)
        .iter()
        .filter(|entry| entry.data)
        .map(|entry| entry.length)
        .sum();
    assert_eq!(data, 2 * MIB as u64, "one block");
    assert_eq!(compared(&raw, &vhd).read_bytes, 64 * KIB as u64 + 2 * MIB as u64);
}

#[test]
fn the_first_difference_is_found_to_the_byte() {
    let dir = TempDir::new().unwrap();
    let [a, b, vhd] = ["a.img", "b.img", "b.vhd"].map(|name| dir.path().join(name));
    for seed in 0..30 {
        let mut rng = Rng::with_seed(seed);
        let disk = random_disk(&mut rng, 20 * MIB);
        write_raw(&a, &disk, true);
        let mut other = disk.clone();
        let changes: Vec<usize> = (0..rng.usize(1..5)).map(|_| rng.usize(..disk.len())).collect();
        changes.iter().for_each(|&at| other[at] ^= 1 << rng.u32(..8));
        let first = (0..disk.len()).find(|&at| disk[at] != other[at]).map(|at| at as u64);
        write_raw(&b, &other, true);
        let force = ConvertOptions {
            force: true,
            ..ConvertOptions::default()
        };
        converted(&b, &vhd, &force);
        let expected = first.map(|offset| Difference::Content {
            offset,
            sector: offset / 512,
        });
        for [x, y] in [[&a, &b], [&b, &a], [&a, &vhd], [&vhd, &a]] {
            assert_eq!(compared(x, y).difference, expected, "seed {seed}: {x:?} {y:?}");
        }
    }
}

#[test]
fn a_shorter_disk_counts_as_followed_by_zeros() {
    let dir = TempDir::new().unwrap();
    let [a, b] = ["a.img", "b.img"].map(|name| dir.path().join(name));
    write_raw(&a, &[7; 3 * MIB], true);
    let mut longer = vec![7; 3 * MIB];
    longer.resize(5 * MIB, 0);
    write_raw(&b, &longer, false);
    assert_eq!(compared(&a, &b).difference, None);
    let strict = CompareOptions {
        strict: true,
        ..CompareOptions::default()
    };
    let different = compare([&a, &b], &strict, &mut ignore).unwrap();
    assert_eq!(different.difference, Some(Difference::Size));
    longer[4 * MIB + 5] = 1;
    write_raw(&b, &longer, false);
    let offset = (4 * MIB + 5) as u64;
    let expected = Some(Difference::Content {
        offset,
        sector: offset / 512,
    });
    assert_eq!(compared(&a, &b).difference, expected);
    assert_eq!(compared(&b, &a).difference, expected);
}

/// Other writers leave sectors of a block unwritten; their bitmap says so, and what lies there does not count.
#[test]
fn unwritten_sectors_of_a_block_are_zeros() {
    let dir = TempDir::new().unwrap();
    let [source, vhd, back] = ["a.img", "b.vhd", "c.img"].map(|name| dir.path().join(name));
    write_raw(&source, &[0x11; 3 * MIB], true);
    converted(&source, &vhd, &ConvertOptions::default());
    let block = mapped(&vhd)[0];
    // The bitmap is the sector before the block's data: one bit for each sector, the highest first.
    let bitmap = block.offset.unwrap() - 512;
    let file = fs::File::options().write(true).open(&vhd).unwrap();
    file.write_all_at(&[0xff, 0x00, 0x7f], bitmap).unwrap();
    let kinds: Vec<_> = mapped(&vhd).iter().map(|entry| (entry.kind, entry.length)).collect();
    let (data, zero) = (ExtentKind::Data, ExtentKind::Zero);
    assert_eq!(
        kinds[..3],
        [(data, 4096), (zero, 4096 + 512), (data, 2 * MIB as u64 - 8192 - 512)]
    );
    let mut disk = vec![0x11; 3 * MIB];
    disk[4096..8192 + 512].fill(0);
    converted(&vhd, &back, &ConvertOptions::default());
    assert!(fs::read(&back).unwrap() == disk);
    check_map(&vhd, &disk);
    let expected = Some(Difference::Content {
        offset: 4096,
        sector: 8,
    });
    assert_eq!(compared(&source, &vhd).difference, expected);
}

fn resumable() -> ConvertOptions {
    ConvertOptions {
        resume: true,
        ..ConvertOptions::default()
    }
}

/// Ends the conversion when it tells its progress for the second time: then it has begun 16 chunks of 1 MiB at most, however
/// the disk's answers are spread over time.
fn cut(source: &Path, target: &Path) -> Option<Copied> {
    let mut is_first = true;
    let mut progress = |_: Progress| std::mem::take(&mut is_first);
    match convert(source, target, &resumable(), &mut progress) {
        Ok(copied) => Some(copied),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}");
            None
        }
    }
}

#[test]
fn a_conversion_goes_on_where_it_was_interrupted() {
    let dir = TempDir::new().unwrap();
    let source = dir.path().join("a.img");
    let mut rng = Rng::with_seed(3);
    let mut disk = vec![0; 40 * MIB];
    rng.fill(&mut disk);
    write_raw(&source, &disk, true);
    for name in ["b.img", "b.vhd"] {
        let target = dir.path().join(name);
        let mut runs = 0;
        let copied = loop {
            assert!(runs < 100, "{name}: it never comes to an end");
            runs += 1;
            if let Some(copied) = cut(&source, &target) {
                break copied;
            }
            assert!(!target.exists(), "{name} has its name before it is complete");
        };
        assert!(runs > 2, "{name} was never interrupted");
        let rest = disk.len() as u64 - copied.resumed_at_bytes;
        assert!(
            copied.resumed_at_bytes > 0 && copied.written_bytes == rest,
            "{name}: {copied:?}"
        );
        assert_eq!(compared(&source, &target).difference, None);
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "no note, no part is left");
}

/// An interrupted conversion of noise, and where its part and note lie.
fn interrupted(dir: &TempDir) -> [PathBuf; 4] {
    let names = ["a.img", "b.img", "b.img.iomgr-part", "b.img.iomgr-part.json"];
    let paths = names.map(|name| dir.path().join(name));
    write_raw(&paths[0], &vec![9; 20 * MIB], true);
    assert!(cut(&paths[0], &paths[1]).is_none());
    paths
}

#[test]
fn a_source_that_has_changed_is_not_gone_on_with() {
    let dir = TempDir::new().unwrap();
    let [source, target, part, note] = interrupted(&dir);
    let time = fs::metadata(&source).unwrap().modified().unwrap() + std::time::Duration::from_nanos(1);
    let file = fs::File::options().write(true).open(&source).unwrap();
    file.set_modified(time).unwrap();
    let error = convert(&source, &target, &resumable(), &mut ignore).unwrap_err();
    assert_eq!(error.parts().field, Some("source_mtime"), "{error}");
    assert!(
        part.exists() && note.exists(),
        "what is there stays for the user to decide"
    );
    assert!(error.parts().hint.unwrap().contains("remove it"), "{error}");

    fs::remove_file(&part).unwrap();
    let copied = converted(&source, &target, &resumable());
    assert_eq!(copied.resumed_at_bytes, 0, "without its part a note counts for nothing");
    assert!(!note.exists());
}

#[test]
fn a_note_without_its_part_is_not_taken_for_the_next_parts() {
    let dir = TempDir::new().unwrap();
    let [source, target, part, note] = interrupted(&dir);
    fs::remove_file(&part).unwrap();
    let mut seen = false;
    // Were this run killed here, `--resume` would find its part, and must not find the older run's note.
    let mut progress = |_: Progress| {
        seen |= part.exists();
        assert!(!note.exists());
        true
    };
    convert(&source, &target, &ConvertOptions::default(), &mut progress).unwrap();
    assert!(seen);
}

#[test]
fn an_unfinished_copy_is_not_thrown_away_by_forgetting_an_option() {
    let dir = TempDir::new().unwrap();
    let [source, target, part, _] = interrupted(&dir);
    let error = convert(&source, &target, &ConvertOptions::default(), &mut ignore).unwrap_err();
    assert!(
        error.kind() == ErrorKind::Exists && error.to_string().contains("--resume"),
        "{error}"
    );
    assert!(part.exists());
    let fixed = ConvertOptions {
        to: Some(Format::Vhd),
        ..resumable()
    };
    let error = convert(&source, &target, &fixed, &mut ignore).unwrap_err();
    assert_eq!(error.parts().field, Some("target_format"), "{error}");
    assert!(converted(&source, &target, &resumable()).resumed_at_bytes > 0);
}

#[test]
fn a_part_without_a_note_is_begun_anew() {
    let dir = TempDir::new().unwrap();
    let [source, target, _, note] = interrupted(&dir);
    fs::remove_file(note).unwrap();
    assert_eq!(
        converted(&source, &target, &ConvertOptions::default()).resumed_at_bytes,
        0
    );
    assert!(fs::read(target).unwrap() == fs::read(source).unwrap());
}

#[test]
fn a_copy_that_is_not_its_source_never_gets_its_name() {
    let dir = TempDir::new().unwrap();
    let [source, target, part] = ["a.img", "b.img", "b.img.iomgr-part"].map(|name| dir.path().join(name));
    write_raw(&source, &vec![9; 4 * MIB], true);
    let options = ConvertOptions {
        verify: true,
        ..ConvertOptions::default()
    };
    // Spoils the copy between copying and comparing, as bad storage would.
    let mut spoil = |progress: Progress| {
        if progress.phase == Phase::Copy && progress.done_bytes == progress.size_bytes {
            let file = fs::File::options().write(true).open(&part).unwrap();
            file.write_all_at(&[8], 3 * MIB as u64 + 77).unwrap();
        }
        true
    };
    let error = convert(&source, &target, &options, &mut spoil).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Differs);
    assert!(error.to_string().contains(&format!("byte {}", 3 * MIB + 77)), "{error}");
    assert!(!target.exists() && !part.exists());
}

#[test]
fn a_source_that_cannot_be_read_is_named_with_the_place() {
    let dir = TempDir::new().unwrap();
    let [source, target] = ["a.img", "b.img"].map(|name| dir.path().join(name));
    write_raw(&source, &vec![9; 40 * MIB], true);
    let mut cut_short = |_: Progress| {
        let file = fs::File::options().write(true).open(&source).unwrap();
        file.set_len(5 * MIB as u64).unwrap();
        true
    };
    let error = convert(&source, &target, &ConvertOptions::default(), &mut cut_short).unwrap_err();
    assert_eq!(
        (error.kind(), error.parts().path),
        (ErrorKind::Io, Some(source.as_path())),
        "{error}"
    );
    assert!(!target.exists(), "{error}");
}

#[test]
fn a_disk_of_another_size_is_never_taken_for_an_unfinished_copy() {
    let dir = TempDir::new().unwrap();
    let [source, target, part, _] = interrupted(&dir);
    fs::remove_file(&part).unwrap();
    create(
        &part,
        &CreateOptions {
            format: Some(Format::Raw),
            ..CreateOptions::new(MIB as u64)
        },
    )
    .unwrap();
    let error = convert(&source, &target, &resumable(), &mut ignore).unwrap_err();
    assert_eq!(error.parts().field, Some("size"), "{error}");
}

/// What lies where the copy is made, and is no unfinished copy of this user.
#[test]
fn a_copy_is_not_made_through_what_others_left_at_its_name() {
    let dir = TempDir::new().unwrap();
    let [source, target, victim, part] =
        ["a.img", "b.img", "victim", "b.img.iomgr-part"].map(|name| dir.path().join(name));
    write_raw(&source, &vec![9; MIB], true);
    fs::write(&victim, "precious").unwrap();
    let link = || std::os::unix::fs::symlink("victim", &part).unwrap();
    let hard_link = || fs::hard_link(&victim, &part).unwrap();
    let folder = || fs::create_dir(&part).unwrap();
    let dangling = || std::os::unix::fs::symlink("none", &part).unwrap();
    for (plant, word) in [
        (&link as &dyn Fn(), "symbolic link"),
        (&hard_link, "hard links"),
        (&folder, "no regular file"),
        (&dangling, "symbolic link"),
    ] {
        plant();
        for options in [ConvertOptions::default(), resumable()] {
            let error = convert(&source, &target, &options, &mut ignore).unwrap_err();
            assert_eq!(error.parts().path, Some(target.as_path()), "{error}");
            let text = error.to_string();
            assert!(
                text.contains("iomgr-part is in the way") && text.contains(word) && text.contains("; remove it"),
                "{text}"
            );
            assert_eq!(fs::read(&victim).unwrap(), b"precious");
            assert!(!target.exists() && !dir.path().join("none").exists());
        }
        fs::remove_file(&part).or_else(|_| fs::remove_dir(&part)).unwrap();
    }
    converted(&source, &target, &ConvertOptions::default());
}

#[test]
fn a_part_of_another_user_is_not_taken_over() {
    let dir = TempDir::new().unwrap();
    let [source, target, part] = ["a.img", "b.img", "b.img.iomgr-part"].map(|name| dir.path().join(name));
    write_raw(&source, &vec![9; MIB], true);
    fs::write(&part, "").unwrap();
    if std::os::unix::fs::chown(&part, Some(65534), None).is_err() {
        println!("skipped: only root gives files away");
        return;
    }
    let error = convert(&source, &target, &ConvertOptions::default(), &mut ignore).unwrap_err();
    assert!(error.to_string().contains("a file of another user"), "{error}");
    assert!(!target.exists() && fs::metadata(&part).unwrap().len() == 0);
}

#[test]
fn a_copy_gives_nobody_what_its_source_does_not() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let dir = TempDir::new().unwrap();
    let [source, target, part] = ["a.img", "b.img", "b.img.iomgr-part"].map(|name| dir.path().join(name));
    write_raw(&source, &vec![9; MIB], true);
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    for (of_source, left, most) in [
        (0o600, None, 0o600),
        (0o640, None, 0o600),
        (0o644, None, 0o644),
        // What a killed run left.
        (0o600, Some(0o666), 0o600),
    ] {
        fs::set_permissions(&source, fs::Permissions::from_mode(of_source)).unwrap();
        if let Some(left) = left {
            fs::write(&part, "").unwrap();
            fs::set_permissions(&part, fs::Permissions::from_mode(left)).unwrap();
        }
        converted(&source, &target, &ConvertOptions::default());
        assert_eq!(mode(&target) & !most, 0, "of {of_source:o}: {:o}", mode(&target));
        fs::remove_file(&target).unwrap();
    }
}

#[test]
fn an_error_of_the_copy_names_the_target() {
    let dir = TempDir::new().unwrap();
    let source = dir.path().join("a.img");
    let target = dir.path().join("none/b.img");
    write_raw(&source, &vec![9; MIB], true);
    let error = convert(&source, &target, &ConvertOptions::default(), &mut ignore).unwrap_err();
    assert_eq!(error.parts().path, Some(target.as_path()), "{error}");
}
