//! Group `cli`: the binary's verbs, exit codes and texts.

mod images;

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use iomgr_tests::server::{Outcome, Starting};
use iomgr_tests::tool::Ended;
use iomgr_tests::{Client, Server, TempDir, Tool, need, pattern, wait};
use rustix::process::Signal;

use crate::disk::{Disk, Kind};

const MIB: u64 = 1 << 20;
const VERBS: &[&str] = &[
    "create",
    "info",
    "check",
    "repair",
    "convert",
    "serve",
    "stop",
    "status",
    "doctor",
    "completions",
];

#[test]
fn cli_help_has_examples_for_every_verb() {
    let help = Tool::iomgr().arg("--help").run();
    assert!(help.contains("Examples"), "{help}");
    for verb in VERBS {
        assert!(help.contains(verb), "{verb} is not in {help}");
        let help = Tool::iomgr().args([verb, "--help"]).run();
        assert!(
            help.contains("Examples") && help.contains(&format!("iomgr {verb}")),
            "{help}"
        );
    }
    assert!(Tool::iomgr().arg("--version").run().starts_with("iomgr "));
}

#[test]
fn cli_wrong_arguments_are_usage_errors() {
    let dir = TempDir::new();
    let image = dir.join("x.vhd");
    let image = image.to_str().unwrap();
    let wrong: &[&[&str]] = &[
        &[],
        &["no-such-verb"],
        &["create", image],
        &["create", image, "--size", "one"],
        &["create", image, "--size", "1G", "--format", "qcow2"],
        &["serve"],
        &["serve", image, "--cache", "warm"],
        &["serve", image, "--queues", "-1"],
        &["completions", "no-such-shell"],
    ];
    for words in wrong {
        let ended = Tool::iomgr().args(*words).run_for_code(2);
        assert!(!ended.stderr.is_empty(), "{words:?} says nothing");
    }
    assert!(!Path::new(image).exists());
}

/// An error is a message and exit code 1, never a panic.
fn refused(tool: Tool) -> Ended {
    let line = tool.line();
    let ended = tool.end();
    assert!(!ended.stderr.contains("panicked"), "$ {line}\n{ended:#?}");
    assert!(
        matches!(ended.code, Some(1 | 2)) && !ended.stderr.trim().is_empty(),
        "$ {line}\n{ended:#?}"
    );
    ended
}

#[test]
fn cli_errors_name_the_file_and_the_reason() {
    let dir = TempDir::new();
    let missing = dir.join("missing.vhd");
    for verb in ["info", "check", "repair", "serve"] {
        let ended = refused(Tool::iomgr().arg(verb).arg(&missing));
        assert!(ended.stderr.contains("missing.vhd"), "{ended:#?}");
        assert!(ended.stderr.to_lowercase().contains("no such file"), "{ended:#?}");
    }
    let garbage = dir.join("garbage.vhd");
    fs::write(&garbage, vec![0x5a; 1 << 20]).unwrap();
    for verb in ["info", "serve"] {
        let ended = refused(Tool::iomgr().arg(verb).arg(&garbage));
        assert!(ended.stderr.contains("garbage.vhd"), "{ended:#?}");
    }
    // What `check` finds is its answer, not its failure.
    let found = Tool::iomgr().arg("check").arg(&garbage).run_for_code(2);
    assert!(
        found.stdout.contains("garbage.vhd") && found.stdout.contains("corrupt"),
        "{found:#?}"
    );
}

#[test]
fn cli_create_makes_what_others_can_read() {
    let kinds = [
        (Kind::FixedVhd, 8 * MIB),
        (Kind::DynamicVhd, 8 * MIB),
        (Kind::DynamicVhd, 3 * MIB + 512),
    ];
    for (kind, size) in kinds {
        let disk = Disk::new(kind, size);
        let info = Tool::iomgr().arg("info").arg(disk.image()).arg("--json").json();
        assert!(info.is_object(), "{info}");
        disk.is_clean();
        if need::tools(&["qemu-img"]) {
            assert_eq!(disk.qemu_info()["virtual-size"], size, "{kind:?}");
            let zeros = disk.dir.join("zeros");
            fs::File::create(&zeros).unwrap().set_len(size).unwrap();
            disk.holds(&zeros);
        }
    }
}

#[test]
fn cli_create_does_not_overwrite_unasked() {
    let dir = TempDir::new();
    let image = dir.join("disk.vhd");
    fs::write(&image, "precious").unwrap();
    let create = || Tool::iomgr().arg("create").arg(&image).args(["--size", "1M"]);
    let ended = refused(create());
    assert!(ended.stderr.contains("--force"), "the way out is not named: {ended:#?}");
    assert_eq!(fs::read(&image).unwrap(), b"precious");
    create().arg("--force").run();
    Tool::iomgr().arg("check").arg(&image).run();
}

/// Images by QEMU, converted by us: to raw, to both kinds of VHD, and back.
#[test]
fn cli_convert_keeps_every_byte() {
    if !need::tools(&["qemu-img", "cmp"]) {
        return;
    }
    let dir = TempDir::new();
    let raw = dir.join("source.raw");
    sparse_source(&raw, 33 * MIB);
    let theirs = dir.join("theirs.vhd");
    let make = Tool::new("qemu-img").args(["convert", "-f", "raw", "-O", "vpc", "-o", "force_size=on"]);
    make.arg(&raw).arg(&theirs).run();

    for (number, (from, fixed)) in [(&raw, true), (&raw, false), (&theirs, true), (&theirs, false)]
        .iter()
        .enumerate()
    {
        let vhd = dir.join(format!("{number}.vhd"));
        let back = dir.join(format!("{number}.raw"));
        let convert = Tool::iomgr()
            .arg("convert")
            .arg(from)
            .arg(&vhd)
            .args(fixed.then_some("--fixed"));
        convert.run();
        Tool::iomgr().arg("check").arg(&vhd).run();
        Tool::new("qemu-img")
            .args(["compare", "-f", "raw", "-F", "vpc"])
            .arg(&raw)
            .arg(&vhd)
            .run();
        Tool::iomgr().arg("convert").arg(&vhd).arg(&back).run();
        Tool::new("cmp").arg(&raw).arg(&back).run();
        assert!(
            taken(&back) < 16 * MIB,
            "the raw file is not sparse: {} bytes",
            taken(&back)
        );
        if !fixed {
            assert!(taken(&vhd) < 20 * MIB, "zeros were allocated: {} bytes", taken(&vhd));
        }
    }
}

/// Data at both ends and in the middle, on both sides of block edges.
fn sparse_source(path: &Path, size: u64) {
    let file = fs::File::create(path).unwrap();
    file.set_len(size).unwrap();
    let mut random = fastrand::Rng::with_seed(5);
    let mut bytes = vec![0; 100_352];
    for at in [0, 2 * MIB - 512, 10 * MIB + 4096, 17 * MIB, size - 100_352] {
        random.fill(&mut bytes);
        file.write_all_at(&bytes, at).unwrap();
    }
}

fn taken(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).unwrap().blocks() * 512
}

/// An image without its last sector (the footer) is found out, is not written to, and is whole again after `repair`.
#[test]
fn cli_repair_restores_a_lost_footer() {
    let disk = Disk::new(Kind::DynamicVhd, 8 * MIB);
    let server = disk.serve(&[]);
    Client::connect(&server)
        .unwrap()
        .write(0, MIB, &[9; 4096])
        .unwrap()
        .unwrap();
    server.stop();
    let file = fs::OpenOptions::new()
        .write(true)
        .read(true)
        .open(disk.image())
        .unwrap();
    let footer_at = file.metadata().unwrap().len() - 512;
    file.write_all_at(&[0; 512], footer_at).unwrap();

    let ended = Tool::iomgr().arg("check").arg(disk.image()).end();
    assert_eq!(ended.code, Some(2), "{ended:#?}");
    Tool::iomgr().arg("repair").arg(disk.image()).arg("--dry-run").run();
    assert_eq!(
        Tool::iomgr().arg("check").arg(disk.image()).end().code,
        Some(2),
        "a dry run repaired"
    );
    Tool::iomgr().arg("repair").arg(disk.image()).run();
    disk.is_clean();
    let server = disk.serve(&[]);
    let read = Client::connect(&server).unwrap().bytes(MIB, 4096);
    pattern::assert_same(&read, &[9; 4096]);
    server.stop();
}

#[test]
fn cli_serve_repairs_when_asked() {
    let disk = Disk::new(Kind::DynamicVhd, 8 * MIB);
    let file = fs::OpenOptions::new().write(true).open(disk.image()).unwrap();
    let footer_at = file.metadata().unwrap().len() - 512;
    file.write_all_at(&[0; 512], footer_at).unwrap();
    let server = disk.serve(&["--repair"]);
    Client::connect(&server)
        .unwrap()
        .write(0, 0, &[1; 512])
        .unwrap()
        .unwrap();
    server.stop();
    disk.is_clean();
}

#[test]
fn cli_ctrl_c_and_sigterm_end_well() {
    for signal in [Signal::INT, Signal::TERM] {
        let disk = Disk::new(Kind::DynamicVhd, 8 * MIB);
        let server = disk.serve(&[]);
        let mut client = Client::connect(&server).unwrap();
        client.write(0, 0, &[7; 4096]).unwrap().unwrap();
        // The client stays connected and idle: that must not keep the server.
        server.stop_by(signal);
        disk.is_clean();
        let server = disk.serve(&[]);
        let read = Client::connect(&server).unwrap().bytes(0, 4096);
        pattern::assert_same(&read, &[7; 4096]);
        server.stop();
    }
}

#[test]
fn cli_stop_and_status_find_the_server() {
    let disk = Disk::new(Kind::DynamicVhd, 8 * MIB);
    let run = disk.dir.join("run");
    let iomgr = |words: &[&str]| Tool::iomgr().env("IOMGR_RUNTIME_DIR", &run).args(words);
    let server = disk.serve(&["--name", "alpha"]);
    let mut client = Client::connect(&server).unwrap();
    client.write(0, 0, &[7; 4096]).unwrap().unwrap();

    let status = iomgr(&["status", "--json"]).run();
    assert!(status.contains("alpha"), "{status}");
    serde_json::from_str::<serde_json::Value>(&status).unwrap_or_else(|error| panic!("{error}: {status}"));
    assert!(iomgr(&["status", "alpha"]).run().contains("alpha"));
    refused(iomgr(&["status", "beta"]));
    refused(iomgr(&["stop", "beta"]));

    iomgr(&["stop", "alpha"]).run();
    server.ended_well();
    disk.is_clean();
    refused(iomgr(&["stop", "alpha"]));
}

#[test]
fn cli_sockets_are_private() {
    let disk = Disk::new(Kind::DynamicVhd, 8 * MIB);
    let server = disk.serve(&[]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&disk.dir.join("run")), 0o700);
    assert_eq!(mode(&server.socket()), 0o600);
    assert_eq!(mode(&server.control()), 0o600);
    server.stop();
}

#[test]
fn cli_serve_creates_what_is_not_there() {
    let dir = TempDir::new();
    let image = dir.join("demo.vhd");
    let args = ["--create", "1G"];
    let server = Server::start(&dir.join("run"), &image, &args);
    assert_eq!(Client::connect(&server).unwrap().size_bytes(), 1 << 30);
    server.stop();
    Tool::iomgr().arg("check").arg(&image).run();
}

#[test]
fn cli_serve_takes_the_sockets_it_is_told() {
    let disk = Disk::new(Kind::Raw, 8 * MIB);
    let (socket, control) = (disk.dir.join("my.sock"), disk.dir.join("my.ctl"));
    let args = [
        "--socket",
        socket.to_str().unwrap(),
        "--control",
        control.to_str().unwrap(),
    ];
    let server = disk.serve(&args);
    assert_eq!((server.socket(), server.control()), (socket.clone(), control.clone()));
    // A living server's socket is not taken away from it.
    let other = Disk::new(Kind::Raw, MIB);
    match Starting::new(&other.dir.join("run"), other.image(), &args).wait(wait::PATIENCE) {
        Outcome::Ended(ended) => assert_eq!(ended.code, Some(1), "{ended:#?}"),
        outcome => panic!("two servers on one socket: {outcome:?}"),
    }
    assert_eq!(Client::connect(&server).unwrap().size_bytes(), 8 * MIB);
    // What a dead server left is no obstacle.
    server.kill();
    assert!(socket.exists());
    disk.serve(&args).stop();
}

#[test]
fn cli_serve_works_without_io_uring() {
    let disk = Disk::new(Kind::DynamicVhd, 8 * MIB);
    let server = disk.serve(&["--engine", "sync"]);
    let mut client = Client::connect(&server).unwrap();
    client.write(0, 3 * MIB, &[5; 8192]).unwrap().unwrap();
    client.flush().unwrap().unwrap();
    pattern::assert_same(&client.bytes(3 * MIB, 8192), &[5; 8192]);
    server.stop();
    disk.is_clean();
}

/// The tail of a raw image that is no whole sector is not served, and that is said.
#[test]
fn cli_serve_warns_of_a_tail() {
    let dir = TempDir::new();
    let image = dir.join("odd.raw");
    fs::write(&image, vec![1; 1000]).unwrap();
    let server = Server::start::<&str>(&dir.join("run"), &image, &[]);
    assert_eq!(Client::connect(&server).unwrap().size_bytes(), 512);
    let stderr = server.stop();
    assert!(stderr.contains("512") || stderr.contains("488"), "no warning: {stderr}");
}

/// Content never makes a VHD of a raw image: a guest could write it.
#[test]
fn cli_content_does_not_choose_the_format() {
    let disk = Disk::new(Kind::FixedVhd, MIB);
    let forged = disk.dir.join("forged.raw");
    fs::copy(disk.image(), &forged).unwrap();
    let server = Server::start::<&str>(&disk.dir.join("run"), &forged, &[]);
    assert_eq!(
        Client::connect(&server).unwrap().size_bytes(),
        fs::metadata(&forged).unwrap().len()
    );
    server.stop();
}

#[test]
fn cli_doctor_and_completions_answer() {
    assert!(Tool::iomgr().arg("doctor").run().contains("io_uring"));
    assert!(Tool::iomgr().args(["doctor", "--json"]).json().is_object());
    assert!(Tool::iomgr().args(["completions", "bash"]).run().contains("iomgr"));
}
