//! The images of `iomgr serve`: named on the command line, made if asked for, opened.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use clap::ValueEnum;
use vbd::{Disk, DiskOptions, ErrorKind};

use crate::args::{Format, disk_name};
use crate::failure::Failure;

/// An image, and what is special about it: `disk.img,read-only,name=system`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Image {
    pub(super) path: PathBuf,
    pub(super) name: Option<String>,
    pub(super) format: Option<Format>,
    pub(super) read_only: bool,
}

/// An open disk.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) disk: Disk,
    pub(super) origin: Origin,
}

/// What became of `--create`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// It was there, and nobody asked for another.
    Found,
    /// `--create` found it and left it as it is.
    Reused,
    /// `--create` made it.
    Created,
}

impl Image {
    /// Takes options off the end as long as there are any: a comma in a file's name is harmless unless an option follows it, and
    /// one at the very end says that none does.
    pub(super) fn parse(text: &OsStr) -> Result<Self, String> {
        let mut image = Self::default();
        let mut rest = text.as_bytes();
        while let Some(comma) = rest.iter().rposition(|&byte| byte == b',') {
            let option = &rest[comma + 1..];
            if !option.is_empty() && !image.take(option)? {
                break;
            }
            rest = &rest[..comma];
            if option.is_empty() {
                break;
            }
        }
        image.path = OsString::from_vec(rest.to_vec()).into();
        Ok(image)
    }

    /// Takes an option; `false`: it is none, but a part of the file's name.
    fn take(&mut self, option: &[u8]) -> Result<bool, String> {
        let Ok(option) = std::str::from_utf8(option) else {
            return Ok(false);
        };
        match option.split_once('=') {
            None if option == "read-only" => self.read_only = true,
            Some(("name", name)) => self.name = Some(disk_name(name)?),
            Some(("format", format)) => self.format = Some(parse_format(format)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Opens it with `options` and its own; makes it first, with that size, if it is not there.
    pub(super) fn open(&self, options: &DiskOptions, create: Option<u64>) -> Result<Opened, Failure> {
        let options = DiskOptions {
            name: self.name.clone(),
            format: self.format.map(Into::into).or(options.format),
            read_only: self.read_only || options.read_only,
            // What is only read needs no repair.
            repair: options.repair && !self.read_only,
            ..options.clone()
        };
        let create = create.filter(|_| !options.read_only);
        let origin = create.map_or(Ok(Origin::Found), |bytes| self.create(bytes, options.format))?;
        // `status` shows the path to people in other folders.
        let path = std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone());
        let disk = Disk::open(&path, &options)?;
        match create {
            Some(bytes) if origin == Origin::Reused => check_size(&disk, bytes)?,
            _ => {}
        }
        Ok(Opened { disk, origin })
    }

    /// Tries to create and takes "exists" for an answer, so that two starts at once cannot destroy each other's image.
    fn create(&self, bytes: u64, format: Option<vbd::Format>) -> Result<Origin, Failure> {
        let options = vbd::CreateOptions {
            format,
            ..vbd::CreateOptions::new(bytes)
        };
        match vbd::create(&self.path, &options) {
            Ok(_) => Ok(Origin::Created),
            Err(error) if error.kind() == ErrorKind::Exists => Ok(Origin::Reused),
            Err(error) => Err(Failure::to_make(error)),
        }
    }
}

/// Opens all of them. Those that were made for it are removed again when a later one cannot be had.
pub(super) fn open(images: &[Image], options: &DiskOptions, create: Option<u64>) -> Result<Vec<Opened>, Failure> {
    let mut opened: Vec<Opened> = Vec::with_capacity(images.len());
    for image in images {
        match refuse_twin(image, &opened).and_then(|()| image.open(options, create)) {
            Ok(next) => opened.push(next),
            Err(failure) => {
                opened.into_iter().for_each(Opened::take_back);
                return Err(failure);
            }
        }
    }
    Ok(opened)
}

/// An image that is given twice cannot be locked twice, which nobody else is to blame for.
fn refuse_twin(image: &Image, opened: &[Opened]) -> Result<(), Failure> {
    let Some(twin) = opened.iter().find(|other| other.disk.is_writer_of(&image.path)) else {
        return Ok(());
    };
    let what = format!(
        "is the same file as {}, which is served for writing already; give it once",
        twin.disk.info().path.display()
    );
    Err(vbd::Error::new(ErrorKind::Locked, what).at(&image.path).into())
}

impl Opened {
    /// Nobody else has used it: the lock is held until its name is gone.
    fn take_back(self) {
        let path = self.disk.info().path;
        if self.origin == Origin::Created
            && let Err(error) = std::fs::remove_file(&path)
        {
            tracing::warn!(path = %path.display(), %error, "image_remove: failed");
        }
    }
}

fn parse_format(text: &str) -> Result<Format, String> {
    Format::from_str(text, false).map_err(|_| format!("no format {text:?}; there are raw and vhd"))
}

fn check_size(disk: &Disk, bytes: u64) -> Result<(), vbd::Error> {
    let info = disk.info();
    if info.size_bytes == bytes {
        return Ok(());
    }
    let what = format!(
        "exists with {} bytes, not the {bytes} of --create; leave --create out to serve it as it is",
        info.size_bytes
    );
    Err(vbd::Error::new(ErrorKind::Exists, what).at(&info.path))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn image(text: &str) -> Image {
        Image::parse(text.as_ref()).unwrap()
    }

    #[test]
    fn options_follow_the_path() {
        let expected = Image {
            path: "a.img".into(),
            name: Some("system".into()),
            format: Some(Format::Vhd),
            read_only: true,
        };
        assert_eq!(image("a.img,read-only,name=system,format=vhd"), expected);
        assert_eq!(image("a.img,format=vhd,name=system,read-only"), expected);
        assert!(Image::parse("a.img,format=qcow2".as_ref()).is_err());
        assert!(Image::parse("a.img,name=../a".as_ref()).is_err());
    }

    #[test]
    fn a_comma_in_a_name_is_no_option() {
        assert_eq!(image("a,b.img").path, Path::new("a,b.img"));
        let both = image("a,b.img,read-only");
        assert_eq!((both.path.as_path(), both.read_only), (Path::new("a,b.img"), true));
    }

    #[test]
    fn a_last_comma_ends_the_options() {
        let odd = image("a,read-only,");
        assert_eq!((odd.path.as_path(), odd.read_only), (Path::new("a,read-only"), false));
        assert_eq!(image("a,,").path, Path::new("a,"));
        let odd = image("a,read-only,,format=raw");
        assert_eq!(
            (odd.path.as_path(), odd.format),
            (Path::new("a,read-only"), Some(Format::Raw))
        );
    }

    #[test]
    fn a_path_need_not_be_text() {
        let bytes = OsStr::from_bytes(b"a\xff,\xfe,read-only");
        let image = Image::parse(bytes).unwrap();
        assert_eq!(image.path.as_os_str().as_bytes(), b"a\xff,\xfe");
        assert!(image.read_only);
    }
}
