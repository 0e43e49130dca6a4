//! Filters below real clients: what they slow down, fail and find out.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use iomgr_tests::nbd::{EIO, ENOSPC, Span};
use iomgr_tests::{Client, Server, Tool, need};
use serde_json::Value;

use crate::clients::{fio_verify, nbdcopy};
use crate::disk::{Disk, Kind};

const MIB: u64 = 1 << 20;

/// A disk of 64 MiB without a hole: a read of what a file does not have never comes to a filter.
fn full_disk(kind: Kind) -> Disk {
    let disk = Disk::new(kind, 64 * MIB);
    let mut bytes = vec![0; 64 << 20];
    fastrand::Rng::with_seed(5).fill(&mut bytes);
    let file = OpenOptions::new().write(true).open(disk.image()).unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    disk
}

/// Small requests at random, 32 at a time; fio's word on them.
fn fio(server: &Server, mode: &str, args: &[&str]) -> Value {
    let fio = Tool::new("fio").args(["--name=filters", "--ioengine=nbd", "--bs=4k", "--output-format=json"]);
    let fio = fio.arg(format!("--rw={mode}")).arg(format!("--uri={}", server.uri()));
    fio.args(args).json()["jobs"][0].clone()
}

#[test]
fn queue_filter_latency_lets_no_request_end_sooner() {
    if !need::tools(&["fio"]) {
        return;
    }
    for engine in ["auto", "sync"] {
        let disk = full_disk(Kind::Raw);
        let server = disk.serve(&["--filter", "latency:1ms", "--engine", engine]);
        for mode in ["randread", "randwrite"] {
            let job = fio(&server, mode, &["--iodepth=32", "--size=2M"]);
            let stats = &job[mode.trim_start_matches("rand")];
            assert_eq!(stats["total_ios"], 512, "{job}");
            let min_ns = stats["lat_ns"]["min"].as_u64().unwrap();
            assert!(min_ns >= 1_000_000, "{mode} on {engine}: {min_ns} ns");
        }
        server.stop();
    }
}

#[test]
fn queue_filter_fault_fails_what_it_says_and_nothing_else() {
    if !need::tools(&["qemu-io"]) {
        return;
    }
    let disk = full_disk(Kind::Raw);
    let filter = "fault:op=write,range=1MiB-2MiB,errno=ENOSPC";
    let server = disk.serve(&["--filter", filter]);
    let commands = [
        "write -P 0x11 0 4k",
        "write -P 0x22 1M 4k",
        "write -P 0x33 2M 4k",
        "read -P 0x11 0 4k",
        "read -P 0x33 2M 4k",
        "read 1M 4k",
        "flush",
    ];
    let commands = commands.iter().flat_map(|command| ["-c", command]);
    let ended = Tool::new("qemu-io")
        .args(["-f", "raw"])
        .args(commands)
        .arg(server.uri())
        .end();
    let failed = format!("{}{}", ended.stdout, ended.stderr);
    assert_eq!(failed.matches("failed").count(), 1, "{failed}");
    assert!(failed.contains("write failed: No space left on device"), "{failed}");
    is_shown(
        &disk,
        &server,
        "fault:rate=1,op=write,range=1MiB-2MiB,errno=ENOSPC,seed=0",
    );
    server.stop();
}

/// In the ready line, and in both forms of the status.
fn is_shown(disk: &Disk, server: &Server, filter: &str) {
    assert_eq!(server.ready()["filters"], serde_json::json!([filter]));
    let status = |args: &[&str]| {
        let status = Tool::iomgr().arg("status").args(args);
        status.env("IOMGR_RUNTIME_DIR", disk.dir.join("run"))
    };
    assert_eq!(
        status(&["--json"]).json()[0]["status"]["filters"],
        serde_json::json!([filter])
    );
    let text = status(&[]).run();
    assert!(text.contains(&format!("  filter {filter}\n")), "{text}");
}

#[test]
fn queue_filter_fault_fails_the_same_requests_for_the_same_seed() {
    if !need::tools(&["fio"]) {
        return;
    }
    let disk = full_disk(Kind::Raw);
    let errors = |seed: &str| {
        let server = disk.serve(&["--filter", &format!("fault:op=read,rate=5%,seed={seed}")]);
        let all = ["--iodepth=1", "--size=4M", "--continue_on_error=all"];
        let job = fio(&server, "randread", &all);
        server.stop();
        let (errors, whole) = (
            job["total_err"].as_u64().unwrap(),
            job["read"]["total_ios"].as_u64().unwrap(),
        );
        assert!(0 < errors && errors < whole, "{job}");
        errors
    };
    assert_eq!(errors("7"), errors("7"));
    assert!((8..16).any(|seed| errors(&seed.to_string()) != errors("7")));
}

/// Errors that pass are the server's business: clients see none of them, and what they wrote is what they read.
#[test]
fn queue_filter_fault_that_passes_is_not_seen_by_clients() {
    if !need::tools(&["fio"]) {
        return;
    }
    let disk = Disk::new(Kind::Raw, 64 * MIB);
    let server = disk.serve(&["--filter", "fault:op=read+write,rate=5%,errno=EAGAIN,seed=2"]);
    fio_verify(server.uri());
    let status = Tool::iomgr().args(["status", "--json"]);
    let status = status.env("IOMGR_RUNTIME_DIR", disk.dir.join("run")).json();
    let retries = status[0]["status"]["devices"][0]["retry"]["retries"].as_u64();
    assert!(retries.is_some_and(|retries| retries > 0), "{status}");
    server.stop();
}

/// Faults also meet the image's own structure. Whatever a client is told, what is left is an image.
#[test]
fn queue_filter_fault_leaves_a_dynamic_vhd_that_is_one() {
    if !need::tools(&["fio"]) {
        return;
    }
    let disk = Disk::new(Kind::DynamicVhd, 64 * MIB);
    let server = disk.serve(&["--filter", "fault:op=write+zero,rate=5%,seed=3", "--queues", "2"]);
    let all = ["--iodepth=16", "--size=16M", "--continue_on_error=all", "--numjobs=1"];
    let job = fio(&server, "randwrite", &all);
    assert!(job["total_err"].as_u64().unwrap() > 0, "{job}");
    server.stop();
    disk.is_valid();
}

fn flip(image: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(image).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

#[test]
fn queue_filter_checksum_finds_a_byte_that_was_flipped_in_the_image() {
    let disk = full_disk(Kind::Raw);
    let server = disk.serve(&["--filter", "checksum:size=64MiB"]);
    let mut client = Client::connect(&server).unwrap();
    client.write(0, 3 * MIB, &[0x5a; 8192]).unwrap().unwrap();
    assert_eq!(client.bytes(3 * MIB, 8192), [0x5a; 8192]);
    flip(disk.image(), 3 * MIB + 4096 + 17);
    let (offset, len) = (3 * MIB, 8192);
    assert_eq!(client.read(Span { offset, len }).unwrap(), Err(EIO));
    assert_eq!(
        client.bytes(3 * MIB, 4096),
        [0x5a; 4096],
        "the sectors before are as they were"
    );
    client.disconnect().unwrap();
    if need::tools(&["qemu-io"]) {
        let qemu_io = Tool::new("qemu-io").args(["-r", "-f", "raw", "-c", "read 3M 8k"]);
        let ended = qemu_io.arg(server.uri()).end();
        let said = format!("{}{}", ended.stdout, ended.stderr);
        assert!(said.contains("read failed: Input/output error"), "{said}");
    }
    let log = server.stop();
    let sector = (3 * MIB + 4096) / 512;
    for part in [
        "checksum_mismatch",
        &disk.image().display().to_string(),
        &format!("sector={sector} "),
    ] {
        assert!(log.contains(part), "{part:?} is not in: {log}");
    }
}

/// Many clients at once, on several threads that write the same sectors one after the other: nothing is wrong, so nothing
/// is found.
#[test]
fn queue_filter_checksum_accuses_nobody_wrongly() {
    if !need::tools(&["fio", "nbdcopy"]) {
        return;
    }
    for kind in [Kind::Raw, Kind::DynamicVhd] {
        let disk = Disk::new(kind, 64 * MIB);
        let server = disk.serve(&["--filter", "checksum:size=64MiB", "--queues", "2", "-v"]);
        let bytes = disk.dir.join("bytes");
        let mut content = vec![0; 64 << 20];
        fastrand::Rng::with_seed(6).fill(&mut content);
        fs::write(&bytes, content).unwrap();
        nbdcopy(bytes.as_os_str(), server.uri().as_ref());
        fio_verify(server.uri());
        nbdcopy(server.uri().as_ref(), bytes.as_os_str());
        let log = server.stop();
        let ended: Vec<_> = log.lines().filter(|line| line.contains("checksum_ended")).collect();
        assert!(
            ended
                .last()
                .is_some_and(|line| !line.contains("verified=0 ") && line.contains("wrong=0")),
            "{log}"
        );
        assert!(!log.contains("checksum_mismatch"), "{log}");
    }
}

#[test]
fn queue_filters_of_a_chain_each_do_their_part() {
    let disk = full_disk(Kind::Raw);
    let args = ["--filter", "fault:op=write,errno=ENOSPC", "--filter", "trace"];
    let server = disk.serve(&[&args[..], &["-vv"]].concat());
    let mut client = Client::connect(&server).unwrap();
    assert_eq!(client.write(0, 0, &[1; 4096]).unwrap(), Err(ENOSPC));
    assert_eq!(client.bytes(8192, 4096).len(), 4096);
    client.disconnect().unwrap();
    let log = server.stop();
    let traced: Vec<_> = log.lines().filter(|line| line.contains("op_traced")).collect();
    assert!(
        traced
            .iter()
            .any(|line| line.contains("kind=read offset=8192 len=4096")),
        "{log}"
    );
    assert!(
        !traced.iter().any(|line| line.contains("kind=write offset=0 ")),
        "{log}"
    );
}

#[test]
fn queue_filter_that_is_none_is_a_usage_error_that_names_the_way_out() {
    let ended = Tool::iomgr()
        .args(["serve", "nowhere.img", "--filter", "fault:rate=2"])
        .run_for_code(2);
    assert!(
        ended.stderr.contains("rate=2: say a number from 0 to 1"),
        "{}",
        ended.stderr
    );
}
