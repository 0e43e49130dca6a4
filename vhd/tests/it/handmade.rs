//! Images laid by hand, as other tools lay them.

use vhd::layout::{Creator, DiskType, DynamicHeaderRepr, FooterRepr, UniqueId};

/// A block of a [`Foreign`] image: which sectors it has, and what byte fills them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    pub(crate) number: usize,
    /// Bit n: sector n is present. The others hold garbage that must never be seen.
    pub(crate) present: u64,
    pub(crate) byte: u8,
}

/// A dynamic image as QEMU lays it: slots packed, data off page boundaries, no batmap, footer right behind.
#[derive(Clone, Debug)]
pub(crate) struct Foreign {
    pub(crate) size: u64,
    pub(crate) block_bytes: u32,
    pub(crate) blocks: Vec<Block>,
}

impl Foreign {
    pub(crate) fn footer(&self) -> FooterRepr {
        let creator = Creator {
            app: *b"win ",
            version: (6, 1),
            host_os: *b"Wi2k",
        };
        FooterRepr::new(DiskType::Dynamic, self.size, UniqueId([0x42; 16]), 4711, creator)
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        let count = self.size.div_ceil(u64::from(self.block_bytes)) as usize;
        let mut bytes = self.footer().emit().to_vec();
        bytes.extend(DynamicHeaderRepr::new(1536, count as u32, self.block_bytes).emit());
        let table_at = bytes.len();
        bytes.resize(table_at + (count * 4).next_multiple_of(512), 0xFF);
        for block in &self.blocks {
            let entry = (bytes.len() / 512) as u32;
            bytes[table_at + block.number * 4..][..4].copy_from_slice(&entry.to_be_bytes());
            self.put_block(&mut bytes, block);
        }
        bytes.extend(self.footer().emit());
        bytes
    }

    fn put_block(&self, bytes: &mut Vec<u8>, block: &Block) {
        let sectors = self.block_bytes as usize / 512;
        let mut bitmap = vec![0u8; (sectors / 8).next_multiple_of(512)];
        for sector in (0..sectors.min(64)).filter(|&sector| block.has(sector)) {
            bitmap[sector / 8] |= 0x80 >> (sector % 8);
        }
        bytes.extend(bitmap);
        for sector in 0..sectors {
            bytes.extend([if block.has(sector) { block.byte } else { 0xEE }; 512]);
        }
    }
}

impl Block {
    pub(crate) fn has(&self, sector: usize) -> bool {
        sector < 64 && self.present >> sector & 1 == 1
    }
}
