//! Disks that are paused under load: the image goes, comes back, is another copy, has grown; clients only wait.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use iomgr_tests::nbd::FUA;
use iomgr_tests::{Client, TempDir, Tool, need, wait};
use vbd::{
    ControlClient, CreateOptions, Disk, DiskExport, DiskOptions, ErrorKind, PauseOptions, ResumeOptions, Server,
    ServerOptions, create,
};

use crate::clients::fio_verify;

const MIB: u64 = 1 << 20;
const SIZE_BYTES: u64 = 64 * MIB;
const PAUSES: u32 = 50;
const ESHUTDOWN: u32 = 108;

/// A server in this process of an image that changes.
struct Served {
    server: Server,
    image: PathBuf,
    size_bytes: u64,
    /// The image that was left last, and a copy of it as it was then.
    left: Option<[PathBuf; 2]>,
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
        Self {
            server,
            image,
            size_bytes: SIZE_BYTES,
            left: None,
            dir,
        }
    }

    fn client(&self) -> Client {
        Client::connect_to(&self.dir.join("nbd"), "").unwrap()
    }

    /// Requests that the server has, and that have not ended.
    fn in_flight(&self) -> u32 {
        let mut control = ControlClient::connect(self.server.control(), wait::PATIENCE).unwrap();
        control.status().unwrap().nbd.in_flight
    }

    fn disk(&self) -> Disk {
        self.server.disks().remove(0)
    }

    fn pause(&self) {
        self.disk().pause(PauseOptions::default()).unwrap();
    }

    fn resume(&mut self, next: Option<PathBuf>) {
        self.disk()
            .resume(&ResumeOptions {
                image: next.clone(),
                format: None,
            })
            .unwrap();
        self.image = next.unwrap_or_else(|| self.image.clone());
    }

    fn named(&self, turn: u32, what: &str) -> PathBuf {
        let extension = self.image.extension().unwrap();
        self.dir.join(format!("{turn}-{what}")).with_extension(extension)
    }

    /// One pause of many: back to the same image, on to a copy, on to a larger one.
    fn pause_once(&mut self, turn: u32) {
        self.pause();
        self.look_back();
        let next = match turn % 3 {
            0 => None,
            1 => Some(self.copy(turn)),
            _ => Some(self.grow(turn)),
        };
        self.resume(next);
    }

    /// Nothing has touched the image that was left, since it was left.
    fn look_back(&mut self) {
        let Some([left, then]) = self.left.take() else { return };
        Tool::iomgr().arg("compare").args([&left, &then]).run();
        [left, then].iter().for_each(|image| fs::remove_file(image).unwrap());
    }

    fn copy(&mut self, turn: u32) -> PathBuf {
        let (next, then) = (self.named(turn, "copy"), self.named(turn, "then"));
        for copy in [&next, &then] {
            let cp = Tool::new("cp").args(["--reflink=auto", "--sparse=always"]);
            cp.args([&self.image, copy]).run();
        }
        self.left = Some([self.image.clone(), then]);
        next
    }

    /// A raw image grows where it is. A VHD does so by way of a raw one.
    fn grow(&mut self, turn: u32) -> PathBuf {
        self.size_bytes += 2 * MIB;
        let raw = match self.is_vhd() {
            true => self.dir.join("raw.img"),
            false => self.image.clone(),
        };
        let convert = |from: &Path, to: &Path| drop(Tool::iomgr().arg("convert").args([from, to]).run());
        if self.is_vhd() {
            convert(&self.image, &raw);
        }
        File::options()
            .write(true)
            .open(&raw)
            .unwrap()
            .set_len(self.size_bytes)
            .unwrap();
        if !self.is_vhd() {
            return raw;
        }
        let next = self.named(turn, "grown");
        convert(&raw, &next);
        [&raw, &self.image]
            .iter()
            .for_each(|image| fs::remove_file(image).unwrap());
        next
    }

    fn is_vhd(&self) -> bool {
        self.image.extension().is_some_and(|extension| extension == "vhd")
    }
}

/// Every read is checked against what was written last, by fio; a failed request ends it with an error.
fn pauses_go_unnoticed(name: &str) {
    if !need::tools(&["fio", "cp"]) {
        return;
    }
    let mut served = Served::start(name);
    let (uri, before) = (served.server.uri(), served.client());
    let over = AtomicBool::new(false);
    let rounds = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut rounds = 0;
            while !over.load(Ordering::Relaxed) {
                fio_verify(&uri);
                rounds += 1;
            }
            rounds
        });
        for turn in 0..PAUSES {
            served.pause_once(turn);
            // Not to wait for anything: pauses are to be spread over the load.
            std::thread::sleep(Duration::from_millis(20));
        }
        over.store(true, Ordering::Relaxed);
        load.join().unwrap()
    });
    println!("{PAUSES} pauses during {rounds} rounds of fio");
    let after = served.client();
    assert_eq!(
        (before.size_bytes(), after.size_bytes()),
        (SIZE_BYTES, served.size_bytes)
    );
    served.pause();
    served.look_back();
    served.resume(None);
    drop((before, after));
    let Served { server, image, dir, .. } = served;
    server.stop().unwrap();
    let verdict = Tool::iomgr().arg("check").arg(&image).end();
    assert!(!name.ends_with("vhd") || verdict.code == Some(0), "{verdict:?}");
    drop(dir);
}

#[test]
fn nbd_pauses_of_a_raw_image_go_unnoticed() {
    pauses_go_unnoticed("disk.img");
}

#[test]
fn nbd_pauses_of_a_dynamic_vhd_go_unnoticed() {
    pauses_go_unnoticed("disk.vhd");
}

/// What a client was told has been done is in a copy that is made while the disk is paused; what it sends then waits.
#[test]
fn nbd_a_pause_holds_what_comes_and_copies_hold_what_was_acknowledged() {
    for name in ["disk.img", "disk.vhd"] {
        let mut served = Served::start(name);
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
    served.disk().pause(PauseOptions::default()).unwrap();
    let cookie = client.send_write(FUA, 0, &[2; 4096]).unwrap();
    assert!(served.disk().info().paused.is_some());
    served.disk().resume(&ResumeOptions::default()).unwrap();
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
    served.disk().resume(&ResumeOptions::default()).unwrap();
    served.disk().pause(PauseOptions::default()).unwrap();
    drop(lease);
    // It was no lease of this pause.
    let mut client = served.client();
    let cookie = client.send_write(FUA, 0, &[1; 4096]).unwrap();
    assert!(served.disk().info().paused.is_some());
    served.disk().resume(&ResumeOptions::default()).unwrap();
    assert_eq!(client.receive().unwrap(), (cookie, Ok(())));
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
