//! Repair of footers: the one at the end from its copy at 0, or the copy from the one at the end.
//!
//! Nothing else is ever changed; nothing is cut off. Space behind the data that a crash has left becomes slots again when
//! the image is written, and goes at its next clean close.
//!
//! # Errors
//! `Corrupt` where it is not certain what is right: both footers lost, or valid and in disagreement, or BAT entries that
//! reach where the footer would go.

use iomgr_core::{SECTOR_BYTES, Storage};
use serde::Serialize;

use crate::error::Error;
use crate::footers::{Chosen, Footers};
use crate::layout::{DiskType, FOOTER_BYTES, FooterRepr};
use crate::shape::{PAGE, PAGE_BYTES};
use crate::structure;
use crate::table;

/// Something that a repair changed, or would change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Action {
    /// What it is, for programs: `footer-from-copy`, `copy-from-footer`.
    pub code: &'static str,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// How many bytes.
    pub len: u64,
    /// What it is, for people.
    pub text: String,
}

/// Repairs the footers of the image on `storage`; with `dry_run` it only says how. No action: nothing to repair.
pub fn repair(storage: &dyn Storage, dry_run: bool) -> Result<Vec<Action>, Error> {
    let footers = Footers::read(storage)?;
    let chosen = footers.choose()?;
    structure::check_footer(&chosen.footer, footers.eof_at)?;
    if chosen.footer.disk_type == DiskType::Fixed {
        return Ok(Vec::new());
    }
    let Some(repair) = plan(storage, &footers, &chosen)? else {
        return Ok(Vec::new());
    };
    if !dry_run {
        repair.run(storage)?;
    }
    Ok(vec![repair.action])
}

/// A write that repairs, ready to be done.
struct Repair {
    action: Action,
    bytes: Vec<u8>,
}

impl Repair {
    fn new(code: &'static str, offset: u64, bytes: Vec<u8>, text: &str) -> Self {
        let (len, text) = (bytes.len() as u64, text.to_owned());
        Self {
            action: Action {
                code,
                offset,
                len,
                text,
            },
            bytes,
        }
    }

    fn run(&self, storage: &dyn Storage) -> Result<(), Error> {
        let at = self.action.offset;
        storage
            .write_at(&self.bytes, at)
            .map_err(Error::io("writing a footer", at))?;
        storage.sync().map_err(Error::io("flushing a footer", at))
    }
}

fn plan(storage: &dyn Storage, footers: &Footers, chosen: &Chosen) -> Result<Option<Repair>, Error> {
    // Whichever footer is left, what it leads to must be right before it is copied.
    let (frame, table) = table::read(storage, chosen)?;
    let judgement = table::judge(&frame, &table.entries, chosen.limit);
    if let Some(flaw) = judgement.flaws.first() {
        let at = frame.header.table_offset + flaw.block * 4;
        return Err(Error::corrupt("BAT entry", at, flaw.to_string()));
    }
    let bytes = chosen.footer.emit();
    if footers.eof.is_err() {
        return footer_from_copy(storage, footers, &chosen.footer, judgement.data_end).map(Some);
    }
    let text = "the footer's copy at 0 was written anew from the footer";
    Ok(footers
        .valid_copy()
        .is_none()
        .then(|| Repair::new("copy-from-footer", 0, bytes.to_vec(), text)))
}

/// In the file's last sector, where that is behind all data; else on a new page behind everything.
fn footer_from_copy(
    storage: &dyn Storage,
    footers: &Footers,
    footer: &FooterRepr,
    data_end: u64,
) -> Result<Repair, Error> {
    let (code, text) = (
        "footer-from-copy",
        "the footer at the end was written anew from its copy at 0",
    );
    let sectors = footers.file_len / SECTOR_BYTES * SECTOR_BYTES;
    let last = sectors.saturating_sub(FOOTER_BYTES as u64);
    let device = storage.is_block_device();
    if last >= data_end && (device || sectors == footers.file_len) {
        return Ok(Repair::new(code, last, footer.emit().to_vec(), text));
    }
    if device {
        let detail = format!("the data reach to byte {data_end}: no room for it in the device's last sector");
        return Err(Error::corrupt("footer", last, detail));
    }
    let mut page = vec![0; PAGE_BYTES];
    page[PAGE_BYTES - FOOTER_BYTES..].copy_from_slice(&footer.emit());
    let start = data_end.max(footers.file_len).next_multiple_of(PAGE);
    Ok(Repair::new(code, start, page, text))
}
