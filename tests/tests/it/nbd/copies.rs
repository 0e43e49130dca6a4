//! A live disk's image in other hands, by the command line: it is copied, left for the copy, enlarged, and comes back, under load.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use iomgr_tests::nbd::FUA;
use iomgr_tests::{Client, Process, Server, Tool, need, wait};
use rustix::process::Signal;

use crate::clients::{SIZE_BYTES, fio_verify};
use crate::disk::{Disk, Kind};

const MIB: u64 = 1 << 20;
const PAUSES: u32 = 50;

/// A disk whose image changes, and its server.
struct Live {
    server: Server,
    /// What it lies on now.
    image: PathBuf,
    size_bytes: u64,
    /// The image that was left last, and a copy of it as it was then.
    left: Option<[PathBuf; 2]>,
    disk: Disk,
}

impl Live {
    fn start(kind: Kind) -> Self {
        let disk = Disk::new(kind, SIZE_BYTES);
        Self {
            server: disk.serve(&["--queues", "2"]),
            image: disk.image().to_owned(),
            size_bytes: SIZE_BYTES,
            left: None,
            disk,
        }
    }

    /// A verb about the disk.
    fn iomgr(&self, verb: &str) -> Tool {
        let control = self.server.control();
        Tool::iomgr().args([verb, "disk", "--control"]).arg(control)
    }

    fn paused(&self) -> serde_json::Value {
        let status = Tool::iomgr().args(["status", "--json", "--control"]);
        status.arg(self.server.control()).json()[0]["status"]["devices"][0]["paused"].clone()
    }

    fn pause(&self) {
        self.iomgr("pause").run();
    }

    fn resume(&mut self, next: Option<PathBuf>) {
        let resume = self.iomgr("resume");
        match next {
            None => drop(resume.run()),
            Some(next) => {
                resume.arg("--image").arg(&next).run();
                self.image = next;
            }
        }
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
        if !self.is_vhd() {
            lengthen(&self.image, self.size_bytes);
            return self.image.clone();
        }
        let convert = |from: &Path, to: &Path| drop(Tool::iomgr().arg("convert").args([from, to]).run());
        let (raw, next) = (self.disk.dir.join("grown.img"), self.named(turn, "grown"));
        convert(&self.image, &raw);
        lengthen(&raw, self.size_bytes);
        convert(&raw, &next);
        [&raw, &self.image]
            .iter()
            .for_each(|image| fs::remove_file(image).unwrap());
        next
    }

    fn named(&self, turn: u32, what: &str) -> PathBuf {
        let extension = self.image.extension().unwrap();
        self.disk.dir.join(format!("{turn}-{what}")).with_extension(extension)
    }

    fn is_vhd(&self) -> bool {
        self.image.extension().is_some_and(|extension| extension == "vhd")
    }
}

fn lengthen(raw: &Path, len: u64) {
    File::options().write(true).open(raw).unwrap().set_len(len).unwrap();
}

/// Every read is checked against what was written last, by fio; a failed request ends it with an error.
fn pauses_go_unnoticed(kind: Kind) {
    if !need::tools(&["fio", "cp"]) {
        return;
    }
    let mut live = Live::start(kind);
    let (uri, before) = (live.server.uri().to_owned(), Client::connect(&live.server).unwrap());
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
            live.pause_once(turn);
            // Not to wait for anything: pauses are to be spread over the load.
            std::thread::sleep(Duration::from_millis(20));
        }
        over.store(true, Ordering::Relaxed);
        load.join().unwrap()
    });
    println!("{PAUSES} pauses during {rounds} rounds of fio");
    let after = Client::connect(&live.server).unwrap();
    assert_eq!((before.size_bytes(), after.size_bytes()), (SIZE_BYTES, live.size_bytes));
    drop((before, after));
    live.pause();
    live.look_back();
    live.resume(None);
    let is_vhd = live.is_vhd();
    let Live {
        server, image, disk, ..
    } = live;
    server.stop();
    if is_vhd {
        Tool::iomgr().arg("check").arg(&image).run();
    }
    drop(disk);
}

#[test]
fn nbd_pauses_of_a_raw_image_go_unnoticed() {
    pauses_go_unnoticed(Kind::Raw);
}

#[test]
fn nbd_pauses_of_a_dynamic_vhd_go_unnoticed() {
    pauses_go_unnoticed(Kind::DynamicVhd);
}

/// Nobody is left to resume the disk, and it resumes all the same; again and again, as nobody is in the way of the next.
#[test]
fn nbd_a_pausing_client_that_is_killed_resumes_the_disk() {
    let live = Live::start(Kind::DynamicVhd);
    let mut client = Client::connect(&live.server).unwrap();
    for round in 1..=5 {
        // It ends when its parent has.
        let lasting = live
            .iomgr("pause")
            .args(["--", "sh", "-c", "tail --pid=$PPID -f /dev/null"]);
        let pausing = Process::start(lasting, Stdio::null(), Stdio::null());
        assert!(wait::until(|| live.paused()["leased"] == true));
        let cookie = client.send_write(FUA, 0, &[round; 4096]).unwrap();
        pausing.signal(Signal::KILL);
        assert_eq!(client.receive().unwrap(), (cookie, Ok(())));
        assert!(live.paused().is_null());
    }
    assert_eq!(client.bytes(0, 4096), [5; 4096]);
    client.disconnect().unwrap();
    live.server.stop();
}
