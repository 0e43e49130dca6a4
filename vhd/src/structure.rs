//! The dynamic image's frame: header, BAT's place and batmap, with every value judged before anything is sized by it.

use iomgr_core::{SECTOR_BYTES, Storage};

use crate::error::{Error, ErrorKind};
use crate::finding::{Finding, Severity};
use crate::footers::Chosen;
use crate::layout::{
    BAT_UNUSED, BATMAP_HEADER_BYTES, BatmapRepr, DYNAMIC_HEADER_BYTES, DiskType, DynamicHeaderRepr, FOOTER_BYTES,
    FooterRepr, NO_OFFSET, NO_OFFSET_32, batmap_checksum,
};
use crate::shape::{MAX_BLOCKS, MAX_DYNAMIC_BYTES, Shape};

/// A part of the file that holds metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    pub(crate) name: &'static str,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl Region {
    pub(crate) fn meets(&self, start: u64, end: u64) -> bool {
        start < self.end && self.start < end
    }
}

/// A dynamic image's frame, all of it checked.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) shape: Shape,
    pub(crate) header_at: u64,
    pub(crate) header: DynamicHeaderRepr,
    pub(crate) batmap: Batmap,
}

/// What was found where Xen's tools put a batmap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Batmap {
    /// The creator writes none.
    None,
    /// There should be one, and it cannot be right; why.
    Invalid(String),
    /// It is there.
    Valid {
        header_at: u64,
        header: Box<BatmapRepr>,
        bits: Bits,
    },
}

/// What a batmap's bits are worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bits {
    /// There are none.
    Empty,
    /// They say what they should.
    Set,
    /// They are not the header's: a power cut came between map and header. Nothing of them is believed, and both are made
    /// anew.
    Stale,
}

/// What every footer must hold, fixed or dynamic.
pub(crate) fn check_footer(footer: &FooterRepr, at: u64) -> Result<(), Error> {
    if footer.version >> 16 != 1 {
        let detail = format!("{:#010x}, known is 0x00010000", footer.version);
        return Err(Error::new(
            ErrorKind::Unsupported,
            "footer: format version",
            Some(at + 12),
            detail,
        ));
    }
    if let DiskType::Other(number) = footer.disk_type {
        return Err(Error::corrupt(
            "footer: disk type",
            at + 60,
            format!("{number} is no type of disk"),
        ));
    }
    if footer.current_size == 0 || !footer.current_size.is_multiple_of(SECTOR_BYTES) {
        let detail = format!("{} is no positive multiple of 512", footer.current_size);
        return Err(Error::corrupt("footer: current size", at + 48, detail));
    }
    if footer.disk_type == DiskType::Differencing {
        let detail = "differencing image: needs its parent chain, which this version cannot open";
        return Err(Error::new(
            ErrorKind::Unsupported,
            "footer: disk type",
            Some(at + 60),
            detail,
        ));
    }
    Ok(())
}

impl Frame {
    /// Reads and judges header and batmap. `chosen.footer` has passed [`check_footer`].
    pub(crate) fn read(storage: &dyn Storage, chosen: &Chosen) -> Result<Self, Error> {
        let footer = &chosen.footer;
        let header_at = header_place(footer, chosen.limit)?;
        let header = read_header(storage, header_at)?;
        check_header(&header, header_at)?;
        let shape = table_shape(footer, &header, header_at)?;
        let mut frame = Self {
            shape,
            header_at,
            header,
            batmap: Batmap::None,
        };
        frame.check_table_place(chosen.limit)?;
        frame.batmap = frame.read_batmap(storage, footer, chosen.limit)?;
        Ok(frame)
    }

    /// The BAT's bytes, padded to a sector. A table that ends with the file may lack its padding.
    pub(crate) fn table_bytes(&self) -> u64 {
        (u64::from(self.header.max_table_entries) * 4).next_multiple_of(SECTOR_BYTES)
    }

    /// The metadata before the blocks, with no slot allowed on it.
    pub(crate) fn regions(&self) -> impl Iterator<Item = Region> {
        let region = |name, start, len: u64| Region {
            name,
            start,
            end: start + len,
        };
        let batmap = match &self.batmap {
            Batmap::Valid { header_at, header, .. } => [
                Some(region("batmap header", *header_at, BATMAP_HEADER_BYTES as u64)),
                Some(region(
                    "batmap",
                    header.map_offset,
                    u64::from(header.map_sectors) * SECTOR_BYTES,
                )),
            ],
            _ => [None, None],
        };
        let fixed = [
            region("footer copy", 0, FOOTER_BYTES as u64),
            region("dynamic header", self.header_at, DYNAMIC_HEADER_BYTES as u64),
            region("BAT", self.header.table_offset, self.table_bytes()),
        ];
        fixed.into_iter().chain(batmap.into_iter().flatten())
    }

    /// Start and end of everything that is kept, but the slots and the footer at the end. Locators of a dynamic image
    /// mean nothing, but what somebody put there stays.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (u64, u64)> {
        let named = self.header.locators.iter().filter(|locator| locator.code != 0);
        let locators = named.filter_map(|locator| {
            let end = locator.data_offset.checked_add(u64::from(locator.data_length))?;
            Some((locator.data_offset, end.checked_next_multiple_of(SECTOR_BYTES)?))
        });
        self.regions().map(|region| (region.start, region.end)).chain(locators)
    }

    /// Where blocks lie on a stale batmap they are right, and it was none: its place is taken for granted by nobody else.
    pub(crate) fn doubt_batmap(&mut self, entries: &[u32]) {
        if !matches!(self.batmap, Batmap::Valid { bits: Bits::Stale, .. }) {
            return;
        }
        let places: Vec<Region> = self
            .regions()
            .filter(|region| region.name.starts_with("batmap"))
            .collect();
        let lies_there = |&entry: &u32| {
            let (start, end) = (Shape::bitmap_at(entry), self.shape.slot_end(entry));
            entry != BAT_UNUSED && places.iter().any(|region| region.meets(start, end))
        };
        if entries.iter().any(lies_there) {
            self.batmap = Batmap::Invalid("blocks lie on it".into());
        }
    }

    fn check_table_place(&self, limit: u64) -> Result<(), Error> {
        let (at, field) = (self.header.table_offset, "dynamic header: table offset");
        let bad = |detail: String| Err(Error::corrupt(field, self.header_at + 16, detail));
        if !at.is_multiple_of(SECTOR_BYTES) {
            return bad(format!("{at} is no multiple of 512"));
        }
        let bytes = self.table_bytes();
        match at.checked_add(bytes) {
            Some(end) if end <= limit => {}
            _ => {
                return bad(format!(
                    "a table of {bytes} bytes at {at} does not end before byte {limit}"
                ));
            }
        }
        let met = self
            .regions()
            .find(|region| region.name != "BAT" && region.meets(at, at + bytes));
        match met {
            Some(region) => bad(format!("{at}: the table lies on the {}", region.name)),
            None => Ok(()),
        }
    }

    fn read_batmap(&self, storage: &dyn Storage, footer: &FooterRepr, limit: u64) -> Result<Batmap, Error> {
        if !footer.creator.is_tap_from((1, 1)) {
            return Ok(Batmap::None);
        }
        let header_at = self.header.table_offset + self.table_bytes();
        if header_at
            .checked_add(BATMAP_HEADER_BYTES as u64)
            .is_none_or(|end| end > limit)
        {
            return Ok(Batmap::Invalid("there is no room for it".into()));
        }
        let mut bytes = [0; BATMAP_HEADER_BYTES];
        storage
            .read_at(&mut bytes, header_at)
            .map_err(Error::io("reading the batmap header", header_at))?;
        match BatmapRepr::parse(&bytes) {
            Err(flaw) => Ok(Batmap::Invalid(flaw.to_string())),
            Ok(header) => self.read_map(storage, footer, header_at, header, limit),
        }
    }

    fn read_map(
        &self,
        storage: &dyn Storage,
        footer: &FooterRepr,
        header_at: u64,
        header: BatmapRepr,
        limit: u64,
    ) -> Result<Batmap, Error> {
        if !matches!(header.version, 0x0001_0001 | 0x0001_0002) {
            return Ok(Batmap::Invalid(format!("version {:#010x} is unknown", header.version)));
        }
        let len = u64::from(header.map_sectors) * SECTOR_BYTES;
        let end = header.map_offset.checked_add(len).filter(|&end| end <= limit);
        // A map far larger than the table's is absurd, whatever the file's size says.
        let sane = u64::from(header.map_sectors) <= u64::from(header_max_sectors(&self.header, footer));
        let table_end = header_at + BATMAP_HEADER_BYTES as u64;
        if end.is_none() || !sane || header.map_offset < table_end || !header.map_offset.is_multiple_of(SECTOR_BYTES) {
            let detail = format!(
                "a map of {} sectors at {} cannot be",
                header.map_sectors, header.map_offset
            );
            return Ok(Batmap::Invalid(detail));
        }
        let mut map = vec![0; usize::try_from(len).expect("bounded by the table's size")];
        storage
            .read_at(&mut map, header.map_offset)
            .map_err(Error::io("reading the batmap", header.map_offset))?;
        let computed = batmap_checksum(header.version, &map, footer.current_size);
        let whole = batmap_checksum(header.version, &map, u64::MAX);
        let bits = match header.checksum {
            sum if sum != computed && sum != whole => Bits::Stale,
            _ if map.iter().all(|&byte| byte == 0) => Bits::Empty,
            _ => Bits::Set,
        };
        Ok(Batmap::Valid {
            header_at,
            header: Box::new(header),
            bits,
        })
    }
}

/// The most sectors a batmap for this table can need, with room for writers that round up.
fn header_max_sectors(header: &DynamicHeaderRepr, footer: &FooterRepr) -> u32 {
    let by_size = u32::try_from((footer.current_size >> 24).div_ceil(SECTOR_BYTES)).unwrap_or(u32::MAX);
    header
        .max_table_entries
        .div_ceil(4096)
        .saturating_mul(2)
        .saturating_add(8)
        .max(by_size)
}

fn header_place(footer: &FooterRepr, limit: u64) -> Result<u64, Error> {
    let (at, field) = (footer.data_offset, "footer: data offset");
    let fits = at
        .checked_add(DYNAMIC_HEADER_BYTES as u64)
        .is_some_and(|end| end <= limit);
    if at < FOOTER_BYTES as u64 || !at.is_multiple_of(SECTOR_BYTES) || !fits {
        return Err(Error::corrupt(
            field,
            16,
            format!("{at:#x}: no dynamic header can lie there"),
        ));
    }
    Ok(at)
}

fn read_header(storage: &dyn Storage, at: u64) -> Result<DynamicHeaderRepr, Error> {
    let mut bytes = [0; DYNAMIC_HEADER_BYTES];
    storage
        .read_at(&mut bytes, at)
        .map_err(Error::io("reading the dynamic header", at))?;
    DynamicHeaderRepr::parse(&bytes).map_err(|flaw| Error::corrupt("dynamic header", at, flaw.to_string()))
}

fn check_header(header: &DynamicHeaderRepr, at: u64) -> Result<(), Error> {
    if header.version >> 16 != 1 {
        let detail = format!("{:#010x}, known is 0x00010000", header.version);
        return Err(Error::new(
            ErrorKind::Unsupported,
            "dynamic header: version",
            Some(at + 24),
            detail,
        ));
    }
    if !Shape::legal_block(header.block_bytes) {
        let detail = format!("{} is no power of two from 4 KiB to 256 MiB", header.block_bytes);
        let kind = if header.block_bytes.is_power_of_two() {
            ErrorKind::Unsupported
        } else {
            ErrorKind::Corrupt
        };
        return Err(Error::new(kind, "dynamic header: block size", Some(at + 32), detail));
    }
    Ok(())
}

fn table_shape(footer: &FooterRepr, header: &DynamicHeaderRepr, at: u64) -> Result<Shape, Error> {
    let shape = Shape::new(footer.current_size, header.block_bytes);
    if shape.blocks() > u64::from(header.max_table_entries) {
        let detail = format!("{} for a disk of {} blocks", header.max_table_entries, shape.blocks());
        return Err(Error::corrupt("dynamic header: max table entries", at + 28, detail));
    }
    if shape.blocks() > MAX_BLOCKS {
        let detail = format!("{} blocks are more than this version's {MAX_BLOCKS}", shape.blocks());
        return Err(Error::new(
            ErrorKind::Unsupported,
            "dynamic header: block size",
            Some(at + 32),
            detail,
        ));
    }
    Ok(shape)
}

/// What is odd about footer, header and batmap, yet no reason to refuse the image.
pub(crate) fn oddities(footer: &FooterRepr, footer_at: u64, frame: Option<&Frame>) -> Vec<Finding> {
    let mut odd = Vec::new();
    let mut warn = |code, offset, text: String| odd.push(Finding::new(Severity::Warning, code, offset, text));
    if footer.features & !1 != 2 {
        let text = format!("footer: features are {:#x}, 2 or 3 expected", footer.features);
        warn("footer-features", footer_at + 8, text);
    }
    if footer.saved_state != 0 {
        let text = "footer: the disk belongs to a suspended machine (saved state)";
        warn("footer-saved-state", footer_at + 84, text.into());
    }
    if footer.timestamp > TIMESTAMP_SANE {
        let text = format!("footer: time stamp {} is far in the future", footer.timestamp);
        warn("footer-time", footer_at + 24, text);
    }
    odd.extend(frame.into_iter().flat_map(|frame| frame.oddities(footer, footer_at)));
    odd
}

/// Time stamps above this are of the year 2127 and later: nobody's clock is that wrong by accident.
const TIMESTAMP_SANE: u32 = 0xF000_0000;

impl Frame {
    fn oddities(&self, footer: &FooterRepr, footer_at: u64) -> Vec<Finding> {
        let mut odd = Vec::new();
        let mut warn = |code, offset, text: String| odd.push(Finding::new(Severity::Warning, code, offset, text));
        if !matches!(self.header.next_offset, NO_OFFSET | NO_OFFSET_32) {
            let text = format!(
                "dynamic header: next offset {:#x} is not followed",
                self.header.next_offset
            );
            warn("header-next", self.header_at + 8, text);
        }
        if footer.current_size > MAX_DYNAMIC_BYTES {
            let text = "footer: the disk is larger than the format's 2040 GiB";
            warn("footer-size-limit", footer_at + 48, text.into());
        }
        let batmap_at = self.header.table_offset + self.table_bytes();
        if let Batmap::Invalid(why) = &self.batmap {
            warn("batmap-invalid", batmap_at, format!("batmap: ignored: {why}"));
        }
        if matches!(self.batmap, Batmap::Valid { bits: Bits::Stale, .. }) {
            let text = "batmap: its checksum does not fit; it is made anew when the image is next written";
            warn("batmap-stale", batmap_at, text.into());
        }
        if self.encrypted() {
            let text = "batmap header: the data are encrypted; they are given as they are";
            warn("encrypted", batmap_at + 29, text.into());
        }
        odd
    }

    /// Does the batmap header name a key?
    pub(crate) fn encrypted(&self) -> bool {
        matches!(&self.batmap, Batmap::Valid { header, .. } if header.encrypted())
    }
}
