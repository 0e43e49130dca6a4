//! Broken and tricky images: each gets the answer that the table of cases names.

use std::path::Path;

use vhd::layout::{DiskType, FooterRepr};
use vhd::{ErrorKind, Image, OpenOptions, Severity, State};

use crate::file::DiskFile;
use crate::session::Session;
use crate::tools::{python, shared_images};

#[test]
fn hostile_images_get_the_answers_of_the_table() {
    let Some(folder) = shared_images() else { return };
    let dir = tempfile::tempdir().unwrap();
    let Some(cases) = python(&folder.join("hostile/make_hostile.py"), dir.path()) else {
        return;
    };
    let table = std::fs::read_to_string(folder.join("hostile/CASES.tsv")).unwrap();
    assert_eq!(cases, table, "the generator and its table agree");
    let mut wrong = Vec::new();
    for case in cases.lines() {
        let [name, expected, _] = case.split('\t').collect::<Vec<_>>()[..] else {
            panic!("{case}")
        };
        let path = dir.path().join(format!("{name}.vhd"));
        let answer = if is_differencing(&path) {
            refused(&path)
        } else {
            answer(&path, expected)
        };
        if let Err(answer) = answer {
            wrong.push(format!("{case}: {answer}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn is_differencing(path: &Path) -> bool {
    let bytes = std::fs::read(path).unwrap_or_default();
    let footer = bytes.get(..512).and_then(|bytes| FooterRepr::parse(bytes).ok());
    footer.is_some_and(|footer| footer.disk_type == DiskType::Differencing)
}

/// Chains are for a later version; until then such an image is refused, never read as a dynamic one.
fn refused(path: &Path) -> Result<(), String> {
    match open(path, true) {
        Err(error) if error.kind() == ErrorKind::Unsupported => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

fn open(path: &Path, read_only: bool) -> Result<Image, vhd::Error> {
    Image::open(&DiskFile::open(path), &OpenOptions { read_only })
}

fn answer(path: &Path, expected: &str) -> Result<(), String> {
    let readable = open(path, true).is_ok() && read_all(path).is_ok();
    let writable = open(path, false);
    let report = vhd::check(&DiskFile::open(path)).map_err(|error| error.to_string())?;
    let worst = report.findings.iter().map(|finding| finding.severity).max();
    match expected {
        "err" if !readable && writable.is_err() && worst >= Some(Severity::Unsupported) => Ok(()),
        "ok" if readable && writable.is_ok() && worst.is_none_or(|worst| worst < Severity::Error) => Ok(()),
        "warn" if readable && writable.is_ok() && worst >= Some(Severity::Warning) => Ok(()),
        "ro" if readable && worst == Some(Severity::Error) => read_only(path, writable),
        _ => Err(format!("readable {readable}, writable {writable:?}, check {report:?}")),
    }
}

/// Only for reading, until it is repaired.
fn read_only(path: &Path, writable: Result<Image, vhd::Error>) -> Result<(), String> {
    let kind = writable.map_err(|error| error.kind()).err();
    let state = open(path, true)
        .map(|image| image.state())
        .map_err(|error| error.to_string())?;
    if kind != Some(ErrorKind::NeedsRepair) || state != State::FooterFromCopy {
        return Err(format!("{kind:?} {state:?}"));
    }
    let planned = vhd::repair(&DiskFile::open(path), true).map_err(|error| error.to_string())?;
    assert!(open(path, false).is_err(), "a dry run changes nothing");
    let done = vhd::repair(&DiskFile::open(path), false).map_err(|error| error.to_string())?;
    assert_eq!(planned, done);
    open(path, false).map(drop).map_err(|error| error.to_string())?;
    assert_eq!(vhd::repair(&DiskFile::open(path), true).unwrap(), []);
    read_all(path)
}

/// Whatever is asserted about contents holds for all cases: sector 0 of these images is the pattern, or zeros.
fn read_all(path: &Path) -> Result<(), String> {
    let mut session = Session::open(DiskFile::open(path), true).map_err(|error| error.to_string())?;
    let mut bytes = vec![0; session.size.min(8 << 20) as usize];
    session.read(0, &mut bytes).map_err(|errno| errno.to_string())
}

#[test]
fn sectors_with_clear_bits_read_as_zeros() {
    let Some(folder) = shared_images() else { return };
    let dir = tempfile::tempdir().unwrap();
    if python(&folder.join("hostile/make_hostile.py"), dir.path()).is_none() {
        return;
    }
    for (name, zeros) in [
        ("61-bits-clear-data-set", true),
        ("00-good-dynamic", false),
        ("87-batmap-unallocated", false),
    ] {
        let mut session = Session::open(DiskFile::open(&dir.path().join(format!("{name}.vhd"))), true).unwrap();
        let mut bytes = vec![0xAA; 4 << 20];
        session.read(0, &mut bytes).unwrap();
        assert_eq!(bytes[..16 * 512].iter().all(|&byte| byte == 0), zeros, "{name}");
        assert!(bytes[16 * 512..].iter().all(|&byte| byte == 0), "{name}");
    }
}
