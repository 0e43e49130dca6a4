//! Bytes that say where and when they were written.

/// Sector size in bytes.
pub const SECTOR: usize = 512;

/// Fills whole sectors, each with its stamp: the sector's number and the number of the write.
///
/// A sector that is found again therefore tells which write it holds, and a sector at the wrong place is seen.
pub fn stamp(buffer: &mut [u8], first_sector: u64, write: u64) {
    for (sector, bytes) in (first_sector..).zip(buffer.chunks_exact_mut(SECTOR)) {
        let mut random = fastrand::Rng::with_seed(sector.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ write);
        random.fill(bytes);
        bytes[..8].copy_from_slice(&sector.to_le_bytes());
        bytes[8..16].copy_from_slice(&write.to_le_bytes());
    }
}

/// Which write a sector holds: none when it holds zeros. Anything else than a whole stamp of this sector is an error.
pub fn written_by(bytes: &[u8], sector: u64) -> Result<Option<u64>, String> {
    if bytes.iter().all(|&byte| byte == 0) {
        return Ok(None);
    }
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
    let write = word(8);
    let mut expected = [0; SECTOR];
    stamp(&mut expected, sector, write);
    if bytes == expected {
        Ok(Some(write))
    } else {
        Err(format!("sector {sector} holds no stamp, or half of one"))
    }
}

/// Panics with the place of the first difference; bytes themselves would fill pages.
#[track_caller]
pub fn assert_same(found: &[u8], expected: &[u8]) {
    assert_eq!(found.len(), expected.len(), "lengths differ");
    let differs = found
        .iter()
        .zip(expected)
        .position(|(found, expected)| found != expected);
    if let Some(at) = differs {
        panic!(
            "byte {at} of {} is {:#04x}, expected {:#04x}",
            found.len(),
            found[at],
            expected[at]
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sector_tells_its_write_and_refuses_the_wrong_place() {
        let mut buffer = [0; 2 * SECTOR];
        stamp(&mut buffer, 10, 3);
        assert_eq!(written_by(&buffer[SECTOR..], 11), Ok(Some(3)));
        assert!(written_by(&buffer[SECTOR..], 10).is_err());
        assert_eq!(written_by(&[0; SECTOR], 10), Ok(None));
        buffer[SECTOR - 1] ^= 1;
        assert!(written_by(&buffer[..SECTOR], 10).is_err());
    }
}
