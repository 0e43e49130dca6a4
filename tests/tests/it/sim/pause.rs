//! Pauses in a life: what was acknowledged before is durable, and in every copy; what comes meanwhile waits.

use std::io;

use iomgr_core::{Errno, Sector, Storage};
use tqueue::EngineKind;
use tqueue::sim::SimDisk;
use vbd::{BlockingDisk, Disk};

use super::SECTOR_LEN;
use super::life::{Life, PASSES_MAX, stamp_of};

impl Life<'_> {
    /// Pauses the disk and resumes it, on its image or a copy; unless the power fails or flushes do.
    pub(super) fn pause(&mut self) {
        let (disk, mut passes) = (self.disk.clone(), 0);
        let paused = disk.pause_simulated(|| {
            passes += 1;
            assert!(passes < PASSES_MAX, "the queues never leave");
            self.ask_and_pass();
            !self.sim.is_off()
        });
        if let Err(error) = paused {
            assert!(self.sim.is_off() || self.excused.contains(&Errno::IO), "{error}");
            return;
        }
        // As good as a flush.
        let mark = self.model.flush_begin();
        self.model.flush_done(mark);
        let ended = self.ended;
        (0..self.rng.u32(..4)).for_each(|_| self.ask_and_pass());
        assert_eq!(self.ended, ended, "the disk is paused");
        let next = match self.rng.u8(..4) {
            0 => self.next_image(),
            _ => Ok(self.storage.clone()),
        };
        let resumed = next.and_then(|next| {
            disk.resume_simulated(next.clone()).map_err(io::Error::other)?;
            Ok(next)
        });
        match resumed {
            Ok(next) => self.storage = next,
            // Until the disk goes on with a copy, the image is where it was: the power may take the copy.
            Err(error) => assert!(self.sim.is_off(), "a healthy disk resumes: {error}"),
        }
    }

    /// A copy that is good, or the image after all.
    fn next_image(&mut self) -> io::Result<SimDisk> {
        let copy = copy(&self.storage)?;
        self.check(&copy)?;
        Ok(if self.rng.bool() { copy } else { self.storage.clone() })
    }

    /// The copy is that of a closed image, and holds what was acknowledged.
    fn check(&self, copy: &SimDisk) -> io::Result<()> {
        let image = vhd::Image::open(copy, &vhd::OpenOptions { read_only: true }).map_err(io::Error::other)?;
        assert_eq!(image.state(), vhd::State::Clean);
        let disk = Disk::simulated(copy.clone(), true).map_err(io::Error::other)?;
        let engine = EngineKind::Sim(self.sim.clone());
        let mut reader = BlockingDisk::open(&disk, engine).map_err(io::Error::other)?;
        let mut sector = [0; SECTOR_LEN];
        for at in 0..self.model.len() {
            reader.read(&mut sector, Sector(at as u64))?;
            let stamp = stamp_of(&sector).unwrap_or_else(|| panic!("sector {at} of the copy is torn"));
            let allowed = self.model.outliving(at);
            assert!(
                allowed.contains(&stamp),
                "sector {at} of the copy holds {stamp}, not one of {allowed:?}"
            );
        }
        Ok(())
    }
}

/// The same bytes on the same kind of storage. A power cut may still take them.
fn copy(from: &SimDisk) -> io::Result<SimDisk> {
    let len = from.len_bytes()?;
    let copy = match from.is_block_device() {
        true => from.machine().create_block_device(len),
        false => from.machine().create_file(),
    };
    let mut bytes = vec![0; usize::try_from(len).expect("simulated disks are small")];
    from.read_at(&mut bytes, 0)?;
    copy.write_at(&bytes, 0)?;
    Ok(copy)
}
