//! `create`, `info`, `check`, `repair`, `convert` on images that the tests make.

use std::fs;
use std::process::{Command, Stdio};

use crate::run::{Ended, Place, flip};

/// Texts hold the identity and time of the image, which differ from run to run, and what the file system makes of it.
fn check(name: &str, text: &str) {
    insta::with_settings!({filters => vec![
        (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "UUID"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME"),
        (r"0x[0-9a-f]{8}", "SUM"),
        (r"(?m)^(\s*allocated:\s+).*$", "${1}SPACE"),
    ]}, {
        insta::assert_snapshot!(name, text);
    });
}

#[test]
fn info_of_each_kind() {
    let place = Place::new().with_vhd("dynamic.vhd");
    place.ok(&["create", "fixed.vhd", "--size", "3M", "--fixed"]);
    place.ok(&["create", "small.vhd", "--size", "10M", "--block-size", "512K"]);
    place.ok(&["create", "raw.img", "--size", "1536K"]);
    for name in ["dynamic.vhd", "fixed.vhd", "small.vhd", "raw.img"] {
        check(&format!("info_{name}"), &place.ok(&["info", name]).shown(&place));
    }
}

#[test]
fn a_raw_tail_is_warned_of() {
    let place = Place::new();
    place.write("a.img", &[1; 1300]);
    let info = place.ok(&["info", "a.img", "--json"]).json();
    assert_eq!((&info["size_bytes"], &info["file_bytes"]), (&1024.into(), &1300.into()));
    assert!(
        info["warnings"][0].as_str().unwrap().contains("last 276 bytes"),
        "{info}"
    );
    assert!(place.ok(&["info", "a.img"]).stdout.contains("last 276 bytes"));
}

#[test]
fn create_says_what_it_made() {
    let place = Place::new();
    let text = place.ok(&["create", "a.vhd", "--size", "1G"]).stdout;
    assert_eq!(text, "a.vhd: vhd-dynamic, 1073741824 bytes (1.00 GiB)\n");
    let json = place
        .ok(&["create", "b", "--size", "4M", "--format", "vhd", "--fixed", "--json"])
        .json();
    assert_eq!(
        json,
        serde_json::json!({ "path": "b", "format": "vhd-fixed", "size_bytes": 4 << 20 })
    );
}

#[test]
fn a_clean_image() {
    let place = Place::new().with_vhd("a.vhd");
    check("check_clean", &place.ok(&["check", "a.vhd"]).shown(&place));
    let report = place.ok(&["check", "a.vhd", "--json"]).json();
    assert_eq!(
        (&report["verdict"], &report["findings"]),
        (&"clean".into(), &serde_json::json!([])),
        "{report}"
    );
}

#[test]
fn a_raw_image_cannot_be_checked() {
    let place = Place::new();
    place.write("a.img", &[0; 4096]);
    let ended = place.run(&["check", "a.img"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("no structure"), "{ended:?}");
}

#[test]
fn a_torn_footer_is_found_and_repaired() {
    let place = Place::new().with_vhd("a.vhd");
    let path = place.path("a.vhd");
    let whole = fs::read(&path).unwrap();
    flip(&path, whole.len() - 500);

    let checked = place.run(&["check", "a.vhd"]);
    assert_eq!(checked.code, Some(2), "{checked:?}");
    check("check_torn", &checked.shown(&place));

    let served = place.run(&["serve", "a.vhd"]);
    assert_eq!(served.code, Some(1), "{served:?}");
    assert!(served.stderr.contains("--repair"), "{served:?}");

    let torn = fs::read(&path).unwrap();
    check(
        "repair_dry_run",
        &place.ok(&["repair", "a.vhd", "--dry-run"]).shown(&place),
    );
    assert_eq!(fs::read(&path).unwrap(), torn);
    check("repair_torn", &place.ok(&["repair", "a.vhd"]).shown(&place));
    assert_eq!(fs::read(&path).unwrap(), whole);
    check("repair_nothing", &place.ok(&["repair", "a.vhd"]).shown(&place));
    assert_eq!(place.run(&["check", "a.vhd"]).code, Some(0));
}

#[test]
fn a_bad_bat_entry_is_no_clean_state() {
    let place = Place::new().with_vhd("a.vhd");
    let mut bytes = place.read("a.vhd");
    // The BAT's first entry leads to the dynamic header.
    bytes[4096..4100].copy_from_slice(&1u32.to_be_bytes());
    place.write("a.vhd", &bytes);
    check("info_bad_entry", &place.ok(&["info", "a.vhd"]).shown(&place));
    assert_eq!(
        place.ok(&["info", "a.vhd", "--json"]).json()["vhd"]["state"],
        "bad-entries"
    );
    assert_eq!(place.run(&["serve", "a.vhd"]).code, Some(1));
}

#[test]
fn leaked_space_has_a_code_of_its_own() {
    let place = Place::new().with_vhd("a.vhd");
    let mut bytes = place.read("a.vhd");
    let footer = bytes.split_off(bytes.len() - 512);
    // A slot that no BAT entry names: what a crash leaves of space reserved ahead.
    bytes.resize(bytes.len() + 4096 + (2 << 20), 0);
    bytes.extend(footer);
    place.write("a.vhd", &bytes);
    let checked = place.run(&["check", "a.vhd"]);
    assert_eq!(checked.code, Some(3), "{checked:?}");
    check("check_leaks", &checked.shown(&place));
    let json = place.run(&["check", "a.vhd", "--json"]);
    assert_eq!((json.code, &json.json()["verdict"]), (Some(3), &"leaks".into()));
}

/// What is right, but of a sort that is not supported, is not called corrupt.
#[test]
fn an_image_of_an_unknown_sort_cannot_be_checked() {
    use vbd::vhd::layout::{DiskType, FooterRepr};
    let place = Place::new().with_vhd("a.vhd");
    let whole = place.read("a.vhd");
    let with = |change: &dyn Fn(&mut FooterRepr)| {
        let mut footer = FooterRepr::parse(&whole[..512]).unwrap();
        change(&mut footer);
        let mut bytes = whole.clone();
        let end = bytes.len() - 512;
        bytes[..512].copy_from_slice(&footer.emit());
        bytes[end..].copy_from_slice(&footer.emit());
        place.write("a.vhd", &bytes);
        place.run(&["check", "a.vhd"])
    };
    let child = with(&|footer| footer.disk_type = DiskType::Differencing);
    check("check_differencing", &child.shown(&place));
    let json = place.run(&["check", "a.vhd", "--json"]);
    assert_eq!((json.code, &json.json()["verdict"]), (Some(1), &"unsupported".into()));
    let newer = with(&|footer| footer.version = 2 << 16);
    assert_eq!(newer.code, Some(1), "{newer:?}");
    assert!(
        newer
            .stdout
            .contains("a.vhd: cannot be checked: unsupported image: footer: format version")
    );
}

#[test]
fn what_is_no_vhd_is_refused() {
    let place = Place::new();
    place.write("a.vhd", &[7; 8192]);
    for verb in ["info", "repair", "serve"] {
        let ended = place.run(&[verb, "a.vhd"]);
        assert_eq!(ended.code, Some(1), "{verb}: {ended:?}");
        assert!(ended.stderr.contains("a.vhd: "), "{verb}: {ended:?}");
    }
    let checked = place.run(&["check", "a.vhd", "--json"]);
    assert_eq!(checked.code, Some(2), "{checked:?}");
    assert_eq!(checked.json()["verdict"], "corrupt");
}

/// 3 MiB: a pattern, a hole, a pattern.
fn patterned() -> Vec<u8> {
    let mut bytes = vec![0; 3 << 20];
    for (at, byte) in bytes.iter_mut().enumerate() {
        if !(1 << 20..2 << 20).contains(&at) {
            *byte = u8::try_from(at % 251).expect("below 251") | 1;
        }
    }
    bytes
}

#[test]
fn conversion_keeps_every_byte_and_leaves_zeros_out() {
    let place = Place::new();
    place.write("a.img", &patterned());
    let copied = place.ok(&["convert", "a.img", "b.vhd", "--json"]).json();
    assert_eq!(
        (&copied["size_bytes"], &copied["written_bytes"]),
        (&(3 << 20).into(), &(2 << 20).into())
    );
    place.ok(&["convert", "b.vhd", "c.vhd", "--fixed"]);
    let text = place.ok(&["convert", "c.vhd", "d.img"]).stdout;
    assert_eq!(
        text,
        "d.img: 3145728 bytes (3.00 MiB), of which 2097152 bytes (2.00 MiB) were not zero\n"
    );
    assert!(place.read("d.img") == patterned(), "the bytes differ");
    assert_eq!(place.run(&["check", "b.vhd"]).code, Some(0));
    assert_eq!(place.run(&["check", "c.vhd"]).code, Some(0));
}

/// Starts a conversion and ends it by `signal` as soon as there is something of it; `None` if it was faster.
fn interrupt(place: &Place, signal: &str) -> Option<Ended> {
    let command = &mut place.command(&["convert", "a.img", "b.vhd", "--force"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while !place.path("b.vhd.iomgr-part").exists() && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    let kill = |signal| {
        Command::new("kill")
            .args(["-s", signal, &child.id().to_string()])
            .status()
            .unwrap()
    };
    // Stopped, it cannot end before the signal is there.
    for signal in ["STOP", signal, "CONT"] {
        kill(signal);
    }
    let ended = Ended::from(child.wait_with_output().unwrap());
    (ended.code != Some(0)).then_some(ended)
}

#[test]
fn an_interrupted_conversion_leaves_nothing() {
    let place = Place::new();
    place.write("a.img", &vec![1; 128 << 20]);
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let tries = 20;
        let ended = (0..tries).find_map(|_| {
            let _ = fs::remove_file(place.path("b.vhd"));
            interrupt(&place, signal)
        });
        let ended = ended.expect("128 MiB are not converted before a signal arrives, 20 times over");
        assert_eq!(ended.code, Some(code), "{ended:?}");
        assert!(
            ended
                .stderr
                .contains("b.vhd: interrupted; the unfinished target is removed"),
            "{ended:?}"
        );
        assert!(!place.path("b.vhd").exists() && !place.path("b.vhd.iomgr-part").exists());
    }
}

#[test]
fn a_raw_file_is_not_copied_without_its_end() {
    let place = Place::new();
    place.write("a.img", &[1; 1000]);
    let ended = place.run(&["convert", "a.img", "b.vhd"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("a.img: size: ends with 488 bytes"), "{ended:?}");
    assert!(!place.path("b.vhd").exists() && !place.path("b.vhd.iomgr-part").exists());
}

#[test]
fn an_image_is_not_converted_into_itself() {
    let place = Place::new();
    place.write("a.img", &patterned());
    let ended = place.run(&["convert", "a.img", "a.img", "--force"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(place.read("a.img") == patterned(), "the source was changed");
}

#[test]
fn a_conversion_says_how_it_went_in_json() {
    let place = Place::new();
    place.write("a.img", &patterned());
    let copied = place.ok(&["convert", "a.img", "b.vhd", "--verify", "--json"]).json();
    // Where temporary files lie, blocks may be shared.
    let written = copied["written_bytes"].as_u64().unwrap() + copied["offloaded_bytes"].as_u64().unwrap();
    assert_eq!(
        (&copied["verified"], &copied["resumed_at_bytes"], written),
        (&true.into(), &0.into(), 2 << 20)
    );
    assert_eq!(
        (&copied["source"], &copied["target"]),
        (&"a.img".into(), &"b.vhd".into())
    );
    assert!(
        place
            .ok(&["convert", "b.vhd", "c.img", "--verify"])
            .stdout
            .ends_with("; verified\n")
    );
}

#[test]
fn maps_are_shown_run_by_run() {
    let place = Place::new();
    place.write("a.img", &patterned());
    place.ok(&["convert", "a.img", "b.img"]);
    place.ok(&["convert", "a.img", "c.vhd"]);
    check("map_raw", &place.ok(&["map", "b.img"]).shown(&place));
    // Which block gets its place first depends on which read ends first.
    let dynamic = place.ok(&["map", "c.vhd"]).shown(&place);
    check(
        "map_dynamic",
        &dynamic
            .replace(" 12288\n", " PLACE\n")
            .replace(" 2113536\n", " PLACE\n"),
    );
    check("map_json", &place.ok(&["map", "b.img", "--json"]).shown(&place));
    let empty = Place::new().with_vhd("d.vhd");
    let map = empty.ok(&["map", "d.vhd", "--json"]).json();
    assert_eq!(
        (map.as_array().unwrap().len(), &map[0]["length"]),
        (1, &(64 << 20).into())
    );
}

#[test]
fn comparing_has_three_ends() {
    let place = Place::new();
    let mut other = patterned();
    place.write("a.img", &other);
    place.ok(&["convert", "a.img", "a.vhd"]);
    other.push(0);
    other.resize(4 << 20, 0);
    place.write("longer.img", &other);
    other[2 << 20] ^= 1;
    place.write("other.img", &other);
    for (name, args) in [
        ("same", &["a.img", "a.vhd"][..]),
        ("longer", &["a.img", "longer.img"]),
        ("strict", &["a.img", "longer.img", "--strict"]),
        ("different", &["a.vhd", "other.img"]),
        ("missing", &["a.vhd", "none.img"]),
    ] {
        let ended = place.run(&[&["compare"], args].concat());
        check(&format!("compare_{name}"), &ended.shown(&place));
        let json = place.run(&[&["compare", "--json"], args].concat());
        assert_eq!(json.code, ended.code, "{json:?}");
        if ended.code != Some(3) {
            assert_eq!(json.json()["identical"], ended.code == Some(0), "{json:?}");
        }
    }
}

#[test]
fn a_manual_page_is_printed_or_written() {
    let place = Place::new();
    let page = place.ok(&["man", "convert"]).stdout;
    assert!(
        page.contains(".TH iomgr-convert 1") && page.contains("resume"),
        "{page}"
    );
    let pages = place.ok(&["man", "--out", "man/man1", "--json"]).json();
    for path in pages["files"].as_array().unwrap() {
        let text = String::from_utf8(place.read(path.as_str().unwrap())).unwrap();
        assert!(text.contains(".SH EXAMPLES"), "{path}");
    }
    assert_eq!(place.read("man/man1/iomgr-convert.1"), page.as_bytes());
    assert_eq!(place.run(&["man", "convert", "--out", "x"]).code, Some(2));
}
