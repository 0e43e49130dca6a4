//! Looking at images, checking and repairing them, without serving them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use iomgr_core::Storage;
use serde::Serialize;

use crate::error::{Error, ErrorKind};
use crate::file::{FileOptions, ImageFile};
use crate::format::Format;
use crate::layout::image_error;

/// What an image is.
#[derive(Clone, Debug, Serialize)]
pub struct ImageInfo {
    /// The file.
    #[serde(serialize_with = "crate::path_text::serialize")]
    pub path: PathBuf,
    /// Its format.
    pub format: String,
    /// Bytes of the disk in it.
    pub size_bytes: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Bytes that the file takes on its file system; `None` for block devices.
    pub allocated_bytes: Option<u64>,
    /// A VHD's own structure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vhd: Option<vhd::Info>,
    /// What a user should know.
    pub warnings: Vec<String>,
}

/// Looks at the image at `path`, under a shared lock.
pub fn info(path: &Path, format: Option<Format>) -> Result<ImageInfo, Error> {
    let format = Format::resolve(format, path)?;
    let file = open(path, true)?;
    let io = |error: std::io::Error| Error::new(ErrorKind::Io, "cannot be read").at(path).because(error);
    let file_bytes = file.len_bytes().map_err(io)?;
    let mut info = ImageInfo {
        path: path.to_path_buf(),
        format: format.to_string(),
        size_bytes: file_bytes,
        file_bytes,
        allocated_bytes: allocated_bytes(&file, path),
        vhd: None,
        warnings: Vec::new(),
    };
    match format {
        Format::Raw => {
            info.size_bytes = crate::generation::raw_size(&file, &mut info.warnings)
                .map_err(|error| error.at(path))?
                .0
                * 512
        }
        Format::Vhd => {
            let vhd = vhd::info(&file).map_err(|error| image_error(error).at(path))?;
            info.size_bytes = vhd.size_bytes;
            info.warnings = vhd.warnings.iter().map(|finding| finding.text.clone()).collect();
            info.vhd = Some(vhd);
        }
    }
    Ok(info)
}

/// Checks the structure of the VHD at `path`, under a shared lock. Raw images have none.
pub fn check(path: &Path, format: Option<Format>) -> Result<vhd::Report, Error> {
    require_vhd(path, format, "checked")?;
    vhd::check(&open(path, true)?).map_err(|error| image_error(error).at(path))
}

/// Restores the footers of the VHD at `path`; with `dry_run`, says only what it would do.
pub fn repair(path: &Path, format: Option<Format>, dry_run: bool) -> Result<Vec<vhd::Action>, Error> {
    require_vhd(path, format, "repaired")?;
    vhd::repair(&open(path, dry_run)?, dry_run).map_err(|error| image_error(error).at(path))
}

fn require_vhd(path: &Path, format: Option<Format>, done: &str) -> Result<(), Error> {
    match Format::resolve(format, path)? {
        Format::Vhd => Ok(()),
        Format::Raw => Err(Error::new(
            ErrorKind::Unsupported,
            format!("a raw image has no structure that could be {done}"),
        )
        .at(path)
        .hint("if it is a VHD, say --format vhd")),
    }
}

fn open(path: &Path, read_only: bool) -> Result<ImageFile, Error> {
    ImageFile::open(
        path,
        FileOptions {
            read_only,
            lock_timeout: Duration::ZERO,
        },
    )
}

fn allocated_bytes(file: &ImageFile, path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    (!file.is_block_device())
        .then(|| std::fs::metadata(path).ok().map(|meta| meta.blocks() * 512))
        .flatten()
}
