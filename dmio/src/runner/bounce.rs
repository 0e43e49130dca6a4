//! Bounce memory: the cells, and what is copied to and from them.

use iomgr_core::{Data, Lease, OpQueue, SectorCount};

use super::payload::Payload;
use crate::{CellId, Error, ErrorKind};

/// Leases the cells, or none.
pub(super) fn lease_cells(
    count: u32,
    max_size: SectorCount,
    io: &mut dyn OpQueue,
    mut lease: impl FnMut(&mut dyn OpQueue, u32) -> Option<Lease>,
) -> Result<Box<[Lease]>, Error> {
    let bytes = max_size.bytes().and_then(|bytes| u32::try_from(bytes).ok());
    let bytes = bytes.filter(|&bytes| bytes > 0).ok_or_else(|| {
        let what = format!(
            "max_size: {} sectors is no length of bounce memory; give 1 sector to 4 GiB",
            max_size.0
        );
        Error::new(ErrorKind::Config, what)
    })?;
    let cells: Vec<Lease> = (0..count).map_while(|_| lease(io, bytes)).collect();
    if cells.len() < count as usize {
        cells.into_iter().for_each(|lease| io.free(lease));
        let what =
            format!("the queue has no room for {count} cells of {bytes} bytes: fewer devices, min_ios or max_size");
        return Err(Error::new(ErrorKind::Memory, what));
    }
    Ok(cells.into())
}

/// The cells of a machine.
#[derive(Debug)]
pub(super) struct Cells(pub(super) Box<[Lease]>);

impl Cells {
    /// The first `len` bytes of a cell.
    pub(super) fn data(&self, CellId(cell): CellId, len: u32) -> Data {
        self.0[cell as usize].data().slice(0, len)
    }

    /// Leases as many more as that, or none.
    pub(super) fn grow(&mut self, count: u32, io: &mut dyn OpQueue) -> Result<(), Error> {
        let bytes = self.0.first().map_or(0, |cell| cell.data().len);
        let more: Vec<Lease> = (0..count).map_while(|_| io.alloc(bytes)).collect();
        if more.len() < count as usize {
            more.into_iter().for_each(|lease| io.free(lease));
            let what = format!(
                "the old device keeps bounce memory, and the queue has no room for {count} cells of {bytes} bytes instead: \
                 give memory of the pool back, or wait until that device answers"
            );
            return Err(Error::new(ErrorKind::Memory, what));
        }
        let mut cells = std::mem::take(&mut self.0).into_vec();
        cells.extend(more);
        self.0 = cells.into();
        Ok(())
    }

    /// Puts what is to be written into a cell. False: an op is still at it.
    pub(super) fn fill(io: &mut dyn OpQueue, cell: Data, from: &Payload<'_>) -> bool {
        let Payload::Bounce(buffers) = from else { return false };
        let Some(bytes) = io.bytes_mut(cell) else { return false };
        buffers.copy_to(bytes);
        true
    }

    /// Gives what was read to its request.
    pub(super) fn drain(io: &dyn OpQueue, cell: Data, into: &mut Payload<'_>) {
        if let (Payload::Bounce(buffers), Some(bytes)) = (into, io.bytes(cell)) {
            buffers.copy_from(bytes);
        }
    }

    pub(super) fn close(self, io: &mut dyn OpQueue) {
        self.0.into_iter().for_each(|lease| io.free(lease));
    }
}
