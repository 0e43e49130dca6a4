//! The map of an image: which parts of its disk are data, and where they lie.

use std::io;
use std::path::Path;

use serde::Serialize;

use crate::disk::{Disk, DiskOptions};
use crate::error::{Error, ErrorKind};
use crate::extents::{Extent, ExtentKind};
use crate::format::Format;
use iomgr_core::Sector;

/// A run of the disk, in bytes, with the words of `qemu-img map --output=json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MapEntry {
    /// Where it begins on the disk.
    pub start: u64,
    /// How long it is.
    pub length: u64,
    /// In which image of a chain: there are no chains yet, so 0.
    pub depth: u32,
    /// Is it this image that says what is there?
    pub present: bool,
    /// Does it read as zeros?
    pub zero: bool,
    /// Does it take space?
    pub data: bool,
    /// The same in one word.
    pub kind: ExtentKind,
    /// Where it lies in the file, if it has a place there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
}

impl From<Extent> for MapEntry {
    fn from(extent: Extent) -> Self {
        let Extent {
            range,
            kind,
            file_offset,
        } = extent;
        Self {
            start: range.offset_bytes(),
            length: range.len_bytes(),
            depth: 0,
            present: true,
            zero: kind.is_zero(),
            data: kind != ExtentKind::Hole,
            kind,
            offset: file_offset,
        }
    }
}

/// Tells `each` every run of the disk in the image at `path`, in order, under a shared lock. Metadata alone is read.
///
/// # Errors
/// The image cannot be opened, its metadata cannot be read, or `each` failed: that error comes back as
/// [`ErrorKind::Io`].
pub fn map(path: &Path, format: Option<Format>, each: &mut dyn FnMut(MapEntry) -> io::Result<()>) -> Result<(), Error> {
    let options = DiskOptions {
        format,
        read_only: true,
        ..DiskOptions::default()
    };
    let disk = Disk::open(path, &options)?;
    for extent in disk.extents(Sector(0)) {
        let extent = extent.map_err(|error| {
            Error::new(ErrorKind::Io, "its metadata cannot be read")
                .at(path)
                .because(error)
        })?;
        each(extent.into()).map_err(|error| Error::new(ErrorKind::Io, "the map cannot be passed on").because(error))?;
    }
    Ok(())
}
