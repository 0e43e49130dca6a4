//! Check: all that is wrong with an image, not just the first thing.
//!
//! Slots are sorted, not compared pairwise; bitmaps are read one by one, never held together.
//!
//! # Errors
//! Only what keeps the check from being made: storage that cannot be read. Bytes that are no image at all are a finding.

use iomgr_core::Storage;
use serde::Serialize;

use crate::bitmap;
use crate::error::{Error, ErrorKind};
use crate::finding::{Finding, Severity};
use crate::footers::{Chosen, Footers, State};
use crate::layout::{BAT_UNUSED, DiskType};
use crate::shape::{PAGE, Shape};
use crate::structure::{self, Batmap, Bits, Frame};
use crate::table::{self, Judgement, Table};

/// What a check says in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Nothing is wrong.
    Clean,
    /// Nothing but space that nothing refers to.
    Leaks,
    /// The image cannot be checked, as it is of a sort that this version does not know. Nothing is known to be wrong.
    Unsupported,
    /// Something is wrong.
    Corrupt,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Everything, the order of the file's parts kept.
    pub findings: Vec<Finding>,
    /// Figures, as far as the image could be followed.
    pub stats: Stats,
}

/// Figures about an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// The file's length in bytes.
    pub file_bytes: u64,
    /// The disk's size in bytes.
    pub size_bytes: u64,
    /// How many blocks the disk has; 0 for a fixed image.
    pub blocks: u64,
    /// How many of them have a slot.
    pub allocated: u64,
    /// How many of those have a bitmap without a clear bit.
    pub full: u64,
    /// How many have their data off 4096 boundaries.
    pub misaligned: u64,
    /// Bytes of whole slots between others that nothing refers to: new blocks take them first.
    pub free_bytes: u64,
    /// Bytes of whole slots behind all others that nothing refers to: what a crash left of space reserved ahead, to be cut
    /// off at the next clean close.
    pub leaked_bytes: u64,
}

impl Report {
    /// The whole in one word.
    pub fn verdict(&self) -> Verdict {
        match self.findings.iter().map(|finding| finding.severity).max() {
            Some(Severity::Error) => Verdict::Corrupt,
            Some(Severity::Unsupported) => Verdict::Unsupported,
            Some(Severity::Leak) => Verdict::Leaks,
            Some(Severity::Warning | Severity::Info) | None => Verdict::Clean,
        }
    }
}

/// Checks the image on `storage`, reading only.
pub fn check(storage: &dyn Storage) -> Result<Report, Error> {
    let mut checker = Checker {
        storage,
        report: Report::default(),
    };
    match checker.run() {
        Err(error) if error.kind() == ErrorKind::Io => return Err(error),
        Err(error) => checker.add_error(&error),
        Ok(()) => {}
    }
    Ok(checker.report)
}

struct Checker<'a> {
    storage: &'a dyn Storage,
    report: Report,
}

impl Checker<'_> {
    fn run(&mut self) -> Result<(), Error> {
        self.report.stats.file_bytes = self
            .storage
            .len_bytes()
            .map_err(Error::io("asking for the file's size", 0))?;
        let footers = Footers::read(self.storage)?;
        let chosen = footers.choose()?;
        self.report.stats.size_bytes = chosen.footer.current_size;
        structure::check_footer(&chosen.footer, footers.eof_at)?;
        if chosen.footer.disk_type == DiskType::Fixed {
            return self.fixed(&footers, &chosen);
        }
        self.report.findings.extend(footers.lost());
        self.dynamic(&footers, &chosen)
    }

    fn fixed(&mut self, footers: &Footers, chosen: &Chosen) -> Result<(), Error> {
        footers.fixed_fits(&chosen.footer)?;
        self.report
            .findings
            .extend(structure::oddities(&chosen.footer, footers.eof_at, None));
        self.report.findings.extend(footers.fixed_oddities(&chosen.footer));
        Ok(())
    }

    fn dynamic(&mut self, footers: &Footers, chosen: &Chosen) -> Result<(), Error> {
        let (frame, Table { entries, .. }) = table::read(self.storage, chosen)?;
        self.report
            .findings
            .extend(structure::oddities(&chosen.footer, footers.eof_at, Some(&frame)));
        self.report.stats.blocks = frame.shape.blocks();
        let judgement = table::judge(&frame, &entries, chosen.limit);
        self.report
            .findings
            .extend(judgement.flaws.iter().map(|flaw| flaw.finding(&frame)));
        self.slots(&frame, &entries, &judgement)?;
        self.alignment(&frame, &entries);
        self.unused(&frame, chosen, &judgement);
        Ok(())
    }

    /// Reads every bitmap that can be reached, and holds the batmap against it.
    fn slots(&mut self, frame: &Frame, entries: &[u32], judgement: &Judgement) -> Result<(), Error> {
        let mut bad: Vec<u64> = judgement.flaws.iter().map(|flaw| flaw.block).collect();
        bad.sort_unstable();
        let batmap = self.batmap(frame)?;
        let claimed = |block: u64| {
            let byte = usize::try_from(block / 8).ok().and_then(|at| batmap.get(at));
            byte.is_some_and(|byte| byte & (0x80 >> (block % 8)) != 0)
        };
        let mut lies = Vec::new();
        let mut bits = vec![0; frame.shape.bitmap_bytes()];
        for (block, &entry) in (0u64..).zip(entries) {
            let full = if entry == BAT_UNUSED || bad.binary_search(&block).is_ok() {
                false
            } else {
                self.is_full(frame, block, entry, &mut bits)?
            };
            self.report.stats.allocated += u64::from(entry != BAT_UNUSED);
            self.report.stats.full += u64::from(full);
            if claimed(block) && !full {
                lies.push(block);
            }
        }
        self.batmap_lies(frame, &lies);
        Ok(())
    }

    fn is_full(&self, frame: &Frame, block: u64, entry: u32, bits: &mut [u8]) -> Result<bool, Error> {
        let at = Shape::bitmap_at(entry);
        self.storage
            .read_at(bits, at)
            .map_err(Error::io("reading a bitmap", at))?;
        let sectors = frame.shape.sectors_in(block);
        let run = bitmap::run_at(bits, 0, sectors);
        Ok(run.set && run.count == sectors)
    }

    fn batmap(&self, frame: &Frame) -> Result<Vec<u8>, Error> {
        let Batmap::Valid {
            header,
            bits: Bits::Set,
            ..
        } = &frame.batmap
        else {
            return Ok(Vec::new());
        };
        // Its size was held against the file's when the frame was read.
        let mut map = vec![0; header.map_sectors as usize * 512];
        let at = header.map_offset;
        self.storage
            .read_at(&mut map, at)
            .map_err(Error::io("reading the batmap", at))?;
        Ok(map)
    }

    fn batmap_lies(&mut self, frame: &Frame, lies: &[u64]) {
        let (Some(first), Batmap::Valid { header_at, .. }) = (lies.first(), &frame.batmap) else {
            return;
        };
        let text = format!(
            "batmap: calls {} blocks full that are not, block {first} first",
            lies.len()
        );
        self.add(Severity::Warning, "batmap-lies", *header_at, text);
    }

    fn alignment(&mut self, frame: &Frame, entries: &[u32]) {
        let off = |entry: &&u32| **entry != BAT_UNUSED && !frame.shape.data_at(**entry).is_multiple_of(PAGE);
        let (count, first) = (entries.iter().filter(off).count() as u64, entries.iter().find(off));
        self.report.stats.misaligned = count;
        if let Some(&first) = first {
            let text = format!("{count} blocks have their data off 4096-byte boundaries: writes are slower");
            self.add(Severity::Info, "misaligned", frame.shape.data_at(first), text);
        }
    }

    /// Room for whole slots that nothing refers to. With the footer lost nobody knows where the image ends.
    fn unused(&mut self, frame: &Frame, chosen: &Chosen, judgement: &Judgement) {
        let room = |(start, end): (u64, u64)| end.saturating_sub(start) / frame.shape.stride() * frame.shape.stride();
        let free = judgement.gaps.iter().copied().map(room).sum();
        if let Some(&(first, _)) = judgement.gaps.first() {
            let text = format!("{free} bytes of free slots, which new blocks take first");
            self.add(Severity::Info, "free", first, text);
        }
        let end = judgement.data_end.next_multiple_of(PAGE);
        let leaked = match chosen.state == State::Clean && !self.storage.is_block_device() {
            true => room((end, chosen.limit)),
            false => 0,
        };
        if leaked > 0 {
            let text = format!("{leaked} bytes of slots that nothing refers to");
            self.add(Severity::Leak, "leak", end, text);
        }
        self.report.stats.free_bytes = free;
        self.report.stats.leaked_bytes = leaked;
    }

    fn add(&mut self, severity: Severity, code: &'static str, offset: u64, text: String) {
        self.report.findings.push(Finding::new(severity, code, offset, text));
    }

    /// The error that ended the check, as a finding.
    fn add_error(&mut self, error: &Error) {
        let (severity, code) = match error.kind() {
            ErrorKind::TooShort => (Severity::Error, "too-short"),
            ErrorKind::NotVhd => (Severity::Error, "not-vhd"),
            ErrorKind::Unsupported => (Severity::Unsupported, "unsupported"),
            _ => (Severity::Error, "structure"),
        };
        let (offset, text) = (error.context().offset, error.to_string());
        self.report.findings.push(Finding {
            code,
            severity,
            offset,
            text,
        });
    }
}
