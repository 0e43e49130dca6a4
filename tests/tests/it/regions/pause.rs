//! A device that is stalled from below: its server answers nobody for a time.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use dmio::{Client, ClientConfig, IoFlags, IoRequest, RegionState};
use iomgr_core::SectorCount;
use iomgr_tests::fuse::nbdkit_has_filter;
use iomgr_tests::wait::PATIENCE;
use iomgr_tests::{Loop, NbdFuse, Nbdkit, TempDir, need};

use super::rig::{Events, Notes, SECTORS, backing, bounce, open, poll_until, region, sectors};

/// Who pauses the server; it goes on when this is dropped.
struct Pause(UnixStream);

impl Pause {
    fn begin(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut pause = Self(stream);
        pause.say(b'p');
        pause
    }

    /// The server answers in capital letters.
    fn say(&mut self, word: u8) {
        let mut answer = [0];
        self.0.write_all(&[word]).unwrap();
        self.0.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [word.to_ascii_uppercase()]);
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        // A server that is gone stalls nobody.
        let _ = self.0.write_all(b"r").and_then(|()| self.0.read_exact(&mut [0]));
    }
}

#[test]
fn regions_pause_of_a_server_below() {
    if !need::fuse() || !need::loop_devices() || !need::tools(&["nbdkit"]) {
        return;
    }
    if !nbdkit_has_filter("pause") {
        return need::skip("nbdkit has no pause filter");
    }
    let dir = TempDir::new();
    let (file, control) = (backing(&dir.join("disk")), dir.join("control"));
    let words = ["--filter=pause".to_owned(), "file".to_owned()];
    let parameters = [
        file.display().to_string(),
        format!("pause-control={}", control.display()),
    ];
    let server = Nbdkit::start(&dir.join("nbd"), words.into_iter().chain(parameters));
    let fuse = NbdFuse::mount(&server.uri(), &dir.join("fuse"));
    let device = Loop::attach(fuse.path());
    let config = ClientConfig {
        devices: vec![open(device.path())],
        max_size: SectorCount(SECTORS),
        ..ClientConfig::default()
    };
    let mut client = Client::new(config).unwrap();
    let (events, notes) = (Events::of(&mut client), Notes::default());
    let pause = Pause::begin(&control);

    let at = [region(0, 64, SECTORS)];
    let request = IoRequest::write(&at, bounce(0xAA)).timeout(Duration::from_millis(50));
    let request = request.flags(IoFlags::CANCEL_ON_TIMEOUT);
    drop(client.io(request, Some(notes.listener())).unwrap());
    poll_until(&mut client, |_| notes.len() == 1);
    assert!(matches!(notes.of_one()[0], RegionState::Cancelled(_)));
    notes.take_bounce().fill(0xC3);
    drop(
        client
            .io(IoRequest::write(&at, bounce(0xBB)), Some(notes.listener()))
            .unwrap(),
    );
    drop(pause);
    poll_until(&mut client, |_| notes.len() == 1);
    assert_eq!((notes.of_one(), events.late().len()), (vec![RegionState::Ok], 1));
    let outcome = client.io_sync(IoRequest::flush(&[region(0, 0, 0)]), None).unwrap();
    assert_eq!((outcome.error_mask, sectors(&file, 64, SECTORS)), (0, vec![0xBB; 8]));
    client.destroy().unwrap();
    drop(device);
    fuse.unmount();
    drop(server);
}
