//! How the image's bytes make a disk: as one run, or as blocks with a map.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::Sender;
use iomgr_core::epoch::EpochDomain;
use iomgr_core::{SECTOR_BYTES, SectorCount, Storage, Waker};
use vhd::{Allocator, Image, Map};

use crate::disk::DiskOptions;
use crate::error::{Error, ErrorKind};
use crate::file::ImageFile;
use crate::format::Format;
use crate::generation::raw_size;
use crate::queue::Message;

const RAW: &str = "raw";

/// See the module.
#[derive(Debug)]
pub(crate) enum Layout {
    /// A raw image or a fixed VHD.
    Plain(PlainLayout),
    /// A dynamic VHD.
    Blocks(BlockLayout),
}

/// The disk is one run of the file.
#[derive(Debug)]
pub(crate) struct PlainLayout {
    format: &'static str,
    pub(crate) offset_bytes: u64,
    /// At opening.
    size: SectorCount,
}

/// The disk is blocks; where each lies says the map.
#[derive(Debug)]
pub(crate) struct BlockLayout {
    pub(crate) map: Arc<Map>,
    /// Metadata writes that are known to survive a power cut: a count, to be held against [`Map::meta_written`].
    pub(crate) meta_durable: Arc<AtomicU64>,
    /// What allocates. Queue 0 has it while it is open.
    pub(crate) allocation: Mutex<Allocation>,
    /// How to reach queue 0 while it is open.
    pub(crate) owner: Mutex<Option<OwnerPort>>,
}

/// Where the allocator is.
#[derive(Debug)]
pub(crate) enum Allocation {
    /// Not made yet: how many requests it must hold is known when queue 0 opens.
    Image(Box<Image>),
    /// Between two openings of queue 0.
    Resting(Owned),
    /// With queue 0, or nowhere: the disk is read-only, or closed.
    Away,
}

/// An allocator, and what it was made for.
#[derive(Debug)]
pub(crate) struct Owned {
    pub(crate) allocator: Box<Allocator>,
    pub(crate) domain: EpochDomain,
    pub(crate) queues: u16,
    pub(crate) capacity: usize,
}

/// How other queues reach the one that allocates.
#[derive(Clone, Debug)]
pub(crate) struct OwnerPort {
    pub(crate) inbox: Sender<Message>,
    pub(crate) waker: Waker,
    pub(crate) domain: EpochDomain,
    /// Queue 0 waits for epochs to drain: whoever has ended I/O is to wake it.
    pub(crate) drain_awaited: Arc<AtomicBool>,
}

impl Layout {
    /// Reads the image's structure, of `format`.
    pub(crate) fn open(
        file: &ImageFile,
        format: Format,
        options: &DiskOptions,
        warnings: &mut Vec<String>,
    ) -> Result<Self, Error> {
        match format {
            Format::Raw => {
                let size = raw_size(file, warnings)?;
                Ok(Self::Plain(PlainLayout {
                    format: RAW,
                    offset_bytes: 0,
                    size,
                }))
            }
            Format::Vhd => {
                if options.repair && !options.read_only {
                    repair(file, warnings)?;
                }
                Self::open_vhd(file, options.read_only, warnings)
            }
        }
    }

    /// Reads a VHD's structure.
    pub(crate) fn open_vhd(storage: &dyn Storage, read_only: bool, warnings: &mut Vec<String>) -> Result<Self, Error> {
        let image = Image::open(storage, &vhd::OpenOptions { read_only }).map_err(image_error)?;
        warnings.extend(image.warnings().iter().map(ToString::to_string));
        let plain = |fixed: vhd::FixedData| {
            let size = SectorCount(fixed.len_bytes / SECTOR_BYTES);
            Self::Plain(PlainLayout {
                format: "vhd-fixed",
                offset_bytes: fixed.offset,
                size,
            })
        };
        let Some(map) = image.map().cloned() else {
            return Ok(plain(image.fixed_data().expect("an image without a map is fixed")));
        };
        let allocation = if read_only {
            Allocation::Away
        } else {
            Allocation::Image(Box::new(image))
        };
        Ok(Self::Blocks(BlockLayout {
            map,
            meta_durable: Arc::default(),
            allocation: Mutex::new(allocation),
            owner: Mutex::default(),
        }))
    }

    pub(crate) fn format_name(&self) -> &'static str {
        match self {
            Self::Plain(plain) => plain.format,
            Self::Blocks(_) => "vhd-dynamic",
        }
    }

    /// The disk's size at opening.
    pub(crate) fn size(&self) -> SectorCount {
        match self {
            Self::Plain(plain) => plain.size,
            Self::Blocks(blocks) => SectorCount(blocks.map.shape().sectors()),
        }
    }

    /// Is the disk the file, and so as large as it is?
    pub(crate) fn is_raw(&self) -> bool {
        matches!(self, Self::Plain(PlainLayout { format: RAW, .. }))
    }

    /// Bytes of a block, the unit in which space is taken and given back; 0 where there are none.
    pub(crate) fn block_bytes(&self) -> u32 {
        match self {
            Self::Plain(_) => 0,
            Self::Blocks(blocks) => {
                u32::try_from(blocks.map.shape().block_bytes()).expect("blocks have at most 256 MiB")
            }
        }
    }

    /// Gives reserved space back. Nothing for a plain layout.
    pub(crate) fn close(&self, storage: &dyn Storage) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let Self::Blocks(blocks) = self else { return Ok(()) };
        match blocks.take_allocation() {
            Allocation::Resting(owned) => Ok(owned.allocator.close(storage)?),
            Allocation::Image(_) | Allocation::Away => Ok(()),
        }
    }
}

impl BlockLayout {
    /// Whatever allocates is the caller's now.
    pub(crate) fn take_allocation(&self) -> Allocation {
        std::mem::replace(
            &mut *self.allocation.lock().unwrap_or_else(PoisonError::into_inner),
            Allocation::Away,
        )
    }

    /// Gives it back.
    pub(crate) fn rest(&self, owned: Owned) {
        *self.allocation.lock().unwrap_or_else(PoisonError::into_inner) = Allocation::Resting(owned);
    }
}

fn repair(file: &ImageFile, warnings: &mut Vec<String>) -> Result<(), Error> {
    let actions =
        vhd::repair(file, false).map_err(|error| Error::new(ErrorKind::Image, "cannot be repaired").because(error))?;
    warnings.extend(actions.iter().map(|action| format!("repaired: {}", action.text)));
    Ok(())
}

/// A VHD's error as ours.
pub(crate) fn image_error(error: vhd::Error) -> Error {
    if error.kind() == vhd::ErrorKind::NeedsRepair {
        return Error::new(
            ErrorKind::NeedsRepair,
            "needs its footer restored before it may be written",
        )
        .hint("`iomgr repair`, or `serve --repair`")
        .because(error);
    }
    Error::new(ErrorKind::Image, "is no VHD that can be used").because(error)
}
