//! Other people's clients.

#![allow(clippy::print_stdout, reason = "a test that is skipped says so")]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use blkdev_nbd::Export;
use blkdev_nbd::test_utils::MemDevice;
use iomgr_core::manager::Registry;

use crate::client::pattern;
use crate::server::TestServer;

/// Runs a tool; `None`, and a line that says so, if it is not installed.
fn run(tool: &str, args: &[&str]) -> Option<String> {
    match Command::new(tool).args(args).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("skipped: {tool} is not installed");
            None
        }
        output => {
            let output = output.unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{tool} {args:?}: {stderr}");
            Some(String::from_utf8(output.stdout).unwrap())
        }
    }
}

#[test]
fn nbd_client_nbdinfo_sees_the_export() {
    let server = TestServer::new();
    if let Some(text) = run("nbdinfo", &[&server.uri()]) {
        let mut wanted = vec![
            "export-size: 67108864 (64M)",
            "description: for tests",
            "block_size_minimum: 512",
        ];
        wanted.extend([
            "is_read_only: false",
            "can_flush: true",
            "can_fua: true",
            "can_multi_conn: true",
        ]);
        wanted.extend([
            "can_trim: true",
            "can_zero: true",
            "can_fast_zero: true",
            "can_cache: true",
            "can_df: true",
            "base:allocation",
            "block_size_maximum: 33554432",
        ]);
        for line in wanted {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
    server.stop();
}

/// qemu asks about each export, on the connection that it lists them on.
#[test]
fn nbd_client_qemu_nbd_lists_a_hundred_exports() {
    let registry = Registry::new();
    let export = |name: String| Export {
        managed: registry.attach(&name).unwrap(),
        description: String::new(),
        device: Arc::new(MemDevice::new(&name, 4096)),
        name,
    };
    let server = TestServer::with(MemDevice::new("disk", 1 << 20), |config| {
        config.exports.extend((1..100).map(|n| export(format!("disk-{n}"))));
    });
    if let Some(text) = run("qemu-nbd", &["--list", "--socket", server.socket.to_str().unwrap()]) {
        assert_eq!(text.matches("base:allocation").count(), 100, "{text}");
    }
    server.stop();
}

#[test]
fn nbd_client_nbdcopy_both_ways() {
    let server = TestServer::new();
    let dir = tempfile::tempdir().unwrap();
    let (there, back) = (dir.path().join("there"), dir.path().join("back"));
    let bytes = pattern(64 << 20, 11);
    std::fs::write(&there, &bytes).unwrap();
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let options = ["--connections=4", "--requests=64", "--flush"];
    let copy = |from: &str, to: &str| run("nbdcopy", &[&options[..], &[from, to]].concat());
    if copy(&path(&there), &server.uri()).is_some() {
        assert!(server.device.bytes() == bytes);
        copy(&server.uri(), &path(&back));
        assert!(std::fs::read(&back).unwrap() == bytes);
    }
    server.stop();
}

#[test]
fn nbd_client_qemu_io_patterns() {
    let server = TestServer::new();
    let commands = [
        "write -P 5 1M 3M",
        "read -P 5 1M 3M",
        "write -z 1M 1M",
        "read -P 0 1M 1M",
        "discard 2M 1M",
        "flush",
    ];
    let mut args = vec!["-f", "raw"];
    commands.iter().for_each(|command| args.extend(["-c", command]));
    let uri = server.uri();
    args.push(&uri);
    if let Some(text) = run("qemu-io", &args) {
        assert!(!text.contains("failed"), "{text}");
        assert!(server.device.bytes()[3 << 20..4 << 20].iter().all(|byte| *byte == 5));
    }
    server.stop();
}
