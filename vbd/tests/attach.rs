//! Disks that come and go while their server runs.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use iomgr_core::manager::test_utils::CountingManager;
use vbd::{
    ControlClient, CreateOptions, Disk, DiskExport, DiskOptions, Error, ErrorKind, Server, ServerOptions, check, create,
};

const SIZE_BYTES: u64 = 64 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// Images `a.vhd` to `e.vhd`, and a server of the first.
struct Images {
    dir: tempfile::TempDir,
}

impl Images {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c", "d", "e"] {
            create(&dir.path().join(format!("{name}.vhd")), &CreateOptions::new(SIZE_BYTES)).unwrap();
        }
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.vhd"))
    }

    /// Opens an image, without waiting for whoever has it.
    fn open(&self, name: &str) -> Result<DiskExport, Error> {
        let at_once = DiskOptions {
            lock_timeout: Duration::ZERO,
            ..DiskOptions::default()
        };
        Disk::open(&self.path(name), &at_once).map(DiskExport::from)
    }

    fn serve(&self, threads: u16) -> Server {
        let options = ServerOptions {
            socket: Some(self.dir.path().join("nbd")),
            control: Some(self.dir.path().join("control")),
            threads,
            ..ServerOptions::default()
        };
        Server::start_all(vec![self.open("a").unwrap()], &options).unwrap()
    }
}

fn names(server: &Server) -> Vec<String> {
    server.disks().iter().map(|disk| disk.info().name).collect()
}

#[test]
fn an_image_is_free_when_its_disk_is_detached() {
    let images = Images::new();
    let server = images.serve(2);
    for name in ["b", "c"] {
        server.attach(images.open(name).unwrap()).unwrap();
        assert_eq!(images.open(name).unwrap_err().kind(), ErrorKind::Locked);
    }
    assert_eq!(names(&server), ["a", "b", "c"]);
    assert_eq!(server.disk("b").unwrap().info().path, images.path("b"));
    let mut client = ControlClient::connect(server.control(), PATIENCE).unwrap();
    let status = client.status().unwrap();
    assert_eq!(status.devices[2].info.name, "c");
    assert!(
        status.devices[2].uris[0].contains("/c?"),
        "{:?}",
        status.devices[2].uris
    );

    server.detach("a", PATIENCE).unwrap();
    images.open("a").unwrap();
    assert!(check(&images.path("a"), None).unwrap().findings.is_empty());
    assert_eq!(names(&server), ["b", "c"]);
    assert_eq!(client.status().unwrap().devices.len(), 2);
    for name in ["b", "c"] {
        server.detach(name, PATIENCE).unwrap();
        images.open(name).unwrap();
    }
    assert!(server.is_alive(), "it goes on without disks");
    assert!(client.status().unwrap().devices.is_empty());
    server.attach(images.open("a").unwrap()).unwrap();
    server.stop().unwrap();
    images.open("a").unwrap();
}

#[test]
fn what_cannot_be_attached_or_detached_is_refused_and_nothing_changes() {
    let images = Images::new();
    let server = images.serve(1);
    let twin = DiskOptions {
        name: Some("a".to_owned()),
        ..DiskOptions::default()
    };
    let twin = || Disk::open(&images.path("b"), &twin).unwrap();
    let taken = server.attach(twin().into()).unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::InvalidOption);
    assert!(
        ["a.vhd", "b.vhd", "another name"]
            .iter()
            .all(|word| taken.to_string().contains(word)),
        "{taken}"
    );
    let unknown = server.detach("b", PATIENCE).unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::NotFound);
    assert!(unknown.to_string().contains("no disk is called \"b\""), "{unknown}");
    let manager = CountingManager::new("choosy");
    manager.refuse("c");
    server.registry().register(manager.clone()).unwrap();
    let refused = server.attach(images.open("c").unwrap()).unwrap_err();
    assert!(refused.to_string().contains("the manager refuses"), "{refused}");
    for name in ["b", "c"] {
        images.open(name).unwrap();
    }
    assert_eq!(names(&server), ["a"]);
    server.stop().unwrap();
    manager.assert_over();
}

/// Whatever meets whatever: each disk is served or free, and all of them are free in the end.
#[test]
fn attach_detach_and_stop_do_not_hurt_each_other() {
    for _ in 0..4 {
        let images = Images::new();
        let server = images.serve(2);
        let registry = server.registry().clone();
        let rounds = AtomicUsize::new(0);
        thread::scope(|scope| {
            let (server, images, rounds) = (&server, &images, &rounds);
            // Two threads each want the same disk, one way or the other.
            let workers: Vec<_> = ["b", "b", "c", "c", "a"]
                .map(|name| scope.spawn(move || churn(server, images, name, rounds)))
                .into();
            while rounds.load(Ordering::Relaxed) < 20 && !workers.iter().any(thread::ScopedJoinHandle::is_finished) {
                ControlClient::connect(server.control(), PATIENCE)
                    .unwrap()
                    .status()
                    .unwrap();
            }
            server.stopper().stop();
        });
        server.stop().unwrap();
        for name in ["a", "b", "c"] {
            images.open(name).unwrap();
            assert!(check(&images.path(name), None).unwrap().findings.is_empty());
        }
        assert_eq!(registry.pending_total(), 0);
    }
}

/// Attaches and detaches a disk a few times, as far as others let it.
fn churn(server: &Server, images: &Images, name: &str, rounds: &AtomicUsize) {
    for _ in 0..20 {
        if let Ok(export) = images.open(name) {
            server.attach(export).unwrap();
        }
        // Somebody else may have been faster.
        if server.detach(name, PATIENCE).is_ok() {
            rounds.fetch_add(1, Ordering::Relaxed);
        }
    }
}
