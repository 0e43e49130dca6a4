//! The images that regions are on, each opened and locked once.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use vbd::dmio::{DeviceIndex, Region};
use vbd::iomgr_core::{Device, SectorRange};
use vbd::{Disk, DiskOptions, RetryPolicy};

use super::Common;
use super::place::Place;
use crate::failure::Failure;
use crate::output::note;
use crate::size;

/// Open images, and where the regions are on them.
#[derive(Debug, Default)]
pub(super) struct Disks {
    disks: Vec<Disk>,
    paths: Vec<PathBuf>,
    pub(super) regions: Vec<Region>,
}

impl Disks {
    pub(super) fn open(common: &Common, read_only: bool) -> Result<Self, Failure> {
        let options = DiskOptions {
            format: common.format.map(Into::into),
            read_only,
            cache: common.cache.into(),
            lock_timeout: common.lock_timeout,
            // Errors are what is looked for.
            retry: RetryPolicy {
                timeout: Duration::ZERO,
                ..RetryPolicy::DEFAULT
            },
            ..DiskOptions::default()
        };
        let mut all = Self::default();
        for place in &common.regions {
            let number = all.disk(&place.image, &options)?;
            let region = Region {
                device: DeviceIndex(u16::try_from(number).expect("a request has 64 regions at most")),
                range: range(place, &all.disks[number])?,
            };
            all.regions.push(region);
        }
        Ok(all)
    }

    /// The number of an image, which is opened if it is a new one.
    fn disk(&mut self, path: &Path, options: &DiskOptions) -> Result<usize, Failure> {
        // Links may lead to the same image, which locks once.
        let real = fs::canonicalize(path).unwrap_or_else(|_| path.into());
        if let Some(number) = self.paths.iter().position(|known| *known == real) {
            return Ok(number);
        }
        let disk =
            Disk::open(path, options).map_err(|error| Failure::from(error).option("--read-only", "`dmio read`"))?;
        for warning in disk.warnings() {
            note(&format!("{}: {warning}", path.display()));
        }
        self.disks.push(disk);
        self.paths.push(real);
        Ok(self.disks.len() - 1)
    }

    pub(super) fn devices(&self) -> Vec<Arc<dyn Device>> {
        let device = |disk: &Disk| Arc::new(disk.clone()) as Arc<dyn Device>;
        self.disks.iter().map(device).collect()
    }

    /// Closes the images cleanly, once nobody works on them any more.
    pub(super) fn close(&self) -> Result<(), Failure> {
        self.disks.iter().try_for_each(|disk| Ok(disk.close()?))
    }
}

/// A region's sectors, if the disk has them.
fn range(place: &Place, disk: &Disk) -> Result<SectorRange, Failure> {
    let limits = disk.limits();
    let (start, len) = (place.start_bytes, place.len_bytes);
    let Some(range) = place.sectors().filter(|range| range.fits(limits.size)) else {
        let size = size::both(limits.size.0 * 512);
        let what = format!("START {start} and LENGTH {len} end beyond the disk, which has {size}");
        return Err(Failure::new(what).at(&place.image).hint("take smaller ones"));
    };
    let block = u64::from(limits.logical_block_bytes);
    match (start | len).is_multiple_of(block) {
        true => Ok(range),
        false => {
            let what = format!("START {start} or LENGTH {len} is no multiple of the disk's logical block size");
            Err(Failure::new(what)
                .at(&place.image)
                .hint(format!("that is {block} bytes")))
        }
    }
}
