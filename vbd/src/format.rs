//! Which format an image has: given, or told by the file's extension. The content is never asked.
//!
//! A guest owns every byte of its raw disk and may write a VHD footer into its last sector, naming a host file as parent;
//! so content proves nothing.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind};

/// How the bytes of a file make a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The file's bytes are the disk's.
    Raw,
    /// Virtual Hard Disk: fixed or dynamic.
    Vhd,
}

impl Format {
    /// The format by `path`'s extension: `vhd` or `vpc` is VHD; `raw`, `img`, `iso`, `bin` and everything below `/dev` is raw.
    pub fn from_path(path: &Path) -> Result<Self, Error> {
        if path.starts_with("/dev") && !path.starts_with("/dev/shm") {
            return Ok(Self::Raw);
        }
        let extension = path
            .extension()
            .and_then(|ext| ext.to_str())
            .unwrap_or("")
            .to_ascii_lowercase();
        match extension.as_str() {
            "vhd" | "vpc" => Ok(Self::Vhd),
            "raw" | "img" | "iso" | "bin" => Ok(Self::Raw),
            _ => Err(Error::new(ErrorKind::Format, "the extension tells no format")
                .at(path)
                .hint("say --format raw or --format vhd")),
        }
    }

    /// `given`, or what the extension tells.
    pub fn resolve(given: Option<Self>, path: &Path) -> Result<Self, Error> {
        given.map_or_else(|| Self::from_path(path), Ok)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Vhd => "vhd",
        })
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "raw" => Ok(Self::Raw),
            "vhd" => Ok(Self::Vhd),
            _ => Err(Error::new(ErrorKind::Format, format!("no format {text:?}")).hint("there are raw and vhd")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_extension_or_the_user_decides() {
        assert_eq!(Format::from_path(Path::new("a.VHD")).unwrap(), Format::Vhd);
        assert_eq!(Format::from_path(Path::new("a.img")).unwrap(), Format::Raw);
        assert_eq!(Format::from_path(Path::new("/dev/loop0")).unwrap(), Format::Raw);
        assert_eq!(Format::from_path(Path::new("/dev/shm/a.vhd")).unwrap(), Format::Vhd);
        assert!(Format::from_path(Path::new("a.qcow2")).is_err());
        assert_eq!(
            Format::resolve(Some(Format::Raw), Path::new("a.vhd")).unwrap(),
            Format::Raw
        );
    }
}
