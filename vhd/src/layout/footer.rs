//! The footer: the last 512 bytes of every image, and the first of a dynamic one.

use std::fmt;

use super::{Chs, Flaw, bytes_at, checksum, put, u16_at, u32_at, u64_at};

/// Bytes in a footer. Virtual PC before 2004 wrote 511; the byte that lacks counts as zero.
pub const FOOTER_BYTES: usize = 512;

const CHECKSUM_AT: usize = 64;
const HIDDEN_AT: usize = 85;
const RESERVED_AT: usize = 86;

/// The footer's first eight bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cookie {
    /// `conectix`.
    Conectix,
    /// `v_poison`: Xen's tools were resizing the image with an undo journal, and did not end.
    Poison,
}

impl Cookie {
    fn bytes(self) -> [u8; 8] {
        match self {
            Self::Conectix => *b"conectix",
            Self::Poison => *b"v_poison",
        }
    }
}

/// The footer's disk type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskType {
    /// Data as they are, then the footer.
    Fixed,
    /// Blocks allocated as they are written.
    Dynamic,
    /// Dynamic, over a parent image.
    Differencing,
    /// None (0), or one of the deprecated and unknown numbers.
    Other(u32),
}

impl From<u32> for DiskType {
    fn from(number: u32) -> Self {
        match number {
            2 => Self::Fixed,
            3 => Self::Dynamic,
            4 => Self::Differencing,
            other => Self::Other(other),
        }
    }
}

impl From<DiskType> for u32 {
    fn from(disk_type: DiskType) -> Self {
        match disk_type {
            DiskType::Fixed => 2,
            DiskType::Dynamic => 3,
            DiskType::Differencing => 4,
            DiskType::Other(other) => other,
        }
    }
}

impl fmt::Display for DiskType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed => f.write_str("fixed"),
            Self::Dynamic => f.write_str("dynamic"),
            Self::Differencing => f.write_str("differencing"),
            Self::Other(number) => write!(f, "type {number}"),
        }
    }
}

/// An image's identity: 16 opaque bytes, compared as bytes and printed in their order.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct UniqueId(pub [u8; 16]);

impl fmt::Display for UniqueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            let dash = if matches!(at, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{dash}{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for UniqueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Who wrote the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Creator {
    /// Four characters, padded with blanks or zeros.
    pub app: [u8; 4],
    /// Major and minor version.
    pub version: (u16, u16),
    /// Four characters, or zeros.
    pub host_os: [u8; 4],
}

impl Creator {
    /// What this crate writes unless told otherwise: Xen's mark, which QEMU, XenServer and XCP-ng all read by current size.
    pub const TAP: Self = Self {
        app: *b"tap\0",
        version: (1, 3),
        host_os: [0; 4],
    };

    /// Is it Xen's, at a version of at least `version`? Then a batmap may follow the BAT.
    pub fn is_tap_from(&self, version: (u16, u16)) -> bool {
        self.app == *b"tap\0" && self.version >= version
    }
}

impl fmt::Display for Creator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.app.trim_ascii_end();
        let name = name.strip_suffix(b"\0").unwrap_or(name);
        write!(f, "{} {}.{}", name.escape_ascii(), self.version.0, self.version.1)
    }
}

/// A footer's values. Every byte of a footer has its place here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FooterRepr {
    /// Which cookie.
    pub cookie: Cookie,
    /// Bit 1 is always set.
    pub features: u32,
    /// 0x00010000.
    pub version: u32,
    /// Where the dynamic header lies, in bytes; [`NO_OFFSET`](super::NO_OFFSET) in a fixed disk.
    pub data_offset: u64,
    /// When it was made: see [`unix_time`](super::unix_time).
    pub timestamp: u32,
    /// Who made it.
    pub creator: Creator,
    /// The size at creation, in bytes; means nothing.
    pub original_size: u64,
    /// The disk's size in bytes.
    pub current_size: u64,
    /// The shape; no size.
    pub geometry: Chs,
    /// Fixed, dynamic, differencing.
    pub disk_type: DiskType,
    /// The image's identity.
    pub unique_id: UniqueId,
    /// 1: the disk belongs to a suspended machine; not to be compacted or expanded.
    pub saved_state: u8,
    /// Xen: 1 marks the inner node of a chain. Reserved by the specification.
    pub hidden: u8,
    /// Zeros, or what a writer hid here (SIMH keeps drive data); kept on rewrite.
    pub reserved: [u8; FOOTER_BYTES - RESERVED_AT],
}

impl FooterRepr {
    /// A new image's footer.
    pub fn new(disk_type: DiskType, size_bytes: u64, unique_id: UniqueId, timestamp: u32, creator: Creator) -> Self {
        Self {
            cookie: Cookie::Conectix,
            features: 2,
            version: 0x0001_0000,
            data_offset: if disk_type == DiskType::Fixed {
                super::NO_OFFSET
            } else {
                512
            },
            timestamp,
            creator,
            original_size: size_bytes,
            current_size: size_bytes,
            geometry: Chs::for_sectors(size_bytes / 512),
            disk_type,
            unique_id,
            saved_state: 0,
            hidden: 0,
            reserved: [0; FOOTER_BYTES - RESERVED_AT],
        }
    }

    /// Reads a footer of 512 or 511 bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, Flaw> {
        let mut whole = [0; FOOTER_BYTES];
        let taken = bytes.len().min(FOOTER_BYTES);
        if taken < FOOTER_BYTES - 1 {
            return Err(Flaw::Short);
        }
        whole[..taken].copy_from_slice(&bytes[..taken]);
        let cookie = match &whole[..8] {
            b"conectix" => Cookie::Conectix,
            b"v_poison" => Cookie::Poison,
            _ => return Err(Flaw::Cookie),
        };
        let footer = Self::fields(&whole, cookie);
        footer.verify(&whole)?;
        Ok(footer)
    }

    fn fields(bytes: &[u8; FOOTER_BYTES], cookie: Cookie) -> Self {
        Self {
            cookie,
            features: u32_at(bytes, 8),
            version: u32_at(bytes, 12),
            data_offset: u64_at(bytes, 16),
            timestamp: u32_at(bytes, 24),
            creator: Creator {
                app: bytes_at(bytes, 28),
                version: (u16_at(bytes, 32), u16_at(bytes, 34)),
                host_os: bytes_at(bytes, 36),
            },
            original_size: u64_at(bytes, 40),
            current_size: u64_at(bytes, 48),
            geometry: Chs {
                cylinders: u16_at(bytes, 56),
                heads: bytes[58],
                sectors: bytes[59],
            },
            disk_type: u32_at(bytes, 60).into(),
            unique_id: UniqueId(bytes_at(bytes, 68)),
            saved_state: bytes[84],
            hidden: bytes[HIDDEN_AT],
            reserved: bytes_at(bytes, RESERVED_AT),
        }
    }

    fn verify(&self, bytes: &[u8; FOOTER_BYTES]) -> Result<(), Flaw> {
        let (stored, computed) = (u32_at(bytes, CHECKSUM_AT), checksum(bytes, CHECKSUM_AT));
        if stored == computed || self.sum_from_before_hiding(stored, computed) {
            return Ok(());
        }
        Err(Flaw::Checksum { stored, computed })
    }

    /// Early Xen tools set `hidden` without renewing the checksum.
    fn sum_from_before_hiding(&self, stored: u32, computed: u32) -> bool {
        let early = self.creator.app == *b"tap\0" && matches!(self.creator.version, (0, 1) | (1, 1));
        early && self.hidden == 1 && stored == computed.wrapping_add(1)
    }

    /// The footer's bytes, with the checksum they need.
    pub fn emit(&self) -> [u8; FOOTER_BYTES] {
        let mut bytes = [0; FOOTER_BYTES];
        put(&mut bytes, 0, self.cookie.bytes());
        put(&mut bytes, 8, self.features.to_be_bytes());
        put(&mut bytes, 12, self.version.to_be_bytes());
        put(&mut bytes, 16, self.data_offset.to_be_bytes());
        put(&mut bytes, 24, self.timestamp.to_be_bytes());
        put(&mut bytes, 28, self.creator.app);
        put(&mut bytes, 32, self.creator.version.0.to_be_bytes());
        put(&mut bytes, 34, self.creator.version.1.to_be_bytes());
        put(&mut bytes, 36, self.creator.host_os);
        put(&mut bytes, 40, self.original_size.to_be_bytes());
        put(&mut bytes, 48, self.current_size.to_be_bytes());
        put(&mut bytes, 56, self.geometry.cylinders.to_be_bytes());
        put(&mut bytes, 58, [self.geometry.heads, self.geometry.sectors]);
        put(&mut bytes, 60, u32::from(self.disk_type).to_be_bytes());
        put(&mut bytes, 68, self.unique_id.0);
        put(&mut bytes, 84, [self.saved_state, self.hidden]);
        put(&mut bytes, RESERVED_AT, self.reserved);
        let sum = checksum(&bytes, CHECKSUM_AT);
        put(&mut bytes, CHECKSUM_AT, sum.to_be_bytes());
        bytes
    }

    /// Do two footers speak of the same image: identity, size, type and header's place?
    pub fn disagreement(&self, other: &Self) -> Option<&'static str> {
        if self.unique_id != other.unique_id {
            return Some("unique id");
        }
        if self.current_size != other.current_size {
            return Some("current size");
        }
        if self.disk_type != other.disk_type {
            return Some("disk type");
        }
        (self.data_offset != other.data_offset).then_some("data offset")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> FooterRepr {
        FooterRepr::new(DiskType::Dynamic, 4 << 20, UniqueId([0x11; 16]), 1000, Creator::TAP)
    }

    #[test]
    fn a_footer_survives_emit_and_parse_reserved_bytes_included() {
        let mut footer = sample();
        footer.reserved[7] = 0xA5;
        footer.hidden = 1;
        assert_eq!(FooterRepr::parse(&footer.emit()), Ok(footer));
    }

    #[test]
    fn the_511_byte_form_reads_with_a_zero_at_its_end() {
        let footer = sample();
        assert_eq!(FooterRepr::parse(&footer.emit()[..511]), Ok(footer.clone()));
        assert_eq!(FooterRepr::parse(&footer.emit()[..510]), Err(Flaw::Short));
    }

    #[test]
    fn one_wrong_byte_is_found_out() {
        let mut bytes = sample().emit();
        bytes[50] ^= 1;
        assert!(matches!(FooterRepr::parse(&bytes), Err(Flaw::Checksum { .. })));
        bytes[0] = b'x';
        assert_eq!(FooterRepr::parse(&bytes), Err(Flaw::Cookie));
    }

    #[test]
    fn early_xen_footers_hidden_without_a_new_sum_are_accepted() {
        let mut footer = sample();
        footer.creator.version = (1, 1);
        let mut bytes = footer.emit();
        bytes[HIDDEN_AT] = 1;
        assert_eq!(FooterRepr::parse(&bytes).map(|footer| footer.hidden), Ok(1));
        footer.creator.version = (1, 3);
        let mut bytes = footer.emit();
        bytes[HIDDEN_AT] = 1;
        assert!(FooterRepr::parse(&bytes).is_err());
    }

    #[test]
    fn names_print_as_tools_print_them() {
        assert_eq!(Creator::TAP.to_string(), "tap 1.3");
        let id = UniqueId(std::array::from_fn(|at| u8::try_from(at).unwrap()));
        assert_eq!(id.to_string(), "00010203-0405-0607-0809-0a0b0c0d0e0f");
    }
}
