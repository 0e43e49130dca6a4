//! What real clients see: every flag, size, name and context, and the answer to every command.

use iomgr_tests::{Server, Tool, need};
use serde_json::{Value, json};

use crate::disk::{Disk, Kind};

const SIZE_BYTES: u64 = 16 << 20;

/// libnbd, driven by `view.py`.
fn nbdsh(uri: &str) -> Value {
    let tool = Tool::new("nbdsh").env("PATH", need::system_path()).env("URI", uri);
    tool.args(["-c", include_str!("view.py")]).json()
}

/// What libnbd is told of a disk with this name and size that can be written.
fn told(name: &str) -> Value {
    json!({
        "protocol": "newstyle-fixed", "structured": true, "tls": false,
        "name": name, "description": "a disk to look at", "size": SIZE_BYTES,
        "exports": { name: "a disk to look at" },
        "contexts": ["base:allocation"], "allocation": true,
        "block_sizes": [512, 4096, 32 << 20],
        "cache": true, "df": true, "fast_zero": true, "flush": true, "fua": true,
        "multi_conn": true, "trim": true, "zero": true,
        "rotational": false, "read_only": false,
    })
}

/// The answers to its commands.
fn done() -> Value {
    json!({
        "write": null, "write fua": null, "write unaligned": "EINVAL", "write beyond": "ENOSPC",
        "write unknown flag": "EINVAL", "flush": null,
        "trim": null, "trim fua": null, "trim beyond": "EINVAL",
        "zero": null, "zero fua": null, "zero no hole": null, "zero beyond": "ENOSPC",
        "cache": null, "cache beyond": "EINVAL",
    })
}

#[test]
fn nbd_views_libnbd_sees_every_flag_of_a_vhd() {
    if !need::nbdsh() {
        return;
    }
    let disk = Disk::new(Kind::DynamicVhd, SIZE_BYTES);
    let server = disk.serve(&["--name", "vhd", "--description", "a disk to look at"]);
    let view = nbdsh(server.uri());
    assert_eq!(view["told"], told("vhd"));
    assert_eq!(view["done"], done());
    // The first block, 2 MiB, is allocated by the first write; what was not written in it are zeros that have a place.
    let read = &view["read"];
    assert_eq!(read["beyond"], "EINVAL");
    assert_eq!(read["whole"].as_array().unwrap().len(), 1, "DF: one chunk in {read}");
    assert_eq!(read["extents"], 1, "REQ_ONE in {read}");
    assert_eq!(read["first"], json!([2 << 20, 0]), "{read}");
    server.stop();
    disk.is_valid();
}

#[test]
fn nbd_views_libnbd_sees_every_flag_of_a_raw_file() {
    if !need::nbdsh() {
        return;
    }
    let disk = Disk::new(Kind::Raw, SIZE_BYTES);
    let server = disk.serve(&["--name", "raw", "--description", "a disk to look at"]);
    let view = nbdsh(server.uri());
    assert_eq!(view["told"], told("raw"));
    assert_eq!(view["done"], done());
    let read = &view["read"];
    assert_eq!(read["chunks"], json!(["data", "hole"]), "8 KiB of data, then a hole");
    assert_eq!(read["whole"], json!(["data"]), "DF: one chunk");
    assert_eq!(read["first"], json!([8192, 0]), "{read}");
    server.stop();
}

#[test]
fn nbd_views_a_read_only_disk_says_so_and_means_it() {
    if !need::nbdsh() {
        return;
    }
    let disk = Disk::new(Kind::DynamicVhd, SIZE_BYTES);
    let server = disk.serve(&["--read-only", "--name", "vhd", "--description", "a disk to look at"]);
    let view = nbdsh(server.uri());
    let mut expected = told("vhd");
    expected["read_only"] = true.into();
    for flag in ["trim", "zero", "fast_zero"] {
        expected[flag] = false.into();
    }
    assert_eq!(view["told"], expected);
    for command in ["write", "write fua", "trim", "zero", "zero no hole"] {
        assert_eq!(view["done"][command], "EPERM", "{command}");
    }
    for command in ["flush", "cache"] {
        assert_eq!(view["done"][command], Value::Null, "{command}");
    }
    assert_eq!(view["read"]["chunks"], json!(["hole"]));
    server.stop();
}

/// Two disks in one server: each under its name, the first also under none.
fn two() -> (Disk, Disk, Server) {
    let (vhd, raw) = (
        Disk::new(Kind::DynamicVhd, SIZE_BYTES),
        Disk::new(Kind::Raw, 2 * SIZE_BYTES),
    );
    let second = format!("{},format=raw", raw.image().display());
    let server = vhd.serve(&[&second, "--name=one", "--name=two", "--description=the first"]);
    (vhd, raw, server)
}

#[test]
fn nbd_views_nbdinfo_lists_every_export() {
    if !need::tools(&["nbdinfo"]) {
        return;
    }
    let (_vhd, _raw, server) = two();
    let default = format!("nbd+unix:///?socket={}", server.socket().display());
    let list = Tool::new("nbdinfo").args(["--list", "--json", &default]).json();
    let exports = list["exports"].as_array().unwrap();
    let seen: Vec<_> = exports
        .iter()
        .map(|export| (&export["export-name"], &export["export-size"], &export["description"]))
        .collect();
    let (one, two) = (json!("one"), json!("two"));
    let (small, large) = (json!(SIZE_BYTES), json!(2 * SIZE_BYTES));
    let (given, made) = (json!("the first"), json!("raw image"));
    assert_eq!(seen, [(&one, &small, &given), (&two, &large, &made)]);
    for export in exports {
        assert_eq!(export["contexts"], json!(["base:allocation"]), "{export}");
    }
    let size = |uri: &str| Tool::new("nbdinfo").args(["--size", uri]).run().trim().to_owned();
    assert_eq!(size(&default), SIZE_BYTES.to_string(), "the first is the default");
    let named = default.replace("///?", "///two?");
    assert_eq!(size(&named), (2 * SIZE_BYTES).to_string());
    let ended = Tool::new("nbdinfo").arg(default.replace("///?", "///three?")).end();
    assert_ne!(ended.code, Some(0), "there is no third export");
    server.stop();
}

/// `nbdinfo --can` and `--is` answer by their exit code: 0 yes, 2 no.
#[test]
fn nbd_views_nbdinfo_answers_questions() {
    if !need::tools(&["nbdinfo"]) {
        return;
    }
    let disk = Disk::new(Kind::DynamicVhd, SIZE_BYTES);
    let server = disk.serve(&[]);
    let answer = |question: &[&str]| {
        let ended = Tool::new("nbdinfo").args(question).arg(server.uri()).end();
        assert_eq!(ended.stdout, "", "{question:?}");
        ended.code
    };
    for can in [
        "cache",
        "df",
        "fast-zero",
        "flush",
        "fua",
        "multi-conn",
        "read",
        "trim",
        "write",
        "zero",
    ] {
        assert_eq!(answer(&["--can", can]), Some(0), "{can}");
    }
    assert_eq!(answer(&["--can", "structured-reply"]), Some(0));
    for is in ["read-only", "rotational", "tls"] {
        assert_eq!(answer(&["--is", is]), Some(2), "{is}");
    }
    let text = Tool::new("nbdinfo").arg(server.uri()).run();
    for line in [
        "protocol: newstyle-fixed without TLS, using structured packets",
        "base:allocation",
    ] {
        assert!(text.contains(line), "no {line:?} in {text}");
    }
    server.stop();
}

/// What QEMU's own client lists.
#[test]
fn nbd_views_qemu_sees_every_flag() {
    if !need::tools(&["qemu-nbd", "qemu-img", "qemu-io"]) {
        return;
    }
    let (_vhd, _raw, server) = two();
    let list = Tool::new("qemu-nbd").arg("--list").arg("-k").arg(server.socket()).run();
    for line in [
        "exports available: 2",
        "export: 'one'",
        "description: the first",
        "export: 'two'",
        "flush fua trim zeroes df multi cache fast-zero",
        "min block: 512",
        "opt block: 4096",
        "max block: 33554432",
        "available meta contexts: 1",
        "base:allocation",
    ] {
        assert!(list.contains(line), "no {line:?} in {list}");
    }
    let info = Tool::new("qemu-img")
        .args(["info", "-f", "raw", "--output=json", server.uri()])
        .json();
    assert_eq!(info["virtual-size"], SIZE_BYTES);
    zeroes_by_qemu(server.uri());
    server.stop();
}

/// Zeros with and without a hole, and only if they are cheap: QEMU's map tells them apart.
fn zeroes_by_qemu(uri: &str) {
    let commands = [
        "write -P 1 0 6M",
        "write -z -u 2M 2M",
        "write -z 4M 2M",
        "flush",
        "read -P 0 2M 4M",
        "read -P 1 0 2M",
    ];
    let commands = commands.iter().flat_map(|command| ["-c", command]);
    let ended = Tool::new("qemu-io")
        .args(["-f", "raw", "-d", "unmap"])
        .args(commands)
        .arg(uri)
        .run_for_code(0);
    assert!(!ended.stdout.contains("failed"), "{}", ended.stdout);
    let map = Tool::new("qemu-img")
        .args(["map", "-f", "raw", "--output=json", uri])
        .json();
    let entry = |mib: u64| {
        let entries = map.as_array().unwrap().iter();
        let mut at = entries.filter(|entry| entry["start"].as_u64().unwrap() <= mib << 20);
        at.next_back().unwrap().clone()
    };
    assert_eq!(
        (&entry(1)["data"], &entry(1)["zero"]),
        (&json!(true), &json!(false)),
        "{map}"
    );
    assert_eq!(
        (&entry(3)["data"], &entry(3)["zero"]),
        (&json!(false), &json!(true)),
        "a hole in {map}"
    );
    assert_eq!(entry(5)["data"], true, "zeros that must keep their place in {map}");
}
