//! A server and its control socket, from start to end.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use vbd::{ControlClient, CreateOptions, Disk, DiskExport, DiskOptions, ErrorKind, Server, ServerOptions, create};

/// Nobody waits for anybody here.
const AT_ONCE: DiskOptions = DiskOptions {
    name: None,
    format: None,
    read_only: false,
    repair: false,
    cache: vbd::Cache::Writeback,
    lock_timeout: Duration::ZERO,
    retry: vbd::RetryPolicy::DEFAULT,
};

struct Image {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl Image {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.vhd");
        create(&path, &CreateOptions::new(64 << 20)).unwrap();
        Self { _dir: dir, path }
    }

    fn serve(&self, threads: u16, read_only: bool) -> Server {
        let options = ServerOptions {
            socket: Some(self.path.with_extension("sock")),
            control: Some(self.path.with_extension("ctl")),
            threads,
            ..ServerOptions::default()
        };
        let disk = DiskOptions { read_only, ..AT_ONCE };
        Server::start(Disk::open(&self.path, &disk).unwrap(), &options).unwrap()
    }
}

fn connect(control: &Path) -> UnixStream {
    let stream = UnixStream::connect(control).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

#[test]
fn the_image_is_free_when_stop_returns_whatever_control_clients_do() {
    let image = Image::new();
    for _ in 0..3 {
        let server = image.serve(1, false);
        let control = server.control().to_owned();
        // One that has never said anything, one in the middle of a line, one that has got its answer.
        let _silent = connect(&control);
        let mut half = connect(&control);
        half.write_all(b"{\"v\":1,").unwrap();
        ControlClient::connect(&control, Duration::from_secs(30))
            .unwrap()
            .status()
            .unwrap();
        server.stop().unwrap();
        assert!(!control.exists());
        Disk::open(&image.path, &AT_ONCE).unwrap();
    }
}

#[test]
fn who_hears_of_the_end_finds_the_image_free() {
    let image = Image::new();
    let server = image.serve(2, false);
    let (control, path) = (server.control().to_owned(), image.path.clone());
    let client = std::thread::spawn(move || {
        ControlClient::connect(&control, Duration::from_secs(30))
            .unwrap()
            .stop()
            .unwrap();
        Disk::open(&path, &AT_ONCE).unwrap();
    });
    server.wait().unwrap();
    server.stop().unwrap();
    client.join().unwrap();
}

#[test]
fn a_wish_to_stop_counts_although_its_client_is_gone() {
    let image = Image::new();
    let server = image.serve(1, false);
    let mut client = connect(server.control());
    client.write_all(b"{\"v\":1,\"verb\":\"stop\"}\n").unwrap();
    drop(client);
    server.wait().unwrap();
    server.stop().unwrap();
}

#[test]
fn a_line_that_is_too_long_is_no_request() {
    let image = Image::new();
    let server = image.serve(1, false);
    let mut client = connect(server.control());
    let mut line = vec![b' '; 64 << 10];
    line.extend_from_slice(b"{\"v\":1,\"verb\":\"status\"}\n");
    // The server may hang up before it has read all of it.
    let _ = client.write_all(&line);
    let mut answers = BufReader::new(client).lines();
    let first = answers.next().unwrap().unwrap();
    assert!(first.contains("too long"), "{first}");
    assert!(answers.next().is_none_or(|line| line.is_err()));
    server.stop().unwrap();
}

#[test]
fn a_read_only_disk_is_served_by_several_threads() {
    let image = Image::new();
    let server = image.serve(3, true);
    assert!(server.disks()[0].info().read_only);
    server.stop().unwrap();
}

/// Two images, opened under these names.
fn two(images: &[Image; 2], names: [&str; 2]) -> Vec<DiskExport> {
    let open = |image: &Image, name: &str| {
        let options = DiskOptions {
            name: Some(name.to_owned()),
            ..AT_ONCE
        };
        Disk::open(&image.path, &options).unwrap().into()
    };
    images
        .iter()
        .zip(names)
        .map(|(image, name)| open(image, name))
        .collect()
}

fn options(image: &Image) -> ServerOptions {
    ServerOptions {
        socket: Some(image.path.with_extension("sock")),
        control: Some(image.path.with_extension("ctl")),
        pidfile: Some(image.path.with_extension("pid")),
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        ..ServerOptions::default()
    }
}

#[test]
fn several_disks_share_a_server_and_all_of_them_are_closed() {
    let images = [Image::new(), Image::new()];
    let server = Server::start_all(two(&images, ["a", "b"]), &options(&images[0])).unwrap();
    assert!(server.is_alive() && !server.failed());
    let mut client = ControlClient::connect(server.control(), Duration::from_secs(30)).unwrap();
    let status = client.status().unwrap();
    let names: Vec<_> = status.devices.iter().map(|disk| disk.info.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(server.addresses().len(), 2);
    assert!(status.devices[1].uris[1].starts_with("nbd://127.0.0.1:"), "{status:?}");
    server.stop().unwrap();
    for image in &images {
        Disk::open(&image.path, &AT_ONCE).unwrap();
    }
    let left: Vec<_> = std::fs::read_dir(images[0].path.parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn a_server_that_does_not_start_leaves_nothing() {
    let images = [Image::new(), Image::new()];
    let refused = Server::start_all(two(&images, ["a", "a"]), &options(&images[0])).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidOption);
    assert!(refused.to_string().contains("--name"), "{refused}");
    let nothing = Server::start_all(Vec::new(), &options(&images[0])).unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::InvalidOption);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let occupied = ServerOptions {
        listen: vec![taken.local_addr().unwrap()],
        ..options(&images[0])
    };
    let refused = Server::start_all(two(&images, ["a", "b"]), &occupied).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Server);
    for image in &images {
        Disk::open(&image.path, &AT_ONCE).unwrap();
        assert_eq!(std::fs::read_dir(image.path.parent().unwrap()).unwrap().count(), 1);
    }
}
