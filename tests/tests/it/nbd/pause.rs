//! Pauses in the server's own process: what comes meanwhile waits, and every way in which a pause ends.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use iomgr_tests::nbd::FUA;
use iomgr_tests::{Client, TempDir, Tool, wait};
use vbd::{
    ControlClient, CreateOptions, Disk, DiskExport, DiskOptions, ErrorKind, PauseOptions, PauseRequest, ResumeOptions,
    ResumeRequest, Server, ServerOptions, create,
};

const MIB: u64 = 1 << 20;
const SIZE_BYTES: u64 = 64 * MIB;
const ESHUTDOWN: u32 = 108;

/// A server in this process.
struct Served {
    server: Server,
    image: PathBuf,
    dir: TempDir,
}

impl Served {
    fn start(name: &str) -> Self {
        let dir = TempDir::new();
        let image = dir.join(name);
        create(&image, &CreateOptions::new(SIZE_BYTES)).unwrap();
        let options = ServerOptions {
            socket: Some(dir.join("nbd")),
            control: Some(dir.join("control")),
            threads: 2,
            ..ServerOptions::default()
        };
        let server = Server::start(Disk::open(&image, &DiskOptions::default()).unwrap(), &options).unwrap();
        Self { server, image, dir }
    }

    fn client(&self) -> Client {
        Client::connect_to(&self.dir.join("nbd"), "").unwrap()
    }

    fn control(&self) -> ControlClient {
        ControlClient::connect(self.server.control(), wait::PATIENCE).unwrap()
    }

    /// Requests that the server has, and that have not ended.
    fn in_flight(&self) -> u32 {
        self.control().status().unwrap().nbd.in_flight
    }

    fn disk(&self) -> Disk {
        self.server.disks().remove(0)
    }

    fn pause(&self) {
        self.disk().pause(PauseOptions::default()).unwrap();
    }

    fn resume(&self, image: Option<PathBuf>) {
        let options = ResumeOptions { image, format: None };
        self.disk().resume(&options).unwrap();
    }
}

/// What a client was told has been done is in a copy that is made while the disk is paused; what it sends then waits.
#[test]
fn nbd_a_pause_holds_what_comes_and_copies_hold_what_was_acknowledged() {
    for name in ["disk.img", "disk.vhd"] {
        let served = Served::start(name);
        let mut client = served.client();
        assert_eq!(client.write(0, 5 * MIB, &[1; 4096]).unwrap(), Ok(()));
        served.pause();
        let late = client.send_write(0, 5 * MIB, &[2; 4096]).unwrap();
        let copy = served
            .dir
            .join("copy")
            .with_extension(served.image.extension().unwrap());
        fs::copy(&served.image, &copy).unwrap();
        // Clients may come and ask for the size meanwhile.
        assert_eq!(served.client().size_bytes(), SIZE_BYTES);
        served.resume(None);
        assert_eq!(client.receive().unwrap(), (late, Ok(())));
        assert_eq!(client.bytes(5 * MIB, 4096), [2; 4096]);

        served.pause();
        served.resume(Some(copy));
        assert_eq!(client.bytes(5 * MIB, 4096), [1; 4096], "{name}");
        client.disconnect().unwrap();
        served.server.stop().unwrap();
    }
}

#[test]
fn nbd_a_pause_ends_when_its_time_is_over() {
    let served = Served::start("disk.vhd");
    let mut client = served.client();
    let options = PauseOptions {
        resume_after: Some(Duration::from_millis(50)),
        ..PauseOptions::default()
    };
    served.disk().pause(options).unwrap();
    assert_eq!(client.write(FUA, 0, &[1; 4096]).unwrap(), Ok(()));
    assert!(served.disk().info().paused.is_none());
    // Its thread has nothing to say to the next pause.
    served.pause();
    let cookie = client.send_write(FUA, 0, &[2; 4096]).unwrap();
    assert!(served.disk().info().paused.is_some());
    served.resume(None);
    assert_eq!(client.receive().unwrap(), (cookie, Ok(())));
    served.server.stop().unwrap();
}

/// Nobody is left to ask for it, so it is tried until it works.
#[test]
fn nbd_a_pause_whose_lease_is_dropped_ends_when_the_image_is_free() {
    let served = Served::start("disk.vhd");
    let mut client = served.client();
    let lease = served.disk().pause_leased(PauseOptions::default()).unwrap();
    assert!(served.disk().info().paused.unwrap().leased);
    let cookie = client.send_write(FUA, 0, &[1; 4096]).unwrap();
    let other = Disk::open(&served.image, &DiskOptions::default()).unwrap();
    drop(lease);
    let trouble = || served.disk().info().paused.and_then(|paused| paused.error);
    assert!(wait::until(|| trouble().is_some()));
    assert!(trouble().unwrap().contains("is in use"), "{:?}", trouble());
    drop(other);
    assert_eq!(client.receive().unwrap(), (cookie, Ok(())));
    assert!(served.disk().info().paused.is_none());
    served.server.stop().unwrap();
}

#[test]
fn nbd_a_lease_ends_quietly_when_another_resumes() {
    let served = Served::start("disk.img");
    let lease = served.disk().pause_leased(PauseOptions::default()).unwrap();
    served.resume(None);
    served.pause();
    drop(lease);
    // It was no lease of this pause.
    let mut client = served.client();
    let cookie = client.send_write(FUA, 0, &[1; 4096]).unwrap();
    assert!(served.disk().info().paused.is_some());
    served.resume(None);
    assert_eq!(client.receive().unwrap(), (cookie, Ok(())));
    served.server.stop().unwrap();
}

/// Whoever has a lease may believe that nobody was at the image but they.
#[test]
fn nbd_a_lease_tells_its_owner_of_a_pause_in_between() {
    let served = Served::start("disk.img");
    let [mut owner, mut other] = [served.control(), served.control()];
    let pause = |lease| PauseRequest {
        disk: "disk".into(),
        lease,
        ..PauseRequest::default()
    };
    let resume = || ResumeRequest {
        disk: "disk".into(),
        ..ResumeRequest::default()
    };
    owner.pause(pause(true)).unwrap();
    other.resume(resume()).unwrap();
    other.pause(pause(false)).unwrap();
    assert_eq!(owner.resume(resume()).unwrap_err().kind(), ErrorKind::State);
    assert!(served.disk().info().paused.is_some());
    // Now it knows.
    owner.resume(resume()).unwrap();
    assert!(served.disk().info().paused.is_none());
    served.server.stop().unwrap();
}

/// Who stops a server does not wait for who has paused its disk; the image is as the pause has left it.
#[test]
fn nbd_a_server_stops_while_its_disk_is_paused() {
    for leased in [false, true] {
        let served = Served::start("disk.vhd");
        let mut clients = [served.client(), served.client()];
        assert_eq!(clients[0].write(FUA, 0, &[1; 4096]).unwrap(), Ok(()));
        let options = PauseOptions {
            resume_after: leased.then_some(Duration::from_secs(3600)),
            ..PauseOptions::default()
        };
        let lease = leased.then(|| served.disk().pause_leased(options).unwrap());
        if !leased {
            served.disk().pause(options).unwrap();
        }
        let sent = clients
            .each_mut()
            .map(|client| client.send_write(0, 0, &[2; 4096]).unwrap());
        assert!(wait::until(|| served.in_flight() == 2));
        let disk = served.disk();
        served.server.stop().unwrap();
        for (client, cookie) in clients.iter_mut().zip(sent) {
            assert_eq!(client.receive().unwrap(), (cookie, Err(ESHUTDOWN)));
        }
        assert!(disk.resume(&ResumeOptions::default()).is_err());
        drop(lease);
        let image = Disk::open(&served.image, &DiskOptions::default()).unwrap();
        drop(image);
        Tool::iomgr().arg("check").arg(&served.image).run();
    }
}

/// Whoever pauses, resumes, replaces and looks at the same time gets an answer, and the server stops in the middle of it.
#[test]
fn nbd_pauses_from_all_sides_hang_nobody() {
    const ROUNDS: u8 = 100;
    let served = Served::start("disk.vhd");
    let (over, disk) = (AtomicBool::new(false), served.disk());
    let until_over = |step: &dyn Fn()| {
        while !over.load(Ordering::Relaxed) {
            step();
        }
    };
    let in_a_hurry = PauseOptions {
        drain: Duration::from_millis(1),
        resume_after: Some(Duration::from_millis(2)),
    };
    let at_once = DiskOptions {
        lock_timeout: Duration::ZERO,
        ..DiskOptions::default()
    };
    let may_be_refused = |result: Result<(), vbd::Error>| {
        let kind = result.err().map(|error| error.kind());
        assert!(
            matches!(kind, None | Some(ErrorKind::State | ErrorKind::Io | ErrorKind::Locked)),
            "{kind:?}"
        );
    };
    std::thread::scope(|scope| {
        scope.spawn(|| until_over(&|| may_be_refused(disk.pause(PauseOptions::default()))));
        scope.spawn(|| until_over(&|| may_be_refused(disk.resume(&ResumeOptions::default()))));
        scope.spawn(|| until_over(&|| may_be_refused(disk.pause_leased(in_a_hurry).map(drop))));
        scope.spawn(|| until_over(&|| may_be_refused(disk.replace(&served.image, &at_once, wait::PATIENCE))));
        scope.spawn(|| until_over(&|| drop((disk.info(), served.in_flight(), served.client()))));
        let mut client = served.client();
        for round in 1..=ROUNDS {
            assert_eq!(client.write(FUA, 0, &[round; 4096]).unwrap(), Ok(()));
            assert_eq!(client.bytes(0, 4096), [round; 4096]);
        }
        over.store(true, Ordering::Relaxed);
    });
    served.server.stop().unwrap();
    drop(disk);
    Tool::iomgr().arg("check").arg(&served.image).run();
}

/// What waits for one disk takes memory and slots, but never all that others need.
#[test]
fn nbd_other_disks_go_on_while_one_is_paused() {
    const WRITES: u64 = 100;
    const LEN: usize = 256 << 10;
    let dir = TempDir::new();
    let exports = ["paused.vhd", "other.vhd"].map(|name| {
        let image = dir.join(name);
        create(&image, &CreateOptions::new(SIZE_BYTES)).unwrap();
        DiskExport::from(Disk::open(&image, &DiskOptions::default()).unwrap())
    });
    let options = ServerOptions {
        socket: Some(dir.join("nbd")),
        control: Some(dir.join("control")),
        ..ServerOptions::default()
    };
    let server = Server::start_all(exports.into(), &options).unwrap();
    let [mut held, mut other] = ["paused", "other"].map(|name| Client::connect_to(&dir.join("nbd"), name).unwrap());
    let disk = server.disks().remove(0);
    disk.pause(PauseOptions::default()).unwrap();
    std::thread::scope(|scope| {
        let crowd = scope.spawn(|| {
            // The server takes some of it, and the rest when the disk is back.
            for at in 0..WRITES {
                held.send_write(0, at * LEN as u64, &[1; LEN]).unwrap();
            }
            (0..WRITES).for_each(|_| assert_eq!(held.receive().unwrap().1, Ok(())));
        });
        let has_some = |control: &mut ControlClient| control.status().unwrap().nbd.in_flight > 0;
        let mut control = ControlClient::connect(server.control(), wait::PATIENCE).unwrap();
        assert!(wait::until(|| has_some(&mut control)));
        for round in 0..50 {
            assert_eq!(other.write(FUA, 0, &[round; 64 << 10]).unwrap(), Ok(()));
            assert_eq!(other.bytes(0, 64 << 10), [round; 64 << 10]);
        }
        assert!(!crowd.is_finished());
        disk.resume(&ResumeOptions::default()).unwrap();
    });
    drop(disk);
    server.stop().unwrap();
}
