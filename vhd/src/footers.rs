//! Which footer to trust.
//!
//! The footer at the end and its copy at 0 must agree. With the copy alone an image is readable, no more: a guest can
//! have written what looks like a footer, or hides that there was one, into a disk's last sectors, but never what lies
//! at 0 of a dynamic image. A valid footer that says *fixed* decides by itself: byte 0 is guest data then.

use iomgr_core::{SECTOR_BYTES, Storage};
use serde::Serialize;

use crate::error::{Error, ErrorKind};
use crate::finding::{Finding, Severity};
use crate::layout::{Cookie, DiskType, FOOTER_BYTES, Flaw, FooterRepr};

/// How the image was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// The footer at the end is valid.
    Clean,
    /// It is lost, its copy at 0 is valid: readable; to be repaired before it is written.
    FooterFromCopy,
    /// BAT entries are impossible: readable, but for their blocks; never to be written.
    BadEntries,
}

/// What lies in the two places.
#[derive(Debug)]
pub(crate) struct Footers {
    pub(crate) file_len: u64,
    /// At the end, and where.
    pub(crate) eof: Result<FooterRepr, Flaw>,
    pub(crate) eof_at: u64,
    /// At 0.
    pub(crate) copy: Result<FooterRepr, Flaw>,
}

/// The footer that decides.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) footer: FooterRepr,
    pub(crate) state: State,
    /// Everything of the image lies before this byte: the footer at the end, or the file's end where that is lost.
    pub(crate) limit: u64,
}

impl Footers {
    pub(crate) fn read(storage: &dyn Storage) -> Result<Self, Error> {
        let file_len = storage
            .len_bytes()
            .map_err(Error::io("asking for the file's size", 0))?;
        if file_len < FOOTER_BYTES as u64 - 1 {
            let detail = format!("{file_len} bytes, a footer alone has 512");
            return Err(Error::new(ErrorKind::TooShort, "file size", None, detail));
        }
        let (eof, eof_at) = read_eof(storage, file_len)?;
        let copy = read_footer(
            storage,
            0,
            FOOTER_BYTES.min(usize::try_from(file_len).unwrap_or(FOOTER_BYTES)),
        )?;
        Ok(Self {
            file_len,
            eof,
            eof_at,
            copy,
        })
    }

    /// The copy at 0, if it is what a dynamic image has there.
    pub(crate) fn valid_copy(&self) -> Option<&FooterRepr> {
        self.copy.as_ref().ok().filter(|copy| copy.disk_type != DiskType::Fixed)
    }

    /// Decides.
    pub(crate) fn choose(&self) -> Result<Chosen, Error> {
        let chosen = match (&self.eof, self.valid_copy()) {
            (Ok(eof), _) if eof.disk_type == DiskType::Fixed => self.trust_eof(eof),
            (Ok(eof), Some(copy)) => {
                self.agree(eof, copy)?;
                self.trust_eof(eof)
            }
            (Ok(eof), None) => self.trust_eof(eof),
            (Err(_), Some(copy)) => Chosen {
                footer: copy.clone(),
                state: State::FooterFromCopy,
                limit: self.file_len,
            },
            (Err(flaw), None) => return Err(self.none(*flaw)),
        };
        refuse_poison(&chosen.footer)?;
        Ok(chosen)
    }

    /// The footer of a dynamic image that is lost while the other one is there.
    pub(crate) fn lost(&self) -> Option<Finding> {
        match (&self.eof, &self.copy) {
            (Err(flaw), _) => {
                let text = format!("footer: lost at the end of the file ({flaw}), taken from its copy at 0");
                Some(Finding::new(Severity::Error, "footer-lost", self.eof_at, text))
            }
            (Ok(_), _) if self.valid_copy().is_some() => None,
            (Ok(_), copy) => {
                let why = copy.as_ref().err().map_or("it says fixed".into(), Flaw::to_string);
                Some(Finding::new(
                    Severity::Error,
                    "footer-copy-lost",
                    0,
                    format!("footer copy: lost ({why})"),
                ))
            }
        }
    }

    /// Does a fixed image's disk lie before its footer?
    pub(crate) fn fixed_fits(&self, footer: &FooterRepr) -> Result<(), Error> {
        if footer.current_size <= self.eof_at {
            return Ok(());
        }
        let detail = format!(
            "{} bytes, the file has {} before its footer",
            footer.current_size, self.eof_at
        );
        Err(Error::corrupt("footer: current size", self.eof_at + 48, detail))
    }

    /// What is odd around a fixed image's data.
    pub(crate) fn fixed_oddities(&self, footer: &FooterRepr) -> Vec<Finding> {
        let mut odd = Vec::new();
        if footer.current_size < self.eof_at {
            let text = format!(
                "file: {} bytes before the footer, the disk has {}",
                self.eof_at, footer.current_size
            );
            odd.push(Finding::new(
                Severity::Warning,
                "fixed-longer",
                footer.current_size,
                text,
            ));
        }
        if self.valid_copy().is_some() {
            let text = "sector 0 holds a dynamic image's footer; the image is fixed, so that is the disk's data";
            odd.push(Finding::new(Severity::Info, "fixed-nested", 0, text));
        }
        odd
    }

    fn trust_eof(&self, eof: &FooterRepr) -> Chosen {
        Chosen {
            footer: eof.clone(),
            state: State::Clean,
            limit: self.eof_at,
        }
    }

    fn agree(&self, eof: &FooterRepr, copy: &FooterRepr) -> Result<(), Error> {
        let Some(field) = eof.disagreement(copy) else {
            return Ok(());
        };
        let detail = format!("its {field} differs from the copy's at 0: one of them is forged or left over");
        Err(Error::corrupt("footer", self.eof_at, detail))
    }

    fn none(&self, flaw: Flaw) -> Error {
        let kind = if flaw == Flaw::Cookie && self.copy == Err(Flaw::Cookie) {
            ErrorKind::NotVhd
        } else {
            ErrorKind::Corrupt
        };
        let at_zero = match &self.copy {
            Ok(copy) => format!("the one at 0 is of type {}", copy.disk_type),
            Err(flaw) => format!("at 0: {flaw}"),
        };
        Error::new(kind, "footer", Some(self.eof_at), format!("{flaw}; {at_zero}"))
    }
}

fn refuse_poison(footer: &FooterRepr) -> Result<(), Error> {
    if footer.cookie == Cookie::Conectix {
        return Ok(());
    }
    let detail = "v_poison marks an interrupted resize: revert its journal (vhd-util revert)";
    Err(Error::new(ErrorKind::Unsupported, "footer: cookie", None, detail))
}

/// The last 512 bytes, or the last 511 if only those are a footer.
fn read_eof(storage: &dyn Storage, file_len: u64) -> Result<(Result<FooterRepr, Flaw>, u64), Error> {
    // A device's footer lies in its last whole sector.
    let end = if storage.is_block_device() {
        file_len / SECTOR_BYTES * SECTOR_BYTES
    } else {
        file_len
    };
    let at = end.saturating_sub(FOOTER_BYTES as u64);
    let footer = read_footer(storage, at, usize::try_from(end - at).expect("at most 512"))?;
    if footer.is_ok() || storage.is_block_device() {
        return Ok((footer, at));
    }
    let short_at = end - (FOOTER_BYTES as u64 - 1);
    match read_footer(storage, short_at, FOOTER_BYTES - 1)? {
        Ok(short) => Ok((Ok(short), short_at)),
        Err(_) => Ok((footer, at)),
    }
}

fn read_footer(storage: &dyn Storage, at: u64, len: usize) -> Result<Result<FooterRepr, Flaw>, Error> {
    let mut bytes = [0; FOOTER_BYTES];
    storage
        .read_at(&mut bytes[..len], at)
        .map_err(Error::io("reading a footer", at))?;
    Ok(FooterRepr::parse(&bytes[..len]))
}
