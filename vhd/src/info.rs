//! Info: what an image says about itself.

use iomgr_core::Storage;
use serde::Serialize;

use crate::error::Error;
use crate::finding::Finding;
use crate::footers::State;
use crate::image::{Image, OpenOptions};
use crate::layout::{self, FooterRepr};
use crate::map::Map;

/// An image's own words, and what follows from them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Info {
    /// `fixed` or `dynamic`.
    pub disk_type: String,
    /// The disk's size in bytes.
    pub size_bytes: u64,
    /// The file's length in bytes.
    pub file_bytes: u64,
    /// Bytes in a block; absent in a fixed image.
    pub block_bytes: Option<u64>,
    /// How many blocks the disk has.
    pub blocks: Option<u64>,
    /// How many of them have a slot.
    pub allocated_blocks: Option<u64>,
    /// Do all slots have their data on 4096 boundaries?
    pub aligned: Option<bool>,
    /// Who made it: `tap 1.3`.
    pub creator: String,
    /// When it was made, in Unix time.
    pub created_unix: u64,
    /// Its identity.
    pub unique_id: String,
    /// Cylinders, heads, sectors per track; no size.
    pub geometry: (u16, u8, u8),
    /// Does the disk belong to a suspended machine?
    pub saved_state: bool,
    /// Xen: is it the inner node of a chain?
    pub hidden: bool,
    /// How it was found.
    pub state: State,
    /// What is odd about it.
    pub warnings: Vec<Finding>,
}

/// Opens the image on `storage` for reading, and describes it.
pub fn info(storage: &dyn Storage) -> Result<Info, Error> {
    let image = Image::open(storage, &OpenOptions { read_only: true })?;
    let file_bytes = storage
        .len_bytes()
        .map_err(Error::io("asking for the file's size", 0))?;
    let (map, footer) = (image.map().map(AsRef::as_ref), image.footer());
    let FooterRepr { geometry, .. } = *footer;
    Ok(Info {
        disk_type: footer.disk_type.to_string(),
        size_bytes: image.size_bytes(),
        file_bytes,
        block_bytes: map.map(|map| map.shape().block_bytes()),
        blocks: map.map(|map| map.shape().blocks()),
        allocated_blocks: map.map(Map::allocated_blocks),
        aligned: map.map(Map::is_aligned),
        creator: footer.creator.to_string(),
        created_unix: layout::unix_time(footer.timestamp),
        unique_id: footer.unique_id.to_string(),
        geometry: (geometry.cylinders, geometry.heads, geometry.sectors),
        saved_state: footer.saved_state != 0,
        hidden: footer.hidden != 0,
        state: image.state(),
        warnings: image.warnings().to_vec(),
    })
}
