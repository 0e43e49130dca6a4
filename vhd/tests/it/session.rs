//! A blocking user of an image: reads and writes through map, cache and allocator, one step after the other.

use std::sync::Arc;

use iomgr_core::{Errno, Sector, SectorCount, Storage};
use vhd::{Allocator, AllocatorOptions, BitmapCache, Extent, Fence, Image, Map, OpenOptions, Parts, StepAction};

/// A fence for users with nothing in flight: open at once.
#[derive(Debug, Default)]
pub(crate) struct OpenFence(u64);

impl Fence for OpenFence {
    fn advance(&mut self) -> u64 {
        self.0 += 1;
        self.0
    }

    fn drained(&self, _: u64) -> bool {
        true
    }
}

/// An open dynamic or fixed image on `S`.
pub(crate) struct Session<S: Storage> {
    pub(crate) storage: S,
    pub(crate) allocator: Option<Box<Allocator>>,
    pub(crate) size: u64,
    map: Option<(Arc<Map>, BitmapCache)>,
}

impl<S: Storage> Session<S> {
    pub(crate) fn open(storage: S, read_only: bool) -> Result<Self, vhd::Error> {
        Self::open_with(storage, read_only, Box::new(OpenFence::default()))
    }

    pub(crate) fn open_with(storage: S, read_only: bool, fence: Box<dyn Fence + Send>) -> Result<Self, vhd::Error> {
        let image = Image::open(&storage, &OpenOptions { read_only })?;
        let size = image.size_bytes();
        let options = AllocatorOptions { capacity: 16, fence };
        let (map, allocator) = match image.into_parts(options) {
            Parts::Fixed(_) => (None, None),
            Parts::Dynamic { map, allocator } => {
                let cache = BitmapCache::new(&map, 4096);
                (Some((map, cache)), allocator)
            }
        };
        Ok(Self {
            storage,
            allocator,
            size,
            map,
        })
    }

    pub(crate) fn map(&self) -> &Map {
        &self.map.as_ref().expect("a dynamic image").0
    }

    /// The run at `sector`, its bitmap read where that is needed.
    pub(crate) fn extent(&mut self, sector: u64, max: u64) -> Extent {
        let (sector, max) = (Sector(sector), SectorCount(max));
        let Some((map, cache)) = &mut self.map else {
            return Extent::Data {
                file_offset: sector.0 * 512,
                count: max,
            };
        };
        let extent = cache.lookup(map, sector, max);
        let Extent::NeedBitmap { bitmap, .. } = extent else {
            return extent;
        };
        let mut bytes = vec![0; bitmap.len];
        self.storage.read_at(&mut bytes, bitmap.offset).unwrap();
        cache.insert(map, bitmap, &bytes);
        cache.lookup(map, sector, max)
    }

    /// Reads; EIO where the map says that a block is bad.
    pub(crate) fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), Errno> {
        let mut done = 0;
        while done < buf.len() {
            let (sector, left) = ((offset + done as u64) / 512, (buf.len() - done) as u64 / 512);
            let extent = self.extent(sector, left);
            let len = usize::try_from(extent.count().0 * 512).unwrap();
            let part = &mut buf[done..done + len];
            match extent {
                Extent::Data { file_offset, .. } => {
                    self.storage.read_at(part, file_offset).map_err(|_| Errno::IO)?;
                }
                Extent::Bad { .. } => return Err(Errno::IO),
                _ => part.fill(0),
            }
            done += len;
        }
        Ok(())
    }

    /// Writes, blocks being made full first.
    pub(crate) fn write(&mut self, offset: u64, buf: &[u8]) -> Result<(), Errno> {
        let mut done = 0;
        while done < buf.len() {
            let (sector, left) = ((offset + done as u64) / 512, (buf.len() - done) as u64 / 512);
            let extent = match &self.map {
                Some((map, _)) => map.lookup(Sector(sector), SectorCount(left)),
                None => self.extent(sector, left),
            };
            match extent {
                Extent::Data { file_offset, count } => {
                    let len = usize::try_from(count.0 * 512).unwrap();
                    self.storage
                        .write_at(&buf[done..done + len], file_offset)
                        .map_err(|_| Errno::NOSPC)?;
                    done += len;
                }
                _ => {
                    let (block, _) = self.map().shape().split_sector(sector);
                    self.ask(|allocator| allocator.want(block, 1))?;
                }
            }
        }
        Ok(())
    }

    /// Frees a block.
    pub(crate) fn release(&mut self, block: u64) -> Result<(), Errno> {
        self.ask(|allocator| allocator.release(block, 1))
    }

    /// The guest's flush.
    pub(crate) fn flush(&mut self) {
        let ticket = self.allocator.as_mut().unwrap().flush_started();
        self.storage.sync().unwrap();
        self.allocator.as_mut().unwrap().flush_done(ticket, Ok(()));
    }

    fn ask(&mut self, request: impl Fn(&mut Allocator) -> Result<(), vhd::Full>) -> Result<(), Errno> {
        request(self.allocator.as_mut().expect("opened for writing")).unwrap();
        loop {
            if let Some(event) = self.allocator.as_mut().unwrap().poll_event() {
                return event.result;
            }
            assert!(self.step(), "the allocator has neither step nor event");
        }
    }

    /// Does one step of the allocator's, if it has one.
    pub(crate) fn step(&mut self) -> bool {
        let Some(allocator) = &mut self.allocator else {
            return false; // a fixed image, or one only read
        };
        let Some(step) = allocator.poll_step() else {
            return false;
        };
        let result = match step.action {
            StepAction::Write { offset, len } => {
                let mut bytes = vec![0; len];
                allocator.fill(step.id, &mut bytes);
                self.storage.write_at(&bytes, offset)
            }
            StepAction::Read { offset, len } => {
                let mut bytes = vec![0; len];
                let result = self.storage.read_at(&mut bytes, offset);
                allocator.read_done(step.id, &bytes);
                result
            }
            StepAction::Zero { offset, len, .. } => self.storage.zero_range(offset, len),
            StepAction::Flush => self.storage.sync(),
        };
        allocator.step_done(step.id, result.map_err(|_| Errno::NOSPC));
        true
    }

    /// Runs all the allocator still has to do, then closes the image cleanly.
    pub(crate) fn close(mut self) -> S {
        while self.step() {}
        if let Some(allocator) = self.allocator.take() {
            allocator.close(&self.storage).unwrap();
        }
        self.storage
    }
}
