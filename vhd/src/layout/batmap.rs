//! Xen's batmap: one bit per block, set where every sector of the block is present. A hint, here as in Xen's own tools.
//!
//! ```text
//!  BAT, padded to a sector │ header 512 B: cookie, map offset, size in sectors, version, checksum, marker, keyhash │ map
//! ```

use super::{Flaw, put, u32_at, u64_at};

/// Bytes that the header takes.
pub const BATMAP_HEADER_BYTES: usize = 512;

const COOKIE: [u8; 8] = *b"tdbatmap";
/// Where the part that this crate does not look into begins: marker, keyhash, padding.
const REST_AT: usize = 28;

/// The batmap header's values. Its checksum is of the map, not of the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatmapRepr {
    /// Where the map lies, in bytes.
    pub map_offset: u64,
    /// The map's size in sectors.
    pub map_sectors: u32,
    /// 0x00010002 since 2007; 0x00010001 before, with a checksum of signed bytes.
    pub version: u32,
    /// The map's checksum.
    pub checksum: u32,
    /// Marker byte, key hash, padding; kept.
    pub rest: [u8; BATMAP_HEADER_BYTES - REST_AT],
}

impl BatmapRepr {
    /// A header for an empty map.
    pub fn new(map_offset: u64, map_sectors: u32) -> Self {
        let rest = [0; BATMAP_HEADER_BYTES - REST_AT];
        Self {
            map_offset,
            map_sectors,
            version: 0x0001_0002,
            checksum: !0,
            rest,
        }
    }

    /// Reads a header of 512 bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, Flaw> {
        let bytes = bytes.get(..BATMAP_HEADER_BYTES).ok_or(Flaw::Short)?;
        if bytes[..8] != COOKIE {
            return Err(Flaw::Cookie);
        }
        Ok(Self {
            map_offset: u64_at(bytes, 8),
            map_sectors: u32_at(bytes, 16),
            version: u32_at(bytes, 20),
            checksum: u32_at(bytes, 24),
            rest: super::bytes_at(bytes, REST_AT),
        })
    }

    /// The header's bytes.
    pub fn emit(&self) -> [u8; BATMAP_HEADER_BYTES] {
        let mut bytes = [0; BATMAP_HEADER_BYTES];
        put(&mut bytes, 0, COOKIE);
        put(&mut bytes, 8, self.map_offset.to_be_bytes());
        put(&mut bytes, 16, self.map_sectors.to_be_bytes());
        put(&mut bytes, 20, self.version.to_be_bytes());
        put(&mut bytes, 24, self.checksum.to_be_bytes());
        put(&mut bytes, REST_AT, self.rest);
        bytes
    }

    /// Is the image's data encrypted? The key hash's first byte says so.
    pub fn encrypted(&self) -> bool {
        self.rest[1] != 0
    }
}

/// The checksum of a map: of the bytes that Xen's library sums, which for odd sizes are fewer than the map has.
pub fn batmap_checksum(version: u32, map: &[u8], current_size: u64) -> u32 {
    let summed = usize::try_from((current_size >> 24).div_ceil(512).max(1) * 512).unwrap_or(usize::MAX);
    let summed = &map[..map.len().min(summed)];
    let signed = version < 0x0001_0002;
    !summed.iter().fold(0u32, |sum, &byte| {
        let byte = if signed {
            byte.cast_signed() as i32 as u32
        } else {
            u32::from(byte)
        };
        sum.wrapping_add(byte)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_emit_and_parse() {
        let mut header = BatmapRepr::new(8192, 2);
        header.rest[5] = 77;
        assert_eq!(BatmapRepr::parse(&header.emit()), Ok(header));
        assert_eq!(BatmapRepr::parse(&[0; 512]), Err(Flaw::Cookie));
        assert_eq!(BatmapRepr::parse(b"tdbatmap"), Err(Flaw::Short));
    }

    #[test]
    fn an_empty_map_sums_to_the_header_of_a_new_one() {
        assert_eq!(
            batmap_checksum(0x0001_0002, &[0; 512], 1 << 30),
            BatmapRepr::new(0, 1).checksum
        );
    }

    #[test]
    fn version_1_1_sums_signed_bytes() {
        assert_eq!(
            batmap_checksum(0x0001_0001, &[0xFF; 512], 1 << 30),
            !(512u32.wrapping_neg())
        );
        assert_eq!(batmap_checksum(0x0001_0002, &[0xFF; 512], 1 << 30), !(512 * 255));
    }

    #[test]
    fn bytes_behind_the_summed_length_do_not_count() {
        let mut map = [0; 1024];
        map[512] = 0x80;
        assert_eq!(batmap_checksum(0x0001_0002, &map, 4097 * (2 << 20)), !0);
    }
}
