//! The clean close: gives unused slots back and brings the batmap up to date. Blocking; at the end of an image's use.
//!
//! ```text
//!  sync (what was freed is freed for good) ──► batmap, footer at the lower end ──► sync ──► cut the file ──► sync
//! ```
//! At every point between, the footer at the file's end is whole. Only what no BAT entry reaches is cut off.

use iomgr_core::Storage;

use super::Allocator;
use crate::error::{Error, ErrorKind};
use crate::layout::{BatmapRepr, FOOTER_BYTES, batmap_checksum};
use crate::map::Slot;
use crate::shape::{PAGE, PAGE_BYTES};

impl Allocator {
    /// Closes the image cleanly. A session that changed nothing writes nothing.
    ///
    /// # Errors
    /// `Invalid` while steps are under way; `Io` after a failed flush, with nothing written, or when the storage fails.
    /// Whatever fails, the image holds all that was acknowledged.
    pub fn close(mut self, storage: &dyn Storage) -> Result<(), Error> {
        if self.in_flight() > 0 {
            return Err(Error::invalid("closing", "steps are under way"));
        }
        if self.broken {
            return Err(Error::new(
                ErrorKind::Io,
                "closing",
                None,
                "a flush has failed: nothing more is written",
            ));
        }
        if !self.changed {
            return Ok(());
        }
        self.rewrite_suspects(storage)?;
        storage.sync().map_err(Error::io("flushing before the close", 0))?;
        self.write_batmap(storage)?;
        let cut = self.write_footer(storage)?;
        storage.sync().map_err(Error::io("flushing the footer", 0))?;
        let Some(len) = cut else { return Ok(()) };
        storage
            .set_len(len)
            .map_err(Error::io("giving unused space back", len))?;
        storage.sync().map_err(Error::io("flushing the file's size", len))
    }

    /// BAT units whose last write failed are written once more: the disk must not refer to what is given back.
    fn rewrite_suspects(&mut self, storage: &dyn Storage) -> Result<(), Error> {
        let mut bytes = [0; PAGE_BYTES];
        for &unit in &self.suspects {
            let bytes = &mut bytes[..self.units.len(unit)];
            self.published_unit(unit, bytes);
            let at = self.units.offset(unit);
            storage.write_at(bytes, at).map_err(Error::io("writing the BAT", at))?;
        }
        Ok(())
    }

    fn write_batmap(&self, storage: &dyn Storage) -> Result<(), Error> {
        let Some((header_at, header)) = self.batmap() else {
            return Ok(());
        };
        let mut map = vec![0; header.map_sectors as usize * 512];
        for block in 0..self.frame.shape.blocks().min(map.len() as u64 * 8) {
            if matches!(self.map.slot(block), Slot::Full(_) | Slot::Held { full: true, .. }) {
                map[usize::try_from(block / 8).expect("within the map")] |= 0x80 >> (block % 8);
            }
        }
        let checksum = batmap_checksum(header.version, &map, self.footer.current_size);
        let header = BatmapRepr {
            checksum,
            ..header.clone()
        };
        storage
            .write_at(&map, header.map_offset)
            .map_err(Error::io("writing the batmap", header.map_offset))?;
        storage
            .write_at(&header.emit(), header_at)
            .map_err(Error::io("writing the batmap header", header_at))
    }

    /// Puts the footer right behind the data, and says where to cut; or makes sure of the one at the end.
    fn write_footer(&self, storage: &dyn Storage) -> Result<Option<u64>, Error> {
        if self.block_device {
            return Ok(None); // it never moved
        }
        let len = storage
            .len_bytes()
            .map_err(Error::io("asking for the file's size", 0))?;
        let wanted = self.data_end().next_multiple_of(PAGE) + PAGE;
        if wanted < len && !self.suspects_lost {
            self.write_footer_page(storage, wanted)?;
            return Ok(Some(wanted));
        }
        let mut last = [0; FOOTER_BYTES];
        let at = len.saturating_sub(FOOTER_BYTES as u64);
        storage
            .read_at(&mut last, at)
            .map_err(Error::io("reading the footer", at))?;
        let whole = last == self.footer.emit() || last[1..] == self.footer.emit()[..FOOTER_BYTES - 1];
        if !whole {
            self.write_footer_page(storage, wanted.max(len.next_multiple_of(PAGE) + PAGE))?;
        }
        Ok(None)
    }

    fn write_footer_page(&self, storage: &dyn Storage, end: u64) -> Result<(), Error> {
        let mut page = [0; PAGE_BYTES];
        self.fill_footer_page(&mut page);
        storage
            .write_at(&page, end - PAGE)
            .map_err(Error::io("writing the footer", end - PAGE))
    }

    /// Where the last part that anything refers to ends.
    fn data_end(&self) -> u64 {
        let shape = self.frame.shape;
        let slots = (0..shape.blocks())
            .map(|block| self.map.slot(block))
            .filter(|slot| *slot != Slot::Unallocated);
        let parts = self
            .frame
            .parts()
            .map(|part| part.1)
            .filter(|&end| end <= self.opened_len);
        slots
            .map(|slot| shape.slot_end(slot.entry()))
            .chain(parts)
            .max()
            .unwrap_or(0)
    }
}
