//! Making new images.
//!
//! ```text
//!  dynamic: 0 footer copy · 512 dynamic header · 4096 BAT · batmap header · batmap · page boundary · [pad, footer]
//! ```
//! The BAT begins on a page, so that it is written by whole pages; the end is padded so that the file is whole pages
//! too and the footer lies in its last 512 bytes. The first slot's head will later take exactly the old footer's page.

use iomgr_core::{SECTOR_BYTES, Storage};

use crate::error::Error;
use crate::layout::{BatmapRepr, Creator, DiskType, DynamicHeaderRepr, FooterRepr, UniqueId};
use crate::shape::{MAX_BLOCKS, MAX_DYNAMIC_BYTES, PAGE, Shape};

/// The block size of an image when nobody asks for another: the one that every tool knows.
pub const DEFAULT_BLOCK_BYTES: u32 = 2 << 20;

const TABLE_AT: u64 = PAGE;
const HEADER_AT: u64 = 512;
const CHUNK: usize = 64 << 10;

/// Fixed or dynamic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// All space from the start: zeros, or a hole, as the storage makes of what was never written.
    Fixed,
    /// Blocks are allocated when written.
    Dynamic,
}

/// What image to make. Identity and time come from the caller: this crate has neither a clock nor a source of chance.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// The disk's size: a multiple of 512; 2040 GiB at most for a dynamic one.
    pub size_bytes: u64,
    /// Fixed or dynamic.
    pub kind: Kind,
    /// Bytes in a block of a dynamic image: a power of two from 4 KiB to 256 MiB.
    pub block_bytes: u32,
    /// The image's identity, 16 bytes of chance.
    pub unique_id: [u8; 16],
    /// When: see [`layout::timestamp`](crate::layout::timestamp).
    pub timestamp: u32,
    /// Whose mark to put in.
    pub creator: Creator,
}

impl CreateOptions {
    /// A dynamic image with the product's defaults.
    pub fn dynamic(size_bytes: u64, unique_id: [u8; 16], timestamp: u32) -> Self {
        let (kind, block_bytes, creator) = (Kind::Dynamic, DEFAULT_BLOCK_BYTES, Creator::TAP);
        Self {
            size_bytes,
            kind,
            block_bytes,
            unique_id,
            timestamp,
            creator,
        }
    }

    /// A fixed image with the product's defaults.
    pub fn fixed(size_bytes: u64, unique_id: [u8; 16], timestamp: u32) -> Self {
        Self {
            kind: Kind::Fixed,
            ..Self::dynamic(size_bytes, unique_id, timestamp)
        }
    }

    /// Can such an image be made? [`create`] asks this, too; it is for who must know before anything is touched.
    ///
    /// # Errors
    /// `Invalid`, which says what is wrong.
    pub fn validate(&self) -> Result<(), Error> {
        if self.size_bytes == 0 || !self.size_bytes.is_multiple_of(SECTOR_BYTES) {
            return Err(Error::invalid(
                "size",
                format!("{} is no positive multiple of 512", self.size_bytes),
            ));
        }
        match self.kind {
            Kind::Fixed => self.validate_fixed(),
            Kind::Dynamic => self.validate_dynamic(),
        }
    }

    fn validate_fixed(&self) -> Result<(), Error> {
        // File offsets are signed.
        if self.size_bytes > i64::MAX.unsigned_abs() - 2 * PAGE {
            return Err(Error::invalid(
                "size",
                format!("{} bytes do not fit a file", self.size_bytes),
            ));
        }
        Ok(())
    }

    fn validate_dynamic(&self) -> Result<(), Error> {
        if !Shape::legal_block(self.block_bytes) {
            let detail = format!("{} is no power of two from 4 KiB to 256 MiB", self.block_bytes);
            return Err(Error::invalid("block size", detail));
        }
        if self.size_bytes > MAX_DYNAMIC_BYTES {
            let detail = format!(
                "{} is more than the format's 2040 GiB for dynamic images",
                self.size_bytes
            );
            return Err(Error::invalid("size", detail));
        }
        let blocks = Shape::new(self.size_bytes, self.block_bytes).blocks();
        if blocks > MAX_BLOCKS {
            return Err(Error::invalid(
                "block size",
                format!("too small: it makes {blocks} blocks"),
            ));
        }
        Ok(())
    }

    fn footer(&self) -> FooterRepr {
        let disk_type = match self.kind {
            Kind::Fixed => DiskType::Fixed,
            Kind::Dynamic => DiskType::Dynamic,
        };
        FooterRepr::new(
            disk_type,
            self.size_bytes,
            UniqueId(self.unique_id),
            self.timestamp,
            self.creator,
        )
    }
}

/// Makes an image on `storage`, whose old content is given up, and makes it durable.
pub fn create(storage: &dyn Storage, options: &CreateOptions) -> Result<(), Error> {
    options.validate()?;
    if !storage.is_block_device() {
        storage.set_len(0).map_err(Error::io("emptying the file", 0))?;
    }
    match options.kind {
        Kind::Fixed => create_fixed(storage, options)?,
        Kind::Dynamic => create_dynamic(storage, options)?,
    }
    storage.sync().map_err(Error::io("flushing the new image", 0))
}

fn create_fixed(storage: &dyn Storage, options: &CreateOptions) -> Result<(), Error> {
    let footer_at = footer_place(storage, options.size_bytes, options.size_bytes)?;
    zero_device(storage, 0, options.size_bytes)?;
    write(storage, "writing the footer", footer_at, &options.footer().emit())
}

fn create_dynamic(storage: &dyn Storage, options: &CreateOptions) -> Result<(), Error> {
    let plan = Plan::new(options);
    let footer_at = footer_place(storage, plan.data_start, plan.data_start + PAGE - SECTOR_BYTES)?;
    zero_device(storage, 0, plan.data_start)?;
    // The footer first: it alone extends the file. The copy at 0 last: without it there is no image to open by mistake.
    write(storage, "writing the footer", footer_at, &options.footer().emit())?;
    write_table(storage, plan.table_bytes)?;
    if let Some(batmap) = &plan.batmap {
        write(
            storage,
            "writing the batmap header",
            TABLE_AT + plan.table_bytes,
            &batmap.emit(),
        )?;
    }
    let header = DynamicHeaderRepr::new(TABLE_AT, plan.entries, options.block_bytes);
    write(storage, "writing the dynamic header", HEADER_AT, &header.emit())?;
    write(storage, "writing the footer's copy", 0, &options.footer().emit())
}

/// Where the parts of a new dynamic image go.
struct Plan {
    entries: u32,
    table_bytes: u64,
    batmap: Option<BatmapRepr>,
    data_start: u64,
}

impl Plan {
    fn new(options: &CreateOptions) -> Self {
        let blocks = Shape::new(options.size_bytes, options.block_bytes).blocks();
        let table_bytes = (blocks * 4).next_multiple_of(SECTOR_BYTES);
        let table_end = TABLE_AT + table_bytes;
        let batmap = options.creator.is_tap_from((1, 1)).then(|| {
            // Xen's library sums up by the disk's size, and needs the map to be at least so long.
            let sectors = blocks
                .div_ceil(8 * SECTOR_BYTES)
                .max((options.size_bytes >> 24).div_ceil(SECTOR_BYTES));
            BatmapRepr::new(
                table_end + SECTOR_BYTES,
                u32::try_from(sectors).expect("2^24 blocks at most"),
            )
        });
        let end = batmap.as_ref().map_or(table_end, |map| {
            map.map_offset + u64::from(map.map_sectors) * SECTOR_BYTES
        });
        let entries = u32::try_from(blocks).expect("2^24 blocks at most");
        Self {
            entries,
            table_bytes,
            batmap,
            data_start: end.next_multiple_of(PAGE),
        }
    }
}

/// Where the footer goes: `in_file`, or a device's last sector, if `data` bytes fit before it.
fn footer_place(storage: &dyn Storage, data: u64, in_file: u64) -> Result<u64, Error> {
    if !storage.is_block_device() {
        return Ok(in_file);
    }
    let len = storage
        .len_bytes()
        .map_err(Error::io("asking for the device's size", 0))?;
    let last = (len / SECTOR_BYTES)
        .checked_sub(1)
        .map(|sector| sector * SECTOR_BYTES)
        .filter(|&last| last >= data);
    last.ok_or_else(|| {
        Error::invalid(
            "size",
            format!("the device has {len} bytes, the image needs {data} and a footer"),
        )
    })
}

/// A new file is zeros already; a device is not.
fn zero_device(storage: &dyn Storage, offset: u64, len: u64) -> Result<(), Error> {
    if !storage.is_block_device() {
        return Ok(());
    }
    storage
        .zero_range(offset, len)
        .map_err(Error::io("zeroing the device", offset))
}

fn write_table(storage: &dyn Storage, table_bytes: u64) -> Result<(), Error> {
    let ones = [0xFF; CHUNK];
    let mut at = 0;
    while at < table_bytes {
        let len = (table_bytes - at).min(CHUNK as u64);
        let part = &ones[..usize::try_from(len).expect("at most CHUNK")];
        write(storage, "writing the BAT", TABLE_AT + at, part)?;
        at += len;
    }
    Ok(())
}

fn write(storage: &dyn Storage, what: &'static str, at: u64, bytes: &[u8]) -> Result<(), Error> {
    storage.write_at(bytes, at).map_err(Error::io(what, at))
}
