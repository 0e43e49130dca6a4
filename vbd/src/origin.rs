//! Where an image comes from: what it takes to open it again, or another in its place, as it was opened the first time.

use std::path::{Path, PathBuf};

use crate::disk::DiskOptions;
use crate::error::Error;
use crate::generation::Shared;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) enum Origin {
    File {
        path: PathBuf,
        options: Box<DiskOptions>,
    },
    #[cfg(feature = "test-utils")]
    Simulated(crate::test_utils::Simulated),
}

impl Origin {
    /// An image opened by these options, for the disk of that name.
    pub(crate) fn file(path: &Path, options: &DiskOptions, name: &str) -> Self {
        Self::File {
            path: path.to_path_buf(),
            options: Box::new(DiskOptions {
                name: Some(name.to_owned()),
                ..options.clone()
            }),
        }
    }

    /// Opens the same once more, or what `change` makes of it.
    pub(crate) fn open(&self, change: impl FnOnce(&mut PathBuf, &mut DiskOptions)) -> Result<Shared, Error> {
        match self {
            Self::File { path, options } => {
                let (mut path, mut options) = (path.clone(), DiskOptions::clone(options));
                change(&mut path, &mut options);
                Shared::open(&path, &options)
            }
            #[cfg(feature = "test-utils")]
            Self::Simulated(origin) => origin.open(),
        }
    }
}
