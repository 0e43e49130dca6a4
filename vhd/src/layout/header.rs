//! The dynamic header: where the BAT lies and how large a block is.

use super::{Flaw, NO_OFFSET, UniqueId, bytes_at, checksum, put, u32_at, u64_at};

/// Bytes in a dynamic header.
pub const DYNAMIC_HEADER_BYTES: usize = 1024;

const COOKIE: [u8; 8] = *b"cxsparse";
const CHECKSUM_AT: usize = 36;
const LOCATORS_AT: usize = 576;
const RESERVED_AT: usize = 768;

/// Where a parent's name lies: one of eight entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocatorRepr {
    /// Which platform's form; 0 for none.
    pub code: u32,
    /// Room: bytes with most writers, sectors by the specification.
    pub data_space: u32,
    /// The name's length in bytes.
    pub data_length: u32,
    /// 0.
    pub reserved: u32,
    /// Where the name lies.
    pub data_offset: u64,
}

/// A dynamic header's values. Every byte has its place here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DynamicHeaderRepr {
    /// All ones; never followed.
    pub next_offset: u64,
    /// Where the BAT lies, in bytes.
    pub table_offset: u64,
    /// 0x00010000.
    pub version: u32,
    /// Entries in the BAT: at least as many as the disk has blocks.
    pub max_table_entries: u32,
    /// Bytes of data in a block.
    pub block_bytes: u32,
    /// The parent's identity; zeros without a parent.
    pub parent_id: UniqueId,
    /// When the parent was changed last; never enforced.
    pub parent_timestamp: u32,
    /// 0.
    pub reserved1: u32,
    /// The parent's name in UTF-16BE.
    pub parent_name: [u8; 512],
    /// Where to find the parent.
    pub locators: [LocatorRepr; 8],
    /// Zeros.
    pub reserved2: [u8; DYNAMIC_HEADER_BYTES - RESERVED_AT],
}

impl DynamicHeaderRepr {
    /// A header without a parent.
    pub fn new(table_offset: u64, max_table_entries: u32, block_bytes: u32) -> Self {
        Self {
            next_offset: NO_OFFSET,
            table_offset,
            version: 0x0001_0000,
            max_table_entries,
            block_bytes,
            parent_id: UniqueId::default(),
            parent_timestamp: 0,
            reserved1: 0,
            parent_name: [0; 512],
            locators: [LocatorRepr::default(); 8],
            reserved2: [0; DYNAMIC_HEADER_BYTES - RESERVED_AT],
        }
    }

    /// Reads a header of 1024 bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, Flaw> {
        let bytes = bytes.get(..DYNAMIC_HEADER_BYTES).ok_or(Flaw::Short)?;
        if bytes[..8] != COOKIE {
            return Err(Flaw::Cookie);
        }
        let (stored, computed) = (u32_at(bytes, CHECKSUM_AT), checksum(bytes, CHECKSUM_AT));
        if stored != computed {
            return Err(Flaw::Checksum { stored, computed });
        }
        Ok(Self {
            next_offset: u64_at(bytes, 8),
            table_offset: u64_at(bytes, 16),
            version: u32_at(bytes, 24),
            max_table_entries: u32_at(bytes, 28),
            block_bytes: u32_at(bytes, 32),
            parent_id: UniqueId(bytes_at(bytes, 40)),
            parent_timestamp: u32_at(bytes, 56),
            reserved1: u32_at(bytes, 60),
            parent_name: bytes_at(bytes, 64),
            locators: std::array::from_fn(|at| locator_at(bytes, LOCATORS_AT + 24 * at)),
            reserved2: bytes_at(bytes, RESERVED_AT),
        })
    }

    /// The header's bytes, with the checksum they need.
    pub fn emit(&self) -> [u8; DYNAMIC_HEADER_BYTES] {
        let mut bytes = [0; DYNAMIC_HEADER_BYTES];
        put(&mut bytes, 0, COOKIE);
        put(&mut bytes, 8, self.next_offset.to_be_bytes());
        put(&mut bytes, 16, self.table_offset.to_be_bytes());
        put(&mut bytes, 24, self.version.to_be_bytes());
        put(&mut bytes, 28, self.max_table_entries.to_be_bytes());
        put(&mut bytes, 32, self.block_bytes.to_be_bytes());
        put(&mut bytes, 40, self.parent_id.0);
        put(&mut bytes, 56, self.parent_timestamp.to_be_bytes());
        put(&mut bytes, 60, self.reserved1.to_be_bytes());
        put(&mut bytes, 64, self.parent_name);
        for (at, locator) in self.locators.iter().enumerate() {
            put_locator(&mut bytes, LOCATORS_AT + 24 * at, locator);
        }
        put(&mut bytes, RESERVED_AT, self.reserved2);
        let sum = checksum(&bytes, CHECKSUM_AT);
        put(&mut bytes, CHECKSUM_AT, sum.to_be_bytes());
        bytes
    }
}

fn locator_at(bytes: &[u8], at: usize) -> LocatorRepr {
    LocatorRepr {
        code: u32_at(bytes, at),
        data_space: u32_at(bytes, at + 4),
        data_length: u32_at(bytes, at + 8),
        reserved: u32_at(bytes, at + 12),
        data_offset: u64_at(bytes, at + 16),
    }
}

fn put_locator(bytes: &mut [u8], at: usize, locator: &LocatorRepr) {
    put(bytes, at, locator.code.to_be_bytes());
    put(bytes, at + 4, locator.data_space.to_be_bytes());
    put(bytes, at + 8, locator.data_length.to_be_bytes());
    put(bytes, at + 12, locator.reserved.to_be_bytes());
    put(bytes, at + 16, locator.data_offset.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_emit_and_parse() {
        let mut header = DynamicHeaderRepr::new(1536, 7, 2 << 20);
        header.locators[3] = LocatorRepr {
            code: 1,
            data_space: 2,
            data_length: 3,
            reserved: 4,
            data_offset: 5,
        };
        header.reserved2[9] = 9;
        header.parent_name[1] = b'a';
        assert_eq!(DynamicHeaderRepr::parse(&header.emit()), Ok(header));
    }

    #[test]
    fn flaws_are_named() {
        let mut bytes = DynamicHeaderRepr::new(1536, 7, 2 << 20).emit();
        assert_eq!(DynamicHeaderRepr::parse(&bytes[..1023]), Err(Flaw::Short));
        bytes[1000] = 1;
        assert!(matches!(DynamicHeaderRepr::parse(&bytes), Err(Flaw::Checksum { .. })));
        bytes[3] = 0;
        assert_eq!(DynamicHeaderRepr::parse(&bytes), Err(Flaw::Cookie));
    }
}
