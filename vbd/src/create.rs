//! Making new images.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use iomgr_core::{SECTOR_BYTES, Storage};

use crate::error::{Error, ErrorKind};
use crate::file::ImageFile;
use crate::format::Format;

/// What to make.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Bytes of the disk; a multiple of 512.
    pub size_bytes: u64,
    /// The format, where the extension does not tell it.
    pub format: Option<Format>,
    /// VHD: all space at once and no map, instead of a block at a time.
    pub fixed: bool,
    /// VHD, fixed: holes instead of all space at once.
    pub sparse: bool,
    /// VHD, dynamic: bytes of a block, a power of two; [`vhd::DEFAULT_BLOCK_BYTES`] if not given.
    pub block_bytes: Option<u32>,
    /// Replace what is there.
    pub force: bool,
}

impl CreateOptions {
    /// An image of `size_bytes`, everything else by default.
    pub fn new(size_bytes: u64) -> Self {
        Self {
            size_bytes,
            format: None,
            fixed: false,
            sparse: false,
            block_bytes: None,
            force: false,
        }
    }
}

/// Makes an empty image at `path`, all zeros, and tells the disk's size in bytes: a raw one on a device is as large as that. A regular file
/// that could not be finished is removed again.
pub fn create(path: &Path, options: &CreateOptions) -> Result<u64, Error> {
    let format = checked(path, options)?;
    fill(&ImageFile::create(path, options.force)?, format, options)
}

/// The same at a name for now, with no more than `rights`; see [`ImageFile::create_part`].
pub(crate) fn create_part(path: &Path, rights: u32, options: &CreateOptions) -> Result<u64, Error> {
    let format = checked(path, options)?;
    fill(&ImageFile::create_part(path, rights)?, format, options)
}

/// The format, if such an image can be made; asked before what is there is emptied.
fn checked(path: &Path, options: &CreateOptions) -> Result<Format, Error> {
    let format = Format::resolve(options.format, path)?;
    if options.size_bytes == 0 || !options.size_bytes.is_multiple_of(SECTOR_BYTES) {
        let what = format!("{} is no positive multiple of 512 bytes", options.size_bytes);
        let next = options.size_bytes.max(1).checked_next_multiple_of(SECTOR_BYTES);
        let hint = next.map_or("take a smaller one".to_owned(), |next| format!("the next is {next}"));
        return Err(Error::new(ErrorKind::InvalidOption, what)
            .at(path)
            .field("size")
            .hint(hint));
    }
    match format {
        Format::Raw => check_raw(options).map_err(|error| error.at(path))?,
        Format::Vhd => vhd_options(options)
            .validate()
            .map_err(|error| no_vhd(error).at(path))?,
    }
    Ok(format)
}

/// Makes the empty `file` an image; the disk's size.
fn fill(file: &ImageFile, format: Format, options: &CreateOptions) -> Result<u64, Error> {
    let path = file.path();
    let made = write(file, format, options).map_err(|error| error.at(path));
    if made.is_err() && !file.is_block_device() {
        // The error that matters is the first.
        let _ = std::fs::remove_file(path);
    }
    let size_bytes = made?;
    sync_folder(path).map(|()| size_bytes)
}

/// Who asks for a fixed VHD, or for blocks, does not want bytes without a footer.
fn check_raw(options: &CreateOptions) -> Result<(), Error> {
    let field = match (options.fixed, options.block_bytes) {
        (true, _) => "fixed",
        (_, Some(_)) => "block size",
        _ => return Ok(()),
    };
    let error = Error::new(ErrorKind::InvalidOption, "is for VHDs, and a raw image is to be made").field(field);
    Err(error.hint("leave it out, or say that the format is vhd"))
}

fn write(file: &ImageFile, format: Format, options: &CreateOptions) -> Result<u64, Error> {
    match format {
        Format::Raw if file.is_block_device() => return zero_device(file, options.size_bytes),
        Format::Raw => file
            .set_len(options.size_bytes)
            .and_then(|()| file.sync())
            .map_err(|error| Error::new(ErrorKind::Io, "cannot be made that long").because(error))?,
        Format::Vhd => vhd::create(file, &vhd_options(options)).map_err(no_vhd)?,
    }
    if options.fixed && !options.sparse && !file.is_block_device() {
        reserve(file)?;
    }
    Ok(options.size_bytes)
}

/// Sets the space of a fixed image aside, so that no write finds the file system full.
fn reserve(file: &ImageFile) -> Result<(), Error> {
    let fail = |error| Error::new(ErrorKind::Io, "its space cannot be set aside").because(error);
    if file.reserve().map_err(fail)? {
        return file.sync().map_err(fail);
    }
    tracing::warn!(path = %file.path().display(), "space_not_reserved: this file system cannot; it is taken as it is written");
    Ok(())
}

/// A device has its size, and old bytes: all of them become zeros.
fn zero_device(device: &ImageFile, size_bytes: u64) -> Result<u64, Error> {
    let fail = |error| Error::new(ErrorKind::Io, "cannot be filled with zeros").because(error);
    let has = device.len_bytes().map_err(fail)?;
    if has < size_bytes {
        let what = format!("the device has {has} bytes, fewer than the {size_bytes} of the disk");
        let error = Error::new(ErrorKind::InvalidOption, what).field("size");
        return Err(error.hint("take a larger device, or a smaller disk"));
    }
    device.zero_range(0, has).and_then(|()| device.sync()).map_err(fail)?;
    Ok(has)
}

/// `raw`, `vhd-fixed` or `vhd-dynamic`.
pub(crate) fn format_name(format: Format, fixed: bool) -> &'static str {
    match format {
        Format::Raw => "raw",
        Format::Vhd if fixed => "vhd-fixed",
        Format::Vhd => "vhd-dynamic",
    }
}

fn no_vhd(error: vhd::Error) -> Error {
    let kind = match error.kind() {
        vhd::ErrorKind::Invalid => ErrorKind::InvalidOption,
        vhd::ErrorKind::Io => ErrorKind::Io,
        _ => ErrorKind::Image,
    };
    Error::new(kind, "cannot be made a VHD").because(error)
}

fn vhd_options(options: &CreateOptions) -> vhd::CreateOptions {
    let base = if options.fixed {
        vhd::CreateOptions::fixed
    } else {
        vhd::CreateOptions::dynamic
    };
    let unique_id = uuid::Uuid::new_v4().into_bytes();
    vhd::CreateOptions {
        block_bytes: options.block_bytes.unwrap_or(vhd::DEFAULT_BLOCK_BYTES),
        ..base(options.size_bytes, unique_id, vhd_now())
    }
}

/// Seconds since 2000, as VHD counts time; clocks before that count as 2000.
pub(crate) fn vhd_now() -> u32 {
    const Y2000_UNIX_S: u64 = 946_684_800;
    let unix = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs());
    u32::try_from(unix.saturating_sub(Y2000_UNIX_S)).unwrap_or(u32::MAX)
}

/// A new name survives a power cut only when its folder is synced.
pub(crate) fn sync_folder(path: &Path) -> Result<(), Error> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    std::fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| {
            Error::new(ErrorKind::Io, "its folder cannot be synced")
                .at(path)
                .because(error)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_images_take_no_options_of_vhds() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.img");
        let plain = CreateOptions::new(1 << 20);
        let fixed = CreateOptions {
            fixed: true,
            ..plain.clone()
        };
        let blocks = CreateOptions {
            block_bytes: Some(vhd::DEFAULT_BLOCK_BYTES),
            ..plain.clone()
        };
        for options in [fixed, blocks] {
            assert_eq!(create(&path, &options).unwrap_err().kind(), ErrorKind::InvalidOption);
            assert!(!path.exists());
        }
        create(&path, &plain).unwrap();
    }

    #[test]
    fn a_fixed_image_has_its_space_unless_it_is_to_be_sparse() {
        use std::os::unix::fs::MetadataExt;
        const SIZE_BYTES: u64 = 10 << 20;
        let dir = tempfile::tempdir().unwrap();
        let probe = ImageFile::create(&dir.path().join("probe"), false).unwrap();
        probe.set_len(4096).unwrap();
        if !probe.reserve().unwrap() {
            println!("skipped: the file system of temporary files cannot reserve space");
            return;
        }
        for sparse in [false, true] {
            let path = dir.path().join("a.vhd");
            let options = CreateOptions {
                fixed: true,
                force: true,
                sparse,
                ..CreateOptions::new(SIZE_BYTES)
            };
            create(&path, &options).unwrap();
            let meta = std::fs::metadata(&path).unwrap();
            assert_eq!(meta.len(), SIZE_BYTES + 512);
            assert_eq!(meta.blocks() * 512 >= SIZE_BYTES, !sparse, "{}", meta.blocks());
        }
    }

    #[test]
    fn what_cannot_be_made_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.vhd");
        std::fs::write(&path, "precious").unwrap();
        let refused = [
            CreateOptions {
                force: true,
                ..CreateOptions::new(3 << 40)
            },
            CreateOptions {
                force: true,
                block_bytes: Some(1000),
                ..CreateOptions::new(1 << 20)
            },
        ];
        for options in refused {
            assert_eq!(create(&path, &options).unwrap_err().kind(), ErrorKind::InvalidOption);
            assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        }
    }
}
