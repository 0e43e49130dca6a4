//! The BAT: read in big pieces, judged by sorting.

use iomgr_core::{SECTOR_BYTES, Storage};

use crate::error::Error;
use crate::finding::{Finding, Severity};
use crate::footers::Chosen;
use crate::layout::BAT_UNUSED;
use crate::shape::{PAGE, Shape};
use crate::structure::{Frame, Region};

const CHUNK: usize = 256 << 10;

/// The BAT's entries that mean something, and the bytes behind them that are rewritten with them.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) entries: Vec<u32>,
    /// What follows the last entry within the last unit; kept as it is on every write.
    pub(crate) tail: Vec<u8>,
}

/// The pieces that a BAT is written in: pages where it lies on pages, else sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Units {
    pub(crate) table_at: u64,
    table_bytes: u64,
    unit: u64,
}

impl Units {
    pub(crate) fn new(frame: &Frame) -> Self {
        let table_at = frame.header.table_offset;
        let unit = if table_at.is_multiple_of(PAGE) {
            PAGE
        } else {
            SECTOR_BYTES
        };
        Self {
            table_at,
            table_bytes: frame.table_bytes(),
            unit,
        }
    }

    /// The unit that holds `block`'s entry.
    pub(crate) fn of(self, block: u64) -> u64 {
        block * 4 / self.unit
    }

    /// Where the unit begins, in bytes.
    pub(crate) fn offset(self, unit: u64) -> u64 {
        self.table_at + unit * self.unit
    }

    /// The unit's bytes: the last one of a table may be short, for what follows is not the table's.
    pub(crate) fn len(self, unit: u64) -> usize {
        usize::try_from((self.table_bytes - unit * self.unit).min(self.unit)).expect("at most a page")
    }

    /// The first block of the unit.
    pub(crate) fn first_block(self, unit: u64) -> u64 {
        unit * self.unit / 4
    }
}

/// What is wrong with an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EntryFlaw {
    pub(crate) block: u64,
    pub(crate) entry: u32,
    pub(crate) kind: FlawKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FlawKind {
    OnMetadata(&'static str),
    PastEnd { needs: u64, limit: u64 },
    Overlaps { other: u64 },
}

impl std::fmt::Display for EntryFlaw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "block {} at sector {:#x} ", self.block, self.entry)?;
        match &self.kind {
            FlawKind::OnMetadata(name) => write!(f, "lies on the {name}"),
            FlawKind::PastEnd { needs, limit } => write!(f, "ends at byte {needs}, the image at {limit}"),
            FlawKind::Overlaps { other } => write!(f, "overlaps block {other}"),
        }
    }
}

impl EntryFlaw {
    pub(crate) fn finding(&self, frame: &Frame) -> Finding {
        let code = match self.kind {
            FlawKind::OnMetadata(_) => "bat-on-metadata",
            FlawKind::PastEnd { .. } => "bat-past-end",
            FlawKind::Overlaps { .. } => "bat-overlap",
        };
        let at = frame.header.table_offset + self.block * 4;
        Finding::new(Severity::Error, code, at, format!("BAT: {self}"))
    }
}

/// The outcome of [`judge`].
#[derive(Debug, Default)]
pub(crate) struct Judgement {
    pub(crate) flaws: Vec<EntryFlaw>,
    /// Behind this byte there is nothing but the footer.
    pub(crate) data_end: u64,
    /// Room between the parts, each as start and end, in order. It holds nothing, or free slots.
    pub(crate) gaps: Vec<(u64, u64)>,
}

/// Reads frame and table.
pub(crate) fn read(storage: &dyn Storage, chosen: &Chosen) -> Result<(Frame, Table), Error> {
    let mut frame = Frame::read(storage, chosen)?;
    let table = Table::read(storage, &frame)?;
    frame.doubt_batmap(&table.entries);
    Ok((frame, table))
}

impl Table {
    /// Reads what matters of the table. Its place was judged by [`Frame::read`]: it lies within the file.
    fn read(storage: &dyn Storage, frame: &Frame) -> Result<Self, Error> {
        let blocks = usize::try_from(frame.shape.blocks()).expect("bounded by MAX_BLOCKS");
        let units = Units::new(frame);
        let last = units.of(frame.shape.blocks() - 1);
        let bytes_end = usize::try_from(units.offset(last) - units.table_at).expect("bounded") + units.len(last);
        let mut table = Self {
            entries: Vec::with_capacity(blocks),
            tail: Vec::new(),
        };
        let mut chunk = vec![0; CHUNK.min(bytes_end)];
        let mut at = 0;
        while at < bytes_end {
            let part = &mut chunk[..CHUNK.min(bytes_end - at)];
            let offset = units.table_at + at as u64;
            storage
                .read_at(part, offset)
                .map_err(Error::io("reading the BAT", offset))?;
            table.take(part, blocks);
            at += part.len();
        }
        Ok(table)
    }

    fn take(&mut self, part: &[u8], blocks: usize) {
        let used = part.len().min((blocks - self.entries.len()) * 4);
        let entry = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().expect("chunks of 4"));
        self.entries.extend(part[..used].chunks_exact(4).map(entry));
        self.tail.extend_from_slice(&part[used..]);
    }
}

/// Finds every entry that cannot be right: on metadata, past the end (`limit`), or on another block's slot.
pub(crate) fn judge(frame: &Frame, entries: &[u32], limit: u64) -> Judgement {
    let used = by_place(entries);
    let mut judgement = Judgement::default();
    let regions: Vec<Region> = frame.regions().collect();
    let regions_end = regions.iter().map(|region| region.end).max().unwrap_or(0);
    let mut furthest: Option<(u64, u64)> = None; // end and block of the slot that reaches furthest
    for (entry, block) in used.iter().map(|&key| unpack(key)) {
        let needs = needed_end(frame.shape, block, entry);
        let near = if Shape::bitmap_at(entry) < regions_end {
            &regions[..]
        } else {
            &[]
        };
        if let Some(kind) = misplaced(near, entry, needs, limit) {
            judgement.flaws.push(EntryFlaw { block, entry, kind });
            continue;
        }
        if let Some((_, other)) = furthest.filter(|&(end, _)| Shape::bitmap_at(entry) < end) {
            judgement.overlap(entries, block, other);
        }
        if furthest.is_none_or(|(end, _)| needs > end) {
            furthest = Some((needs, block));
        }
    }
    judgement.flaws.sort_by_key(|flaw| flaw.block);
    judgement.flaws.dedup();
    find_gaps(frame, &used, limit, &mut judgement);
    judgement
}

/// The entries in use in order of their place, each with its block in one word: a disk of 2040 GiB has a million.
fn by_place(entries: &[u32]) -> Vec<u64> {
    let in_use = (0u64..).zip(entries).filter(|&(_, &entry)| entry != BAT_UNUSED);
    let mut keys: Vec<u64> = in_use.map(|(block, &entry)| u64::from(entry) << 32 | block).collect();
    keys.sort_unstable();
    keys
}

fn unpack(key: u64) -> (u32, u64) {
    let entry = u32::try_from(key >> 32).expect("the upper half of a word");
    (entry, key & 0xFFFF_FFFF)
}

impl Judgement {
    fn overlap(&mut self, entries: &[u32], one: u64, two: u64) {
        for (block, other) in [(one, two), (two, one)] {
            let entry = entries[usize::try_from(block).expect("a block of the table")];
            let kind = FlawKind::Overlaps { other };
            self.flaws.push(EntryFlaw { block, entry, kind });
        }
    }
}

/// Where the last byte lies that the disk needs of a slot: the last block may be cut short behind the disk's end.
fn needed_end(shape: Shape, block: u64, entry: u32) -> u64 {
    shape.data_at(entry) + shape.sectors_in(block) * SECTOR_BYTES
}

fn misplaced(regions: &[Region], entry: u32, needs: u64, limit: u64) -> Option<FlawKind> {
    let start = Shape::bitmap_at(entry);
    if let Some(region) = regions.iter().find(|region| region.meets(start, needs)) {
        return Some(FlawKind::OnMetadata(region.name));
    }
    (needs > limit).then_some(FlawKind::PastEnd { needs, limit })
}

/// Sweeps over slots and metadata in order of place.
fn find_gaps(frame: &Frame, used: &[u64], limit: u64, judgement: &mut Judgement) {
    let mut regions: Vec<(u64, u64)> = frame.parts().filter(|part| part.1 <= limit).collect();
    regions.sort_unstable();
    let mut regions = regions.into_iter().peekable();
    let slots = used.iter().map(|&key| unpack(key).0);
    let slots = slots.map(|entry| (Shape::bitmap_at(entry), frame.shape.slot_end(entry)));
    let mut end = 0;
    for slot in slots {
        while let Some(region) = regions.next_if(|region| region.0 <= slot.0) {
            step_over(region, &mut end, frame, judgement);
        }
        // A misplaced entry past the file's end says nothing about where the data end.
        if slot.0 < limit {
            step_over(slot, &mut end, frame, judgement);
        }
    }
    for region in regions {
        step_over(region, &mut end, frame, judgement);
    }
    judgement.data_end = end;
}

fn step_over(part: (u64, u64), end: &mut u64, frame: &Frame, judgement: &mut Judgement) {
    let start = end.next_multiple_of(PAGE);
    if part.0 >= start && part.0 - start >= frame.shape.stride() {
        judgement.gaps.push((start, part.0));
    }
    *end = (*end).max(part.1);
}
