//! Images whose block devices wait for their next server: nobody else writes to them meanwhile.
//!
//! A dead server's lock on its image falls, but what it had begun is still in the kernel: the next server would do it once more,
//! over whatever somebody else has written since.

use std::path::Path;

use blkdev_ublk::{Control, DeviceState, block_path};

use super::record::Record;
use crate::disk::DiskInfo;
use crate::error::{Error, ErrorKind};
use crate::server::{failed, server_of};

/// May what was just opened, and so locked, be written to?
///
/// # Errors
/// `Locked`, if a device has it that waits for its next server; the driver cannot be asked about one that may.
pub(crate) fn check_not_waiting(image: &DiskInfo) -> Result<(), Error> {
    match image.read_only {
        true => Ok(()),
        false => check(&Record::all(), &image.path, waits),
    }
}

fn check(known: &[Record], image: &Path, waits: impl Fn(&Record) -> Result<bool, Error>) -> Result<(), Error> {
    for record in known.iter().filter(|record| record.target.writes_to(image)) {
        if waits(record)? {
            return Err(waiting(record.id, image));
        }
    }
    Ok(())
}

fn waiting(id: u32, image: &Path) -> Error {
    let device = block_path(id);
    let what = format!(
        "is the image of {}, which waits for its next server, with writes that are not done yet",
        device.display()
    );
    let hint = format!("`iomgr recover {id}` goes on with it; `iomgr del -n {id} --force` gives up what waits");
    Error::new(ErrorKind::Locked, what).at(image).hint(hint)
}

/// Is its device there, and nobody who serves it? A paused one is served, perhaps by this process, and its image free for others.
/// What the driver tells of its server does not count: it takes a while to notice that it is dead, and processes' ids come again.
fn waits(known: &Record) -> Result<bool, Error> {
    use blkdev_ublk::ErrorKind as Ublk;
    let info = match Control::open().and_then(|mut control| control.info(known.id)) {
        Ok(info) => info,
        Err(error) if matches!(error.kind(), Ublk::NotFound | Ublk::NoDriver) => return Ok(false),
        Err(error) => return Err(failed(error)),
    };
    let is_it = info.mark == known.mark && info.state != DeviceState::Dead;
    Ok(is_it && server_of(known).is_none())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;
    use crate::disk::{Disk, DiskOptions};
    use crate::server::UblkTarget;
    use crate::ublk::record::RecordFile;
    use crate::ublk::target::TargetRecord;

    /// A folder with two images, and the record of device 7, whose server has died, about the first.
    struct Place {
        dir: tempfile::TempDir,
        images: [PathBuf; 2],
    }

    impl Place {
        fn new(read_only: bool) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let images = ["a.img", "b.img"].map(|name| dir.path().join(name));
            images.iter().for_each(|image| fs::write(image, [0; 4096]).unwrap());
            let options = DiskOptions {
                read_only,
                ..DiskOptions::default()
            };
            let target = UblkTarget::Disk(Disk::open(&images[0], &options).unwrap());
            let control = dir.path().join("ublkb7.ctl");
            let record = Record::new(7, 1, &control, &[], TargetRecord::of(&target).unwrap()).unwrap();
            let mut file = RecordFile::write_at(dir.path().join("ublkb7.state"), record).unwrap();
            file.own(false);
            Self { dir, images }
        }

        /// With a driver that says so of each device.
        fn check(&self, image: usize, waits: bool) -> Result<(), Error> {
            check(&Record::all_in(self.dir.path()), &self.images[image], |_| Ok(waits))
        }
    }

    #[test]
    fn the_image_of_a_device_that_waits_is_refused_with_the_ways_out() {
        let place = Place::new(false);
        let refused = place.check(0, true).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Locked);
        let told = refused.line();
        for words in ["a.img", "/dev/ublkb7", "`iomgr recover 7`", "`iomgr del -n 7 --force`"] {
            assert!(told.contains(words), "{words}: {told}");
        }
        place.check(1, true).unwrap();
        place.check(0, false).unwrap();
    }

    #[test]
    fn by_another_name_it_is_the_same_image() {
        let mut place = Place::new(false);
        place.images[1] = place.dir.path().join("c.img");
        fs::hard_link(&place.images[0], &place.images[1]).unwrap();
        place.check(1, true).unwrap_err();
    }

    /// It has nothing to write that could come later.
    #[test]
    fn one_that_was_only_read_hinders_nobody() {
        Place::new(true).check(0, true).unwrap();
    }

    #[test]
    fn a_driver_that_does_not_say_is_not_taken_for_a_no() {
        let place = Place::new(false);
        let known = Record::all_in(place.dir.path());
        let silent = |_: &Record| Err(Error::new(ErrorKind::Server, "denied"));
        check(&known, &place.images[0], silent).unwrap_err();
        check(&known, &place.images[1], silent).unwrap();
    }

    #[test]
    fn only_records_of_devices_are_looked_at() {
        let place = Place::new(false);
        let state = place.dir.path().join("ublkb7.state");
        for other in [
            "ublkb07.state",
            "ublkb8.state",
            "ublkb7.state.12",
            "ublkb.state",
            "state",
        ] {
            fs::copy(&state, place.dir.path().join(other)).unwrap();
        }
        let ids: Vec<_> = Record::all_in(place.dir.path())
            .iter()
            .map(|record| record.id)
            .collect();
        assert_eq!(ids, [7]);
        fs::write(&state, "no record").unwrap();
        place.check(0, true).unwrap();
    }
}
