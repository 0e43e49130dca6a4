//! Comparing two disks, with many requests in flight, and nothing read where both are known to be zeros.
//!
//! # Contract
//! The difference that is reported is the first one on the disk, to the byte. A disk that is shorter counts as followed by
//! zeros, unless it is asked to be strict.

use std::path::Path;

use iomgr_core::{Data, Device, Done, Lease, Operation, SECTOR_BYTES, Sector, SectorCount, SectorRange, Tag};
use serde::Serialize;

use crate::disk::{Disk, DiskOptions};
use crate::error::Error;
use crate::extents::{Extent, Extents};
use crate::format::Format;
use crate::pair::{CHUNK_BYTES, Fault, LANES, Pair, Side};
use crate::progress::{Phase, Progress, interrupted};
use crate::zeros::is_zero;

/// How to compare.
#[derive(Clone, Copy, Debug, Default)]
pub struct CompareOptions {
    /// The formats, where the extensions do not tell them.
    pub formats: [Option<Format>; 2],
    /// Disks of different sizes differ, even if the rest is zeros.
    pub strict: bool,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// Bytes of the disks.
    pub size_bytes: [u64; 2],
    /// Where they differ first; `None` where they do not.
    pub difference: Option<Difference>,
    /// Bytes that were read to know, of both together.
    pub read_bytes: u64,
}

/// Where two disks differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "what")]
pub enum Difference {
    /// In their sizes, and that is not to be.
    Size,
    /// In a byte.
    Content {
        /// The first byte that differs.
        offset: u64,
        /// Its sector.
        sector: u64,
    },
}

/// Compares the disks in the images at `paths`, under shared locks.
pub fn compare(
    paths: [&Path; 2],
    options: &CompareOptions,
    progress: &mut dyn FnMut(Progress) -> bool,
) -> Result<Comparison, Error> {
    let open = |which: usize| {
        let options = DiskOptions {
            format: options.formats[which],
            read_only: true,
            ..DiskOptions::default()
        };
        Disk::open(paths[which], &options)
    };
    let disks = [open(0)?, open(1)?];
    let size_bytes = size_bytes(&disks);
    if options.strict && size_bytes[0] != size_bytes[1] {
        return Ok(Comparison {
            size_bytes,
            difference: Some(Difference::Size),
            read_bytes: 0,
        });
    }
    compare_disks(&disks, Phase::Compare, progress)
}

/// Compares two disks that nobody writes.
pub(crate) fn compare_disks(
    disks: &[Disk; 2],
    phase: Phase,
    progress: &mut dyn FnMut(Progress) -> bool,
) -> Result<Comparison, Error> {
    Comparing::new(disks, phase)?.run(progress)
}

fn size_bytes(disks: &[Disk; 2]) -> [u64; 2] {
    [0, 1].map(|which| disks[which].limits().size.0 * SECTOR_BYTES)
}

/// The machine: lanes that read a chunk of both disks, or of the one that is not known to be zeros there.
#[derive(Debug)]
struct Comparing<'a> {
    disks: &'a [Disk; 2],
    phase: Phase,
    pair: Pair,
    walks: [Walk; 2],
    lanes: Box<[Lane]>,
    /// Everything before is done or on a lane.
    at: u64,
    end: u64,
    /// The first byte that differs, as far as is known.
    found: Option<u64>,
    fault: Option<Error>,
    read_bytes: u64,
}

/// One chunk on its way.
#[derive(Debug)]
struct Lane {
    leases: [Lease; 2],
    range: SectorRange,
    /// Is this side read, as it is not known to be zeros?
    reads: [bool; 2],
    outstanding: u32,
}

/// Where a disk is known to be zeros.
#[derive(Debug)]
struct Walk {
    extents: Extents,
    current: Option<Extent>,
}

impl Walk {
    /// Are the sectors from `at` zeros, and up to where is that so? Behind the end all is zeros.
    fn look(&mut self, at: u64) -> Result<(bool, u64), Error> {
        while self.current.is_none_or(|extent| extent.range.end().0 <= at) {
            match self.extents.next() {
                Some(extent) => self.current = Some(extent.map_err(Fault::metadata)?.readable()?),
                None => return Ok((true, u64::MAX)),
            }
        }
        let extent = self.current.expect("the loop ends with one");
        Ok((extent.kind.is_zero(), extent.range.end().0))
    }
}

impl<'a> Comparing<'a> {
    fn new(disks: &'a [Disk; 2], phase: Phase) -> Result<Self, Error> {
        let mut pair = Pair::open([&disks[0], &disks[1]], LANES)?;
        let mut lane = || -> Result<Lane, Error> {
            Ok(Lane {
                leases: [pair.lease()?, pair.lease()?],
                range: SectorRange::default(),
                reads: [false; 2],
                outstanding: 0,
            })
        };
        let lanes = (0..LANES).map(|_| lane()).collect::<Result<_, _>>()?;
        let walk = |disk: &Disk| Walk {
            extents: disk.extents(Sector(0)),
            current: None,
        };
        Ok(Self {
            phase,
            pair,
            walks: [walk(&disks[0]), walk(&disks[1])],
            lanes,
            at: 0,
            end: disks[0].limits().size.0.max(disks[1].limits().size.0),
            found: None,
            fault: None,
            read_bytes: 0,
            disks,
        })
    }

    fn run(mut self, progress: &mut dyn FnMut(Progress) -> bool) -> Result<Comparison, Error> {
        loop {
            self.fill_lanes();
            if !progress(self.progress()) {
                self.fault.get_or_insert_with(interrupted);
            }
            if self.lanes.iter().all(|lane| lane.outstanding == 0) {
                break;
            }
            self.pair.wait().map_err(Fault::queue)?;
            while let Some((side, done)) = self.pair.next_done() {
                self.read_done(side, done);
            }
        }
        match self.fault {
            Some(fault) => Err(fault),
            None => Ok(self.comparison()),
        }
    }

    fn comparison(&self) -> Comparison {
        let difference = |offset| Difference::Content {
            offset,
            sector: offset / SECTOR_BYTES,
        };
        Comparison {
            size_bytes: size_bytes(self.disks),
            difference: self.found.map(difference),
            read_bytes: self.read_bytes,
        }
    }

    /// All before the first chunk that is under way is done.
    fn progress(&self) -> Progress {
        let busy = self.lanes.iter().filter(|lane| lane.outstanding > 0);
        let first = busy.map(|lane| lane.range.start().0).min();
        Progress {
            phase: self.phase,
            done_bytes: first.unwrap_or(self.at) * SECTOR_BYTES,
            size_bytes: self.end * SECTOR_BYTES,
        }
    }

    /// Chunks are begun in order. So when one differs, all that could differ before it are on their way.
    fn fill_lanes(&mut self) {
        for index in 0..self.lanes.len() {
            if self.lanes[index].outstanding > 0 {
                continue;
            }
            if self.found.is_some() || self.fault.is_some() {
                return;
            }
            match self.next_chunk() {
                Ok(Some((range, reads))) => self.begin(index, range, reads),
                Ok(None) => return,
                Err(error) => self.fault = Some(error),
            }
        }
    }

    /// The next sectors that are not zeros on both sides, and which sides are to be read.
    fn next_chunk(&mut self) -> Result<Option<(SectorRange, [bool; 2])>, Error> {
        while self.at < self.end {
            let mut look = |side: Side| {
                let walk = &mut self.walks[side as usize];
                let looked = walk.look(self.at);
                looked.map_err(|error| error.at(&self.disks[side as usize].info().path))
            };
            let [(zero_a, end_a), (zero_b, end_b)] = [look(Side::First)?, look(Side::Second)?];
            let start = self.at;
            let end = end_a.min(end_b).min(self.end);
            if zero_a && zero_b {
                self.at = end;
                continue;
            }
            self.at = end.min(start + u64::from(CHUNK_BYTES) / SECTOR_BYTES);
            let range = SectorRange::new(Sector(start), SectorCount(self.at - start));
            return Ok(Some((range.expect("it lies on a disk"), [!zero_a, !zero_b])));
        }
        Ok(None)
    }

    fn begin(&mut self, index: usize, range: SectorRange, reads: [bool; 2]) {
        let lane = &mut self.lanes[index];
        (lane.range, lane.reads) = (range, reads);
        let tag = Tag(u32::try_from(index).expect("lanes are few"));
        for side in [Side::First, Side::Second] {
            if reads[side as usize] {
                lane.outstanding += 1;
                self.read_bytes += range.len_bytes();
                let data = lane.data(side);
                self.pair.submit(side, tag, Operation::Read, range, data);
            }
        }
    }

    fn read_done(&mut self, side: Side, done: Done) {
        let index = done.tag.0 as usize;
        let lane = &mut self.lanes[index];
        lane.outstanding -= 1;
        if let Err(errno) = done.result {
            let path = &self.disks[side as usize].info().path;
            self.fault
                .get_or_insert_with(|| Fault::read(errno, lane.range).at(path));
        }
        if lane.outstanding == 0 && self.fault.is_none() {
            let at = self.first_difference(index);
            self.found = self.found.into_iter().chain(at).min();
        }
    }

    /// Where the bytes of a lane differ first, as a byte of the disk.
    fn first_difference(&self, index: usize) -> Option<u64> {
        let lane = &self.lanes[index];
        let bytes = |side: Side| lane.reads[side as usize].then(|| self.pair.bytes(lane.data(side)));
        let at = match (bytes(Side::First), bytes(Side::Second)) {
            (Some(a), Some(b)) if a == b => None,
            (Some(a), Some(b)) => a.iter().zip(b).position(|(a, b)| a != b),
            (Some(only), None) | (None, Some(only)) if is_zero(only) => None,
            (Some(only), None) | (None, Some(only)) => only.iter().position(|&byte| byte != 0),
            (None, None) => None,
        };
        at.map(|at| lane.range.offset_bytes() + at as u64)
    }
}

impl Lane {
    fn data(&self, side: Side) -> Data {
        let len = u32::try_from(self.range.len_bytes()).expect("a chunk's length");
        self.leases[side as usize].data().slice(0, len)
    }
}
