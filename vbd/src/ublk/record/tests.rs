use std::mem::MaybeUninit;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::inotify;

use super::*;
use crate::disk::{Disk, DiskOptions};
use crate::format::Format;
use crate::server::UblkTarget;

/// A folder with an image, and records beside it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("disk.img"), [0; 8192]).unwrap();
        Self(dir)
    }

    fn state(&self) -> PathBuf {
        self.0.path().join("ublkb3.state")
    }

    fn image(&self) -> PathBuf {
        self.0.path().join("disk.img")
    }

    fn disk(&self) -> Disk {
        let options = DiskOptions {
            format: Some(Format::Raw),
            ..DiskOptions::default()
        };
        Disk::open(&self.image(), &options).unwrap()
    }

    fn record(&self) -> Record {
        let target = TargetRecord::of(&UblkTarget::Disk(self.disk())).unwrap();
        let filters = ["latency:1ms".parse().unwrap()];
        Record::new(3, 99, Path::new("/run/ublkb3.ctl"), &filters, target).unwrap()
    }

    fn write(&self) -> (RecordFile, Record) {
        let record = self.record();
        (RecordFile::write_at(self.state(), record.clone()).unwrap(), record)
    }

    fn take(&self) -> Result<RecordFile, Error> {
        RecordFile::take_at(self.state(), 3, Instant::now(), |_| None)
    }

    fn refusal(&self) -> String {
        self.take().unwrap_err().to_string()
    }

    /// As somebody has changed it.
    fn change(&self, change: impl FnOnce(&mut serde_json::Value)) {
        let mut value = serde_json::to_value(self.record()).unwrap();
        change(&mut value);
        self.forge(&serde_json::to_vec(&value).unwrap());
    }

    fn forge(&self, bytes: &[u8]) {
        // There may be none.
        let _none = fs::remove_file(self.state());
        fs::write(self.state(), bytes).unwrap();
    }
}

#[test]
fn what_is_written_is_taken_by_the_next_and_by_nobody_meanwhile() {
    let place = Place::new();
    let (mut file, record) = place.write();
    assert_eq!(fs::metadata(place.state()).unwrap().permissions().mode() & 0o777, 0o600);
    let refused = place.take().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Locked);
    file.own(false);
    drop(file);
    let mut next = place.take().unwrap();
    assert_eq!(*next.record(), record);
    drop(next);
    assert!(place.state().exists(), "one who fails leaves it to the next");
    next = place.take().unwrap();
    next.own(true);
    drop(next);
    assert!(!place.state().exists(), "one who ends the device takes it away");
    assert!(place.refusal().contains("iomgr del -n 3"));
}

/// At once, however long the caller would wait.
#[test]
fn a_server_that_is_well_is_named() {
    let place = Place::new();
    let (_file, record) = place.write();
    let hour = Instant::now() + Duration::from_secs(3600);
    let is_it = |known: &Record| (*known == record).then_some(4711);
    let refused = RecordFile::take_at(place.state(), 3, hour, is_it).unwrap_err();
    assert!(
        refused.to_string().contains("process 4711 serves the device"),
        "{refused}"
    );
}

#[test]
fn a_server_that_is_dying_is_waited_for() {
    let place = Place::new();
    let (mut file, _) = place.write();
    file.own(false);
    let ending = Mutex::new(Some(file));
    let hour = Instant::now() + Duration::from_secs(3600);
    let dies = |_: &Record| {
        let mut ending: MutexGuard<'_, _> = ending.lock().unwrap_or_else(PoisonError::into_inner);
        drop(ending.take());
        None
    };
    RecordFile::take_at(place.state(), 3, hour, dies).unwrap();
}

#[test]
fn a_new_device_replaces_what_an_old_one_left() {
    let place = Place::new();
    place.forge(b"whatever");
    let (file, _) = place.write();
    drop(file);
    assert!(!place.state().exists());
    assert_eq!(fs::read_dir(place.0.path()).unwrap().count(), 1, "the image");
}

#[test]
fn what_a_dead_server_left_is_cleaned_up_and_a_living_one_s_is_not() {
    let place = Place::new();
    let (mut file, _) = place.write();
    RecordFile::remove_dead_at(&place.state());
    assert!(place.state().exists());
    file.own(false);
    drop(file);
    RecordFile::remove_dead_at(&place.state());
    assert!(!place.state().exists());
}

/// A new device gets the number while somebody cleans up after the old one.
#[test]
fn a_record_that_comes_meanwhile_is_not_cleaned_up() {
    let place = Place::new();
    let (mut file, record) = place.write();
    file.own(false);
    drop(file);
    let folder = FolderLock::of(&place.state()).unwrap();
    let opened = inotify::init(inotify::CreateFlags::CLOEXEC).unwrap();
    inotify::add_watch(&opened, place.0.path(), inotify::WatchFlags::OPEN).unwrap();
    let mut space = [MaybeUninit::uninit(); 1024];
    let mut opened = inotify::Reader::new(opened, &mut space);
    let state = place.state();
    let cleaner = thread::spawn(move || RecordFile::remove_dead_at(&state));
    // It waits for the folder, or is about to.
    while !opened.next().unwrap().events().contains(inotify::ReadFlags::ISDIR) {}
    let draft = place.state().with_extension("draft");
    let _new = write_locked(&draft, &record).unwrap();
    fs::rename(&draft, place.state()).unwrap();
    drop(folder);
    cleaner.join().unwrap();
    assert!(place.state().exists());
}

#[test]
fn hostile_files_are_refused() {
    let place = Place::new();
    let whole = serde_json::to_vec(&place.record()).unwrap();
    for len in [0, 1, whole.len() / 2, whole.len() - 1] {
        place.forge(&whole[..len]);
        assert!(place.refusal().contains("is no record"), "{len} bytes");
    }
    place.forge(&vec![b' '; 1 << 20]);
    assert!(place.refusal().contains("too long"));
    place.forge(&[b'[', b'[', 0xff, 0xfe]);
    assert!(place.refusal().contains("is no record"));
    place.forge("[".repeat(60 << 10).as_bytes());
    assert!(place.refusal().contains("is no record"), "deep ones, too");
    let says = |words: &str| assert!(place.refusal().contains(words), "{words}: {}", place.refusal());
    place.change(|value| value["v"] = 2.into());
    says("version 2");
    place.change(|value| value["id"] = 4.into());
    says("about device 4");
    place.change(|value| value["boot_id"] = "another".into());
    says("before the machine was started");
    place.change(|value| value["control"] = "ublkb3.ctl".into());
    says("no absolute path");
    place.change(|value| value["more"] = 1.into());
    says("unknown field");
    place.change(|value| value["target"]["disk"]["more"] = 1.into());
    says("is no record");
}

#[test]
fn files_of_another_kind_or_that_others_may_write_are_refused() {
    let place = Place::new();
    drop(place.write());
    nix::unistd::mkfifo(&place.state(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(place.refusal().contains("no regular file"));
    fs::remove_file(place.state()).unwrap();
    std::os::unix::fs::symlink(place.image(), place.state()).unwrap();
    assert!(place.refusal().contains("cannot be opened"));
    place.change(|_| {});
    fs::set_permissions(place.state(), fs::Permissions::from_mode(0o620)).unwrap();
    assert!(place.refusal().contains("not this user's alone"));
}

#[test]
fn the_same_image_is_opened_in_the_same_way() {
    let place = Place::new();
    let record = place.record();
    let UblkTarget::Disk(disk) = record.target.open(Duration::ZERO).unwrap() else {
        panic!("it was a disk");
    };
    assert_eq!(disk.info().path, place.image());
    assert_eq!(TargetRecord::of(&UblkTarget::Disk(disk)).unwrap(), record.target);
}

#[test]
fn a_null_device_is_what_it_was() {
    let null = UblkTarget::Null(crate::NullDevice::new("null", 1 << 30).into());
    let record = TargetRecord::of(&null).unwrap();
    let text = serde_json::to_string(&record).unwrap();
    let again = serde_json::from_str::<TargetRecord>(&text)
        .unwrap()
        .open(Duration::ZERO)
        .unwrap();
    assert_eq!(TargetRecord::of(&again).unwrap(), record);
}

#[test]
fn another_image_at_the_same_place_is_refused() {
    let place = Place::new();
    let record = place.record();
    fs::rename(place.image(), place.0.path().join("moved")).unwrap();
    let error = record.target.open(Duration::ZERO).unwrap_err();
    assert!(error.to_string().contains("disk.img"), "{error}");
    fs::write(place.image(), [1; 8192]).unwrap();
    let error = record.target.open(Duration::ZERO).unwrap_err().to_string();
    assert!(
        error.contains("is not the image that the device was added with"),
        "{error}"
    );
}

/// The fence: whoever still has the image is waited for, and named.
#[test]
fn an_image_that_somebody_has_is_waited_for() {
    let place = Place::new();
    let record = place.record();
    let held = place.disk();
    assert_eq!(
        record.target.open(Duration::ZERO).unwrap_err().kind(),
        ErrorKind::Locked
    );
    drop(held);
    record.target.open(Duration::ZERO).unwrap();
}

#[test]
fn names_that_are_no_unicode_are_kept() {
    use std::os::unix::ffi::OsStrExt;
    let place = Place::new();
    let odd = place.0.path().join(std::ffi::OsStr::from_bytes(b"\xff\xfe.img"));
    fs::rename(place.image(), &odd).unwrap();
    let options = DiskOptions {
        format: Some(Format::Raw),
        ..DiskOptions::default()
    };
    let record = TargetRecord::of(&UblkTarget::Disk(Disk::open(&odd, &options).unwrap())).unwrap();
    let text = serde_json::to_string(&record).unwrap();
    let UblkTarget::Disk(disk) = serde_json::from_str::<TargetRecord>(&text)
        .unwrap()
        .open(Duration::ZERO)
        .unwrap()
    else {
        panic!("it was a disk");
    };
    assert_eq!(disk.info().path, odd);
}
