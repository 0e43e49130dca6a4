//! ublk devices where there is no driver: each verb says so at once, and names the way out.

use std::path::Path;

use crate::run::{Ended, Place};

/// Runs it; `None` on a machine that has the driver, whose devices are left alone.
#[allow(clippy::print_stdout, reason = "why a test is skipped is said where tests say it")]
fn without_driver(args: &[&str]) -> Option<Ended> {
    if Path::new("/dev/ublk-control").exists() {
        println!("skipped: there is a ublk driver here; the tests in the guest use it");
        return None;
    }
    let place = Place::new();
    place.write("disk.img", &[0; 4096]);
    place.write("null", &[0; 4096]);
    Some(place.run(args))
}

#[test]
fn every_verb_names_the_driver_and_the_way_without() {
    let verbs: [&[&str]; 10] = [
        &["add", "null"],
        &["add", "-n", "3", "null", "--foreground"],
        &["add", "disk.img", "-q", "2"],
        &["add", "raw", "disk.img"],
        &["add", "./null", "--format", "raw"],
        &["list", "--ublk"],
        &["list", "-n", "0"],
        &["features"],
        &["del", "-n", "0"],
        &["del", "-a"],
    ];
    for args in verbs {
        let Some(ended) = without_driver(args) else { return };
        assert_eq!(ended.code, Some(1), "{args:?}: {ended:?}");
        assert_eq!(ended.stdout, "", "{args:?}");
        for words in ["no /dev/ublk-control", "modprobe ublk_drv", "iomgr serve IMAGE"] {
            assert!(ended.stderr.contains(words), "{args:?}: {ended:?}");
        }
    }
}

/// The child in the background speaks for its parent, in its parent's way.
#[test]
fn errors_of_the_background_are_json_as_well() {
    let Some(ended) = without_driver(&["add", "null", "--json"]) else {
        return;
    };
    let error: serde_json::Value = serde_json::from_str(&ended.stderr).unwrap();
    assert_eq!((ended.code, error["kind"].as_str()), (Some(1), Some("server")));
    assert!(error["hint"].as_str().unwrap().contains("NBD"), "{error}");
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_tried() {
    let place = Place::new();
    for (args, code, words) in [
        (["add", "null", "-d", "0"].as_slice(), 2, "depth"),
        (&["add", "null", "-q", "0"], 2, "1 to 64 queues"),
        (&["add", "null", "-q", "64", "-d", "65"], 2, "2 GiB"),
        (&["add", "null", "-b", "5000"], 2, "power of two"),
        (&["add", "null", "-d", "4096", "-b", "1M"], 2, "2 GiB"),
        (&["add", "null", "--size", "1000"], 2, "multiple of 512"),
        (&["add", "null", "--size", "0"], 2, "multiple of 512"),
        (&["add", "null", "-n", "1048576"], 2, "0..=1048575"),
        (&["add", "null", "--read-only"], 2, "./null"),
        (&["add", "null", "--filter", "trace"], 2, "./null"),
        (&["add", "raw"], 2, "./raw"),
        (&["add", "raw", "disk.img", "--format", "vhd"], 2, "--format"),
        (&["add", "disk.img", "--size", "1M"], 2, "null alone"),
        (&["add", "disk.img", "other.img"], 2, "one image"),
        (&["add", "./null"], 1, "--format raw"),
        (&["add", "nothing.img", "--foreground"], 1, "nothing.img"),
        (&["add", "raw", "nothing", "--foreground"], 1, "nothing"),
    ] {
        let ended = place.run(args);
        assert_eq!(ended.code, Some(code), "{args:?}: {ended:?}");
        assert!(ended.stderr.contains(words), "{args:?}: {ended:?}");
    }
    for args in [
        &["add"][..],
        &["del"],
        &["del", "-a", "-n", "0"],
        &["add", "null", "--size", "x"],
    ] {
        assert_eq!(place.run(args).code, Some(2), "{args:?}");
    }
}
