//! Copying a disk into a new image, zeros left out.
//!
//! ```text
//!  Place: a name for now ─► Work: the pieces ─► Copier: many in flight ─► flush, close ─► (verify) ─► Place: its own name
//!                                └─► Offload: what the kernel can bring over          Sidecar: how far it has come ◄─┘
//! ```
//!
//! # Contract
//! - The target has its name only when it is complete and durable, and was found right if that was asked for. Before, what it
//!   replaces is as it was. A block device is written in place, all of it: what the source has not becomes zeros.
//! - A copy that ends early is removed, or with [`ConvertOptions::resume`] kept with a note of how far it has come.
//! - The source is locked against writers until the end.

mod copier;
mod offload;
mod place;
mod sidecar;
mod work;

use std::path::Path;

use iomgr_core::{Device, SECTOR_BYTES, Sector};
use serde::Serialize;

pub use self::offload::Means;

use self::copier::{Copier, Keep};
use self::offload::Offload;
use self::place::Place;
use self::sidecar::{Identity, Sidecar};
use self::work::Work;
use crate::compare::{Difference, compare_disks};
use crate::create::{CreateOptions, format_name};
use crate::disk::{Disk, DiskOptions};
use crate::error::{Error, ErrorKind};
use crate::format::Format;
use crate::progress::{Phase, Progress};

/// How to convert.
#[derive(Clone, Debug, Default)]
pub struct ConvertOptions {
    /// The source's format, where the extension does not tell it.
    pub from: Option<Format>,
    /// The target's, likewise.
    pub to: Option<Format>,
    /// A fixed VHD instead of a dynamic one.
    pub fixed: bool,
    /// Replace the target.
    pub force: bool,
    /// Go on with what an earlier run left, and leave something to go on with.
    pub resume: bool,
    /// Compare the copy with the source before it gets its name.
    pub verify: bool,
}

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Copied {
    /// Bytes of the disk.
    pub size_bytes: u64,
    /// Bytes that were read, were not all zeros, and were written.
    pub written_bytes: u64,
    /// Bytes that the kernel brought over, by `means`.
    pub offloaded_bytes: u64,
    /// How data came over.
    pub means: Means,
    /// Where an earlier run had come to.
    pub resumed_at_bytes: u64,
    /// Was the copy compared with the source?
    pub verified: bool,
}

/// Copies the disk in `source` into a new image `target`. When `progress` answers false the copy ends with
/// [`ErrorKind::Interrupted`].
pub fn convert(
    source: &Path,
    target: &Path,
    options: &ConvertOptions,
    progress: &mut dyn FnMut(Progress) -> bool,
) -> Result<Copied, Error> {
    let format = Format::resolve(options.to, target)?;
    let from = Disk::open(source, &read_only(options.from))?;
    refuse_a_tail(source, &from)?;
    let place = Place::choose(source, target, options.force)?;
    let conversion = Conversion {
        from,
        format,
        place,
        options,
    };
    conversion
        .whole(source, progress)
        .map_err(|error| conversion.place.blame(error))
}

struct Conversion<'a> {
    from: Disk,
    format: Format,
    place: Place,
    options: &'a ConvertOptions,
}

impl Conversion<'_> {
    fn whole(&self, source: &Path, progress: &mut dyn FnMut(Progress) -> bool) -> Result<Copied, Error> {
        let mut note = self.begin(source)?;
        let copied = self.run(note.as_mut(), progress);
        if let Err(error) = &copied
            && (note.is_none() || error.kind() == ErrorKind::Differs)
        {
            self.place.discard();
        }
        copied
    }

    fn run(&self, note: Option<&mut Sidecar>, progress: &mut dyn FnMut(Progress) -> bool) -> Result<Copied, Error> {
        let mut copied = self.copy(note, progress)?;
        if self.options.verify {
            self.verify(progress)?;
            copied.verified = true;
        }
        self.place.publish()?;
        tracing::info!(means = ?copied.means, written = copied.written_bytes, offloaded = copied.offloaded_bytes, "disk_converted");
        Ok(copied)
    }

    /// Makes the empty copy, or finds what an earlier run left of it; the note of how far it has come, if one is kept.
    fn begin(&self, source: &Path) -> Result<Option<Sidecar>, Error> {
        let path = self.place.path();
        if !self.options.resume {
            if !self.place.is_device() && self.place.is_begun()? && Sidecar::exists(path) {
                let what = format!("there is an unfinished conversion to it, {}", path.display());
                let error = Error::new(ErrorKind::Exists, what).at(path);
                return Err(error.hint("--resume goes on with it; remove it to begin anew"));
            }
            self.make()?;
            return Ok(None);
        }
        if self.place.is_device() {
            let what = "is a block device, and only files can be gone on with";
            let error = Error::new(ErrorKind::InvalidOption, what).at(path).field("--resume");
            return Err(error.hint("convert without it"));
        }
        let identity = self.identity(source)?;
        if self.place.is_begun()?
            && let Some(note) = Sidecar::load(path, identity.clone())?
        {
            return Ok(Some(note));
        }
        self.make()?;
        let mut note = Sidecar::new(path, identity);
        note.keep(0)?;
        Ok(Some(note))
    }

    fn size_bytes(&self) -> u64 {
        self.from.limits().size.0 * SECTOR_BYTES
    }

    fn identity(&self, source: &Path) -> Result<Identity, Error> {
        let target_format = format_name(self.format, self.options.fixed).to_owned();
        Identity::of(source, self.from.info().format, target_format, self.size_bytes())
    }

    /// The copy is raw, on a device: its old bytes are in the way, and zeros are written where the source has none.
    fn has_old_bytes(&self) -> bool {
        self.place.is_device() && self.format == Format::Raw
    }

    fn make(&self) -> Result<(), Error> {
        if self.has_old_bytes() {
            return Ok(());
        }
        let options = CreateOptions {
            format: Some(self.format),
            fixed: self.options.fixed,
            // Zeros take no space.
            sparse: true,
            // A device is there.
            force: true,
            ..CreateOptions::new(self.size_bytes())
        };
        self.place.create(&options).map(drop)
    }

    fn copy(
        &self,
        mut note: Option<&mut Sidecar>,
        progress: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<Copied, Error> {
        let to = self.open_copy(note.is_some())?;
        let start = Sector(note.as_ref().map_or(0, |note| note.done_bytes()) / SECTOR_BYTES);
        let offload = Offload::find(&self.from, &to, self.place.folder());
        let old_bytes = self.has_old_bytes();
        let work = Work::new(&self.from, &to, start, old_bytes, offload);
        let is_kept = note.is_some();
        let mut keep = |done| note.as_mut().map_or(Ok(()), |note| note.keep(done));
        let keep = is_kept.then_some(&mut keep as Keep<'_>);
        let copied = Copier::new([&self.from, &to], work, old_bytes, keep)?.run(progress);
        if copied.is_ok() || is_kept {
            to.close().and(copied)
        } else {
            copied
        }
    }

    fn open_copy(&self, repair: bool) -> Result<Disk, Error> {
        let options = DiskOptions {
            format: Some(self.format),
            repair,
            ..DiskOptions::default()
        };
        let path = self.place.path();
        let to = Disk::open(path, &options)?;
        let (has, needs) = (to.limits().size.0 * SECTOR_BYTES, self.size_bytes());
        if has == needs || (has > needs && self.has_old_bytes()) {
            return Ok(to);
        }
        let what = format!("holds a disk of {has} bytes, the source has {needs}");
        let error = Error::new(ErrorKind::InvalidOption, what).at(path).field("size");
        Err(error.hint(if self.place.is_device() {
            "take another device".to_owned()
        } else {
            format!("remove {} to begin anew", path.display())
        }))
    }

    /// Compares the copy with the source, as it is on the disk.
    fn verify(&self, progress: &mut dyn FnMut(Progress) -> bool) -> Result<(), Error> {
        let path = self.place.path();
        let copy = Disk::open(path, &read_only(Some(self.format)))?;
        copy.forget_cached();
        let compared = compare_disks(&[self.from.clone(), copy], Phase::Verify, progress)?;
        match compared.difference {
            Some(Difference::Content { offset, sector }) => {
                let what = format!("is not what was copied, first at byte {offset} of the disk (sector {sector})");
                let error = Error::new(ErrorKind::Differs, what).at(path);
                Err(error.hint("the storage or the memory of this machine is not to be trusted"))
            }
            _ => Ok(()),
        }
    }
}

/// A raw file may end within a sector. Whoever serves it is warned; a copy without its end would be taken for a whole one.
fn refuse_a_tail(source: &Path, from: &Disk) -> Result<(), Error> {
    let tail = std::fs::metadata(source).map_or(0, |file| file.len() % SECTOR_BYTES);
    if from.info().format != "raw" || tail == 0 {
        return Ok(());
    }
    let what = format!("ends with {tail} bytes that are no whole sector, and would be missing in the copy");
    let error = Error::new(ErrorKind::InvalidOption, what).at(source).field("size");
    Err(error.hint("`truncate -s %512` fills the sector with zeros"))
}

fn read_only(format: Option<Format>) -> DiskOptions {
    DiskOptions {
        format,
        read_only: true,
        ..DiskOptions::default()
    }
}
