//! For tests: disks on the simulator's files.

use iomgr_core::{FileHandle, Storage};
use tqueue::sim::SimDisk;

use crate::disk::{Cache, Disk};
use crate::error::{Error, ErrorKind};
use crate::generation::{Medium, Shared};
use crate::layout::Layout;
use crate::origin::Origin;
use crate::retry::RetryPolicy;

/// A simulated file in the place of a real one.
#[derive(Debug)]
pub struct SimMedium(SimDisk);

impl SimMedium {
    pub(crate) fn storage(&self) -> &dyn Storage {
        &self.0
    }

    pub(crate) fn handle(&self) -> FileHandle {
        self.0.handle()
    }
}

/// A simulated image, to open it again.
#[derive(Clone, Debug)]
pub(crate) struct Simulated {
    file: SimDisk,
    read_only: bool,
    cache: Cache,
    retry: RetryPolicy,
}

impl Simulated {
    pub(crate) fn open(&self) -> Result<Shared, Error> {
        let origin = Origin::Simulated(self.clone());
        let Self {
            file,
            read_only,
            cache,
            retry,
        } = self.clone();
        let mut warnings = Vec::new();
        let layout = Layout::open_vhd(&file, read_only, &mut warnings)?;
        let medium = Medium::Simulated(SimMedium(file));
        let name = "simulated".into();
        let mut shared = Shared::assemble(name, origin, medium, layout, read_only, cache, warnings);
        shared.retry = retry;
        Ok(shared)
    }
}

impl Disk {
    /// The same as [`simulated`](Self::simulated), with errors that pass.
    pub fn simulated_retrying(file: SimDisk, retry: RetryPolicy, cache: Cache) -> Result<Self, Error> {
        let image = Simulated {
            file,
            read_only: false,
            cache,
            retry,
        };
        image.open().map(Self::over)
    }

    /// Opens the VHD on a simulated file.
    pub fn simulated(file: SimDisk, read_only: bool) -> Result<Self, Error> {
        Self::simulated_with(file, read_only, Cache::Writeback)
    }

    /// The same, past the page cache or not: without one, FUA goes down with the writes themselves.
    pub fn simulated_with(file: SimDisk, read_only: bool, cache: Cache) -> Result<Self, Error> {
        let image = Simulated {
            file,
            read_only,
            cache,
            retry: RetryPolicy::DEFAULT,
        };
        image.open().map(Self::over)
    }

    /// Pauses it; `pass` lets its queues do a pass of their loop, and says whether there is any use in another.
    pub fn pause_simulated(&self, mut pass: impl FnMut() -> bool) -> Result<(), Error> {
        self.pause_when(None, None, |queues| {
            while queues.count() > 0 {
                if !pass() {
                    return false;
                }
            }
            true
        })
        .map(drop)
    }

    /// Resumes it on that file, opened as it was before.
    pub fn resume_simulated(&self, file: SimDisk) -> Result<(), Error> {
        let change = self.stable.change();
        let pause = change.pause()?;
        change.resume(&pause, |origin| match origin {
            Origin::Simulated(image) => Simulated { file, ..image.clone() }.open(),
            Origin::File { .. } => Err(Error::new(ErrorKind::InvalidOption, "the disk is not simulated")),
        })
    }
}
