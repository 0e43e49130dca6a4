//! Bytes and what they mean: footer, dynamic header, batmap header, geometry, time.
//!
//! Each structure has a `…Repr` with `parse` and `emit`. Parsing judges only what makes the structure recognisable (its
//! cookie and its checksum); what the values mean for an image is judged by [`Image::open`](crate::Image::open) and
//! [`check`](crate::check()). Every byte of a structure has a field, so that `emit` after `parse` gives the same bytes:
//! some writers keep their own data in reserved places.
//!
//! ```text
//!  dynamic image                                              fixed image
//!  0        512            1536 or more                       0
//!  ┌────────┬──────────────┬─────┬────────┬──────┬─ ─┬──────┐ ┌──────────────┬──────┐
//!  │ footer │ dynamic      │ BAT │ batmap │ slot │   │footer│ │ data         │footer│
//!  │ (copy) │ header       │     │ (Xen)  │      │   │      │ │              │      │
//!  └────────┴──────────────┴─────┴────────┴──────┴─ ─┴──────┘ └──────────────┴──────┘
//! ```
//!
//! # Contract
//! All integers are big-endian; a sector is 512 bytes.
//!
//! # References
//! Microsoft, *Virtual Hard Disk Image Format Specification*, version 1.0, October 2006.

mod batmap;
mod footer;
mod geometry;
mod header;
mod time;

pub use batmap::{BATMAP_HEADER_BYTES, BatmapRepr, batmap_checksum};
pub use footer::{Cookie, Creator, DiskType, FOOTER_BYTES, FooterRepr, UniqueId};
pub use geometry::Chs;
pub use header::{DYNAMIC_HEADER_BYTES, DynamicHeaderRepr, LocatorRepr};
pub use time::{VHD_EPOCH, timestamp, unix_time};

use std::fmt;

/// "No offset": what the data offset of a fixed disk and the header's "next" hold.
pub const NO_OFFSET: u64 = u64::MAX;
/// The same in the 32-bit form that the specification's text names.
pub const NO_OFFSET_32: u64 = 0xFFFF_FFFF;
/// The BAT entry of a block that is not allocated.
pub const BAT_UNUSED: u32 = u32::MAX;

/// Why bytes are not the structure that they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Fewer bytes than the structure has.
    Short,
    /// The cookie is another one.
    Cookie,
    /// The checksum does not fit the bytes.
    Checksum {
        /// What the structure says.
        stored: u32,
        /// What its bytes give.
        computed: u32,
    },
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short => f.write_str("too few bytes"),
            Self::Cookie => f.write_str("cookie missing"),
            Self::Checksum { stored, computed } => {
                write!(f, "checksum is {stored:#010x}, the bytes give {computed:#010x}")
            }
        }
    }
}

/// The ones' complement of the sum of `bytes`, the four bytes at `field` taken as zeros.
pub fn checksum(bytes: &[u8], field: usize) -> u32 {
    let sum = |part: &[u8]| part.iter().fold(0u32, |sum, &byte| sum.wrapping_add(u32::from(byte)));
    let after = bytes.get(field + 4..).unwrap_or(&[]);
    !sum(&bytes[..field.min(bytes.len())]).wrapping_add(sum(after))
}

/// The `N` bytes at `at`. The callers' structures have fixed lengths, checked before.
fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N]
        .try_into()
        .expect("a slice of N bytes is an array of N bytes")
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(bytes_at(bytes, at))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes_at(bytes, at))
}

fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&value);
}
