//! `dmio` on images: what it reads, writes and tells, and what it refuses. Stalled devices are the system tests' matter.

use serde_json::Value;

use crate::run::{Ended, Place};
use crate::serving::Served;

/// Two raw images of 1 MiB, full of 1 and 2.
fn place() -> Place {
    let place = Place::new();
    for (name, byte) in [("a.img", 1), ("b.img", 2)] {
        place.write(name, &vec![byte; 1 << 20]);
    }
    place
}

/// The page cache is everywhere.
fn run(place: &Place, args: &[&str]) -> Ended {
    let all = [&["dmio", args[0], "--cache", "writeback"], &args[1..]].concat();
    place.run(&all)
}

/// The table, without its times.
fn table(ended: &Ended) -> String {
    let lines = ended.stdout.lines().map(|line| {
        let mut words: Vec<_> = line.split_whitespace().collect();
        if let Some(unit) = words.iter().position(|word| ["µs", "ms", "s"].contains(word)) {
            assert!(words[unit - 1].parse::<f64>().is_ok(), "{line}");
            words.drain(unit - 1..=unit);
        }
        words.join(" ")
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn events(ended: &Ended) -> Vec<Value> {
    let line = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("no JSON ({error}): {ended:?}"));
    ended.stdout.lines().map(line).collect()
}

#[test]
fn one_write_reaches_all_regions_and_no_more() {
    let place = place();
    let ended = run(&place, &["write", "--data", "0x55", "a.img@4k", "b.img@8k"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let mut lines: Vec<_> = table(&ended).lines().map(str::to_owned).collect();
    lines[1..].sort_unstable();
    assert_eq!(lines, ["TIME REGION STATE", "a.img@4096+4096 OK", "b.img@8192+4096 OK"]);
    for (name, at, before) in [("a.img", 4096, 1), ("b.img", 8192, 2)] {
        let bytes = place.read(name);
        assert_eq!(bytes[at..at + 4096], [0x55; 4096], "{name}");
        assert!(
            bytes[..at]
                .iter()
                .chain(&bytes[at + 4096..])
                .all(|&byte| byte == before),
            "{name}"
        );
    }
}

#[test]
fn what_is_written_says_what_it_is() {
    let place = place();
    let ended = run(&place, &["write", "--repeat", "2", "a.img@0+1k"]);
    assert_eq!(
        table(&ended),
        "RUN TIME REGION STATE\n1 a.img@0+1024 OK\n2 a.img@0+1024 OK"
    );
    let bytes = place.read("a.img");
    let second = String::from_utf8_lossy(&bytes[512..1024]);
    assert!(
        second.starts_with("iomgr dmio write 2 at 2") && second.contains("sector 1 of 2\n"),
        "{second}"
    );
    place.write("new", &[7; 2000]);
    let ended = run(&place, &["write", "--data", "new", "a.img@0+1k"]);
    assert_eq!(
        (ended.code, &place.read("a.img")[..1025]),
        (Some(0), &[&[7; 1024][..], &[1]].concat()[..])
    );
}

#[test]
fn each_image_is_flushed_once_after_a_write() {
    let place = place();
    let ended = run(&place, &["write", "--flush", "b.img@8k", "a.img", "b.img@64k"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let table = table(&ended);
    let lines: Vec<_> = table.lines().skip(1).collect();
    let (mut regions, mut flushes) = (lines[..3].to_vec(), lines[3..].to_vec());
    regions.sort_unstable();
    flushes.sort_unstable();
    assert_eq!(
        regions,
        ["a.img@0+4096 OK", "b.img@65536+4096 OK", "b.img@8192+4096 OK"]
    );
    assert_eq!(flushes, ["a.img OK flushed", "b.img OK flushed"]);

    let ended = run(&place, &["write", "--flush", "--repeat", "2", "--json", "a.img"]);
    let told = events(&ended);
    let word = |event: &Value, field: &str| event[field].as_str().unwrap_or("").to_owned();
    let words: Vec<_> = told
        .iter()
        .map(|event| (word(event, "event"), word(event, "state"), event["run"].as_u64()))
        .collect();
    let of = |event: &str, run| (event.to_owned(), "ok".to_owned(), Some(run));
    assert_eq!(
        words[..4],
        [of("region", 1), of("flush", 1), of("region", 2), of("flush", 2)]
    );
    assert_eq!(
        (&told[1]["image"], &told[1]["start_bytes"]),
        (&"a.img".into(), &Value::Null)
    );
    assert_eq!((&told[4]["regions"], &told[4]["ok"]), (&4.into(), &4.into()));
}

#[test]
fn regions_of_one_disk_are_read_each_by_itself() {
    let place = place().with_vhd("v.vhd");
    let ended = run(&place, &["write", "--data", "0x77", "v.vhd@2M+64k"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let ended = run(&place, &["read", "v.vhd@2M+64k", "v.vhd", "a.img@512+512", "--json"]);
    let told = events(&ended);
    assert_eq!((ended.code, told.len()), (Some(0), 4), "{ended:?}");
    assert_eq!(
        (&told[3]["event"], &told[3]["ok"], &told[3]["orphans"]),
        (&"end".into(), &3.into(), &0.into())
    );
    let ended = run(&place, &["read", "v.vhd@2M+64k", "--output", "out"]);
    assert_eq!(
        (ended.code, place.read("out")),
        (Some(0), vec![0x77; 65536]),
        "{ended:?}"
    );
    place.ok(&["check", "v.vhd"]);
}

/// The image goes on by itself after a write: it reserves room ahead.
#[test]
fn a_disk_that_still_works_on_its_own_is_waited_for() {
    let place = Place::new().with_vhd("v.vhd");
    for round in 0..20 {
        let at = format!("v.vhd@{}M+64k", round * 2);
        let ended = run(&place, &["write", &at]);
        assert_eq!(ended.code, Some(0), "{round}: {ended:?}");
    }
    place.ok(&["check", "v.vhd"]);
}

#[test]
fn of_a_choice_the_first_is_read() {
    let place = place();
    let ended = run(&place, &["read", "--choice", "--output", "out", "a.img", "b.img"]);
    assert_eq!((ended.code, place.read("out")), (Some(0), vec![1; 4096]), "{ended:?}");
    assert!(
        table(&ended).contains("b.img@0+4096 CANCELLED another one was read; it never started"),
        "{ended:?}"
    );
}

#[test]
fn what_makes_no_sense_is_wrong_usage() {
    let place = place();
    for (args, says) in [
        (&["read"][..], "REGION"),
        (&["read", "a.img@1"], "START is 1, no multiple of 512"),
        (&["read", "--cancel-on-timeout", "a.img"], "--timeout"),
        (&["read", "--timeout", "0", "a.img"], "no time at all"),
        (&["read", "--output", "out", "a.img", "b.img"], "--choice"),
        (&["write", "a.img", "b.img@0+8k"], "differ in length"),
        (&["read", "--flush", "a.img"], "--flush"),
        (&["write", "--data", "0x", "a.img"], "0xff"),
    ] {
        let ended = run(&place, args);
        assert_eq!((ended.code, &*ended.stdout), (Some(2), ""), "{args:?}: {ended:?}");
        assert!(ended.stderr.contains(says), "{args:?}: {ended:?}");
    }
    let many = vec!["a.img"; 65];
    let ended = run(&place, &[&["read"], &many[..]].concat());
    assert!(
        ended.code == Some(2) && ended.stderr.contains("64 are the most"),
        "{ended:?}"
    );
}

#[test]
fn errors_name_the_file_and_the_field() {
    let place = place();
    place.write("short", &[0; 100]);
    place.write("short.img", &[0; 100]);
    for (args, says) in [
        (&["read", "no.img"][..], "no.img: does not exist"),
        (
            &["read", "a.img@1M"],
            "a.img: START 1048576 and LENGTH 4096 end beyond the disk",
        ),
        (&["read", "a.img@8E"], "a.img: START"),
        (
            &["write", "--data", "short", "a.img"],
            "short: --data holds 100 bytes, a region 4096",
        ),
        (&["write", "--data", "none", "a.img"], "none: cannot be read"),
        (&["write", "a.img", "short.img@0+4k"], "short.img: "),
    ] {
        let ended = run(&place, args);
        assert_eq!((ended.code, &*ended.stdout), (Some(1), ""), "{args:?}: {ended:?}");
        assert!(ended.stderr.contains(says), "{args:?}: {ended:?}");
    }
    assert!(place.read("a.img").iter().all(|&byte| byte == 1));
}

#[test]
fn somebody_elses_image_is_waited_for_as_long_as_said() {
    let place = place();
    let (_served, _) = Served::json(&place, &["a.img"]);
    let ended = run(&place, &["read", "-v", "--lock-timeout", "0", "a.img"]);
    assert_eq!((ended.code, &*ended.stdout), (Some(1), ""), "{ended:?}");
    assert!(
        ended.stderr.contains("a.img: is in use by") && ended.stderr.contains("`--lock-timeout`"),
        "{ended:?}"
    );
    let waits = |ended: &Ended| ended.stderr.contains("image_locked");
    assert!(!waits(&ended), "{ended:?}");
    let ended = run(&place, &["read", "-v", "--lock-timeout", "10ms", "a.img"]);
    assert!(ended.code == Some(1) && waits(&ended), "{ended:?}");
}
