//! The images that lives are lived on: as we make them, on a block device full of old bytes, and as other writers leave them.

use fastrand::Rng;
use iomgr_core::{SECTOR_BYTES, Storage};
use tqueue::sim::{SimDisk, SimHandle};
use vhd::layout::{Creator, DYNAMIC_HEADER_BYTES, DynamicHeaderRepr};

use super::SECTOR_LEN;
use super::model::{Model, Stamp};

/// What no sector of a disk ever holds: it is no stamp.
const GARBAGE: u8 = 0xEE;
const BAT_UNUSED: u32 = u32::MAX;

/// Where an image lies, and who wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ours,
    /// On a block device, with old bytes wherever nothing was written.
    Device,
    /// Between lives another writer has it, who leaves bits clear.
    Foreign,
}

/// See the module.
pub(super) struct Image {
    pub(super) storage: SimDisk,
    pub(super) model: Model,
    kind: Kind,
    /// Would all of it survive a power cut?
    durable: bool,
}

impl Image {
    pub(super) fn create(sim: &SimHandle, rng: &mut Rng) -> Self {
        let kind = [Kind::Ours, Kind::Ours, Kind::Device, Kind::Foreign][rng.usize(..4)];
        let block_bytes = 1 << rng.u32(12..17);
        let blocks = rng.u64(1..24);
        let size_bytes = blocks * u64::from(block_bytes) - rng.u64(0..8) * SECTOR_BYTES;
        let storage = match kind {
            Kind::Device => device(sim, (blocks + rng.u64(..=blocks)) * (u64::from(block_bytes) + 4096)),
            Kind::Ours | Kind::Foreign => sim.create_file(),
        };
        let ours = vhd::CreateOptions::dynamic(size_bytes, [7; 16], 0);
        let foreign = Creator {
            app: *b"win ",
            version: (6, 1),
            host_os: *b"Wi2k",
        };
        let creator = if kind == Kind::Foreign { foreign } else { ours.creator };
        let options = vhd::CreateOptions {
            block_bytes,
            creator,
            ..ours
        };
        vhd::create(&storage, &options).expect("the storage takes an image");
        Self {
            storage,
            model: Model::new(size_bytes / SECTOR_BYTES),
            kind,
            durable: true,
        }
    }

    pub(super) fn is_device(&self) -> bool {
        self.kind == Kind::Device
    }

    /// Each sector is known to hold this; for good, if `durable`.
    pub(super) fn settle(&mut self, stamps: &[Stamp], durable: bool) {
        self.durable = durable;
        for (at, &stamp) in stamps.iter().enumerate() {
            if durable {
                self.model.settle(at, stamp);
            } else {
                self.model.outlived(at, stamp);
            }
        }
    }

    /// Lets the other writer of a foreign image have it: some bits go, and garbage comes under them.
    pub(super) fn age(&mut self, rng: &mut Rng) {
        if self.kind != Kind::Foreign || !self.durable {
            return;
        }
        let mut header = [0; DYNAMIC_HEADER_BYTES];
        self.read(&mut header, 512);
        let header = DynamicHeaderRepr::parse(&header).expect("the image is valid");
        let block_sectors = u64::from(header.block_bytes) / SECTOR_BYTES;
        for block in 0..u64::from(header.max_table_entries) {
            let mut entry = [0; 4];
            self.read(&mut entry, header.table_offset + block * 4);
            let entry = u32::from_be_bytes(entry);
            if entry != BAT_UNUSED && rng.u8(..4) == 0 {
                let from = rng.u64(..block_sectors);
                let to = rng.u64(from..=block_sectors);
                self.clear_bits(u64::from(entry) * SECTOR_BYTES, block * block_sectors, from..to);
            }
        }
        self.storage.sync().expect("the power is on");
    }

    /// Clears the bits of sectors `which` of the block whose bitmap is at `bitmap_at` and whose first sector is `first`.
    fn clear_bits(&mut self, bitmap_at: u64, first: u64, which: std::ops::Range<u64>) {
        let mut bitmap = [0; SECTOR_LEN];
        self.read(&mut bitmap, bitmap_at);
        let garbage = [GARBAGE; SECTOR_LEN];
        for within in which {
            bitmap[usize::try_from(within / 8).unwrap()] &= !(0x80 >> (within % 8));
            // Blocks of these sizes have one sector of bitmap.
            self.write(&garbage, bitmap_at + (1 + within) * SECTOR_BYTES);
            let sector = usize::try_from(first + within).unwrap();
            if sector < self.model.len() {
                self.model.settle(sector, 0);
            }
        }
        self.write(&bitmap, bitmap_at);
    }

    fn read(&self, bytes: &mut [u8], at: u64) {
        self.storage.read_at(bytes, at).expect("it is in the file");
    }

    fn write(&self, bytes: &[u8], at: u64) {
        self.storage.write_at(bytes, at).expect("it is in the file");
    }
}

/// A block device of old bytes, with room for metadata and `slots_bytes`.
fn device(sim: &SimHandle, slots_bytes: u64) -> SimDisk {
    const METADATA_BYTES: u64 = 32 << 10;
    let len = METADATA_BYTES + slots_bytes;
    let device = sim.create_block_device(len);
    let old: Vec<u8> = (0..len).map(|at| GARBAGE ^ (at % 251) as u8).collect();
    device.write_at(&old, 0).expect("it has this size");
    device.sync().expect("the power is on");
    device
}
