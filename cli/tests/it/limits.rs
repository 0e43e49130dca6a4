//! Bounds on what clients may take: as they are asked for, and as the process's own limits allow.

use std::os::unix::net::UnixStream;

use crate::run::{Ended, Place};
use crate::serving::Served;

#[test]
fn limits_are_options_and_shown() {
    let place = Place::new().with_vhd("a.vhd");
    let args = [
        &["a.vhd", "--max-connections", "7", "--in-flight", "9"][..],
        &[
            "--handshake-timeout",
            "500ms",
            "--idle-timeout",
            "2min",
            "--stall-timeout",
            "5",
        ],
    ];
    let (served, _) = Served::json(&place, &args.concat());
    let limits = place.ok(&["status", "a", "--json"]).json()[0]["status"]["limits"].clone();
    let expected = serde_json::json!({
        "connections": 7, "in_flight": 9, "handshake_timeout_s": 0.5, "idle_timeout_s": 120.0, "stall_timeout_s": 5.0,
    });
    assert_eq!(limits, expected);
    place.ok(&["stop", "a"]);
    assert_eq!(served.ended().code, Some(0));
    for absurd in [["--max-connections", "0"], ["--in-flight", "100000"]] {
        let refused = place.run(&[&["serve", "a.vhd"][..], &absurd].concat());
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(refused.stderr.contains(&absurd[0][2..]), "{refused:?}");
    }
    assert_eq!(place.run(&["serve", "a.vhd", "--idle-timeout", "0"]).code, Some(2));
}

#[test]
fn without_descriptors_for_its_clients_it_says_what_to_raise() {
    let place = Place::new().with_vhd("a.vhd");
    let ended = (6..24).map(|limit| {
        let mut command = place.under(
            &format!("ulimit -n {limit}"),
            &["serve", "a.vhd", "--run", "true", "--json"],
        );
        Ended::from(command.output().unwrap())
    });
    let refused: Vec<_> = ended
        .filter(|ended| ended.stderr.contains("the NBD frontend cannot"))
        .collect();
    assert!(!refused.is_empty());
    for ended in refused {
        let hint = &ended.json_error()["hint"];
        assert_eq!(hint, "raise the limit of open files (`ulimit -n`)", "{ended:?}");
    }
}

/// Idle clients take descriptors. Who looks at the server finds some all the same.
#[test]
fn a_crowd_leaves_descriptors_for_others() {
    let place = Place::new().with_vhd("a.vhd").with_vhd("b.vhd");
    let limited = place.under("ulimit -n 32", &["serve", "a.vhd", "--json"]);
    let (served, _) = Served::spawn(limited, |line| line.ends_with('}'));
    let socket = place.runtime_dir().join("a.sock");
    let crowd: Vec<_> = (0..100).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    let status = place.ok(&["status", "a", "--json"]).json();
    let connections = status[0]["status"]["limits"]["connections"].as_u64().unwrap();
    assert!((1..16).contains(&connections), "{status}");
    place.ok(&["attach", "b.vhd", "--server", "a"]);
    drop(crowd);
    place.ok(&["stop", "a"]);
    let ended = served.ended();
    assert!(
        ended.stderr.contains("--max-connections 64") && ended.stderr.contains("(`ulimit -n`), which is 32"),
        "{ended:?}"
    );
    assert!(!ended.stderr.contains("accept"), "{ended:?}");
}
