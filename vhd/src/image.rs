//! Opening: from bytes of any origin to a map, or to an error that names the field that lied.
//!
//! # Contract
//! Nothing is allocated by a size that was not held against the file's size first. Opening takes O(n log n) for n
//! allocated blocks, and one pass over the BAT.
//!
//! # Errors
//! See [`ErrorKind`]: `NeedsRepair` for an image that may be opened for reading only until
//! [`repair`](crate::repair()) has restored its footer.

use std::sync::Arc;

use iomgr_core::Storage;

use crate::alloc::{Allocator, AllocatorOptions, Ground};
use crate::error::{Error, ErrorKind};
use crate::finding::{Finding, Severity};
use crate::footers::{Chosen, Footers, State};
use crate::layout::{DiskType, FooterRepr};
use crate::map::{Map, Slot};
use crate::structure::{self, Frame};
use crate::table::{self, Judgement, Table};

/// The most warnings about BAT entries that an image carries; the last one says how many more there are.
const ENTRY_WARNINGS_MAX: usize = 16;

/// How to open an image.
#[derive(Clone, Copy, Debug, Default)]
pub struct OpenOptions {
    /// Never write: images with a lost footer or with impossible BAT entries are let in too.
    pub read_only: bool,
}

/// An open image.
#[derive(Debug)]
pub struct Image {
    footer: FooterRepr,
    state: State,
    warnings: Vec<Finding>,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Fixed,
    Dynamic(Box<Dynamic>),
}

#[derive(Debug)]
struct Dynamic {
    frame: Frame,
    map: Arc<Map>,
    ground: Option<Ground>,
}

/// What a fixed image is made of: the disk's bytes lie in the file as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedData {
    /// Where the disk begins in the file, in bytes.
    pub offset: u64,
    /// The disk's size.
    pub len_bytes: u64,
}

/// An image taken apart, for a device to be built from.
#[derive(Debug)]
pub enum Parts {
    /// Bytes as they are.
    Fixed(FixedData),
    /// A map for every queue thread, and one allocator if the image may be written.
    Dynamic {
        /// Where the sectors lie.
        map: Arc<Map>,
        /// What changes it.
        allocator: Option<Box<Allocator>>,
    },
}

impl Image {
    /// Opens the image on `storage`.
    pub fn open(storage: &dyn Storage, options: &OpenOptions) -> Result<Self, Error> {
        let footers = Footers::read(storage)?;
        let chosen = footers.choose()?;
        structure::check_footer(&chosen.footer, footers.eof_at)?;
        if chosen.state == State::FooterFromCopy && !options.read_only {
            return Err(Error::new(
                ErrorKind::NeedsRepair,
                "footer",
                Some(footers.eof_at),
                "the one at the end is lost; its copy at 0 is good: open read-only, or repair first",
            ));
        }
        match chosen.footer.disk_type {
            DiskType::Fixed => Self::open_fixed(&footers, chosen),
            _ => Self::open_dynamic(storage, &footers, chosen, options),
        }
    }

    fn open_fixed(footers: &Footers, chosen: Chosen) -> Result<Self, Error> {
        let Chosen { footer, state, .. } = chosen;
        footers.fixed_fits(&footer)?;
        let mut warnings = structure::oddities(&footer, footers.eof_at, None);
        warnings.extend(footers.fixed_oddities(&footer));
        Ok(Self {
            footer,
            state,
            warnings,
            body: Body::Fixed,
        })
    }

    fn open_dynamic(
        storage: &dyn Storage,
        footers: &Footers,
        chosen: Chosen,
        options: &OpenOptions,
    ) -> Result<Self, Error> {
        let (frame, table) = table::read(storage, &chosen)?;
        let judgement = table::judge(&frame, &table.entries, chosen.limit);
        if !options.read_only {
            refuse_writing(&chosen.footer, &frame, &judgement)?;
        }
        let warnings = warnings(footers, &chosen, &frame, &judgement);
        let state = if judgement.flaws.is_empty() {
            chosen.state
        } else {
            State::BadEntries
        };
        let Table { entries, tail } = table;
        let map = Arc::new(Map::new(frame.shape, entries.into_iter()));
        for flaw in &judgement.flaws {
            map.publish(flaw.block, Slot::Bad(flaw.entry));
        }
        let ground = (!options.read_only).then(|| Ground {
            file_len: footers.file_len,
            footer_at: footers.eof_at,
            block_device: storage.is_block_device(),
            data_end: judgement.data_end,
            gaps: judgement.gaps,
            table_tail: tail,
        });
        let body = Body::Dynamic(Box::new(Dynamic { frame, map, ground }));
        Ok(Self {
            footer: chosen.footer,
            state,
            warnings,
            body,
        })
    }

    /// The disk's size in bytes: the footer's current size, whatever its geometry says.
    pub fn size_bytes(&self) -> u64 {
        self.footer.current_size
    }

    /// The footer that decided.
    pub fn footer(&self) -> &FooterRepr {
        &self.footer
    }

    /// How the image was found.
    pub fn state(&self) -> State {
        self.state
    }

    /// What is odd about it.
    pub fn warnings(&self) -> &[Finding] {
        &self.warnings
    }

    /// A dynamic image's map.
    pub fn map(&self) -> Option<&Arc<Map>> {
        match &self.body {
            Body::Fixed => None,
            Body::Dynamic(dynamic) => Some(&dynamic.map),
        }
    }

    /// Where a fixed image's data lie.
    pub fn fixed_data(&self) -> Option<FixedData> {
        matches!(self.body, Body::Fixed).then_some(FixedData {
            offset: 0,
            len_bytes: self.footer.current_size,
        })
    }

    /// Takes the image apart. A dynamic image that was opened for writing gives an allocator made with `options`.
    pub fn into_parts(self, options: AllocatorOptions) -> Parts {
        let fixed = self.fixed_data();
        match self.body {
            Body::Fixed => Parts::Fixed(fixed.expect("the body is fixed")),
            Body::Dynamic(dynamic) => {
                let Dynamic { frame, map, ground } = *dynamic;
                let allocator = ground
                    .map(|ground| Box::new(Allocator::new(self.footer, frame, Arc::clone(&map), ground, options)));
                Parts::Dynamic { map, allocator }
            }
        }
    }
}

/// An image with impossible entries is never written: a new slot could lie on what is left of the data.
fn refuse_writing(footer: &FooterRepr, frame: &Frame, judgement: &Judgement) -> Result<(), Error> {
    if let Some(flaw) = judgement.flaws.first() {
        let at = frame.header.table_offset + flaw.block * 4;
        return Err(Error::corrupt("BAT entry", at, flaw.to_string()));
    }
    let unsupported = |detail: String| Err(Error::new(ErrorKind::Unsupported, "footer: creator", Some(28), detail));
    if frame.encrypted() {
        return unsupported("the image's data are encrypted: it cannot be written".into());
    }
    if footer.creator.is_tap_from((1, 4)) {
        return unsupported(format!(
            "{}: newer than the 1.3 that is known, not to be written",
            footer.creator
        ));
    }
    Ok(())
}

fn warnings(footers: &Footers, chosen: &Chosen, frame: &Frame, judgement: &Judgement) -> Vec<Finding> {
    let mut warnings = structure::oddities(&chosen.footer, footers.eof_at, Some(frame));
    warnings.extend(footers.lost());
    let flaws = &judgement.flaws;
    warnings.extend(flaws.iter().take(ENTRY_WARNINGS_MAX).map(|flaw| flaw.finding(frame)));
    if flaws.len() > ENTRY_WARNINGS_MAX {
        let text = format!("BAT: {} more entries are bad", flaws.len() - ENTRY_WARNINGS_MAX);
        let at = frame.header.table_offset;
        warnings.push(Finding::new(Severity::Error, "bat-more", at, text));
    }
    warnings
}
