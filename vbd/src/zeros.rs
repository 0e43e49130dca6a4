//! Looking for zeros.

use std::ops::Range;

/// A run of zeros shorter than this is copied with its neighbours: most file systems have no smaller holes.
pub(crate) const GRAIN_BYTES: usize = 4096;

/// Is every byte zero?
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // To look at a whole grain is faster than to ask after each byte whether that is needed: it takes vector instructions.
    let grain_is_zero = |grain: &[u8]| grain.iter().fold(0, |all, &byte| all | byte) == 0;
    bytes.chunks(GRAIN_BYTES).all(grain_is_zero)
}

/// The first run of grains at or after `from` that are not all zeros.
pub(crate) fn next_run(bytes: &[u8], from: usize) -> Option<Range<usize>> {
    let grain_has_data = |at: &usize| !is_zero(&bytes[*at..(*at + GRAIN_BYTES).min(bytes.len())]);
    let start = (from..bytes.len()).step_by(GRAIN_BYTES).find(grain_has_data)?;
    let end = (start..bytes.len()).step_by(GRAIN_BYTES).find(|at| !grain_has_data(at));
    Some(start..end.unwrap_or(bytes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_found_and_gaps_left_out() {
        let mut bytes = vec![0; 10 * GRAIN_BYTES + 512];
        assert_eq!(next_run(&bytes, 0), None);
        bytes[GRAIN_BYTES] = 1;
        bytes[3 * GRAIN_BYTES - 1] = 1;
        *bytes.last_mut().unwrap() = 1;
        assert_eq!(next_run(&bytes, 0), Some(GRAIN_BYTES..3 * GRAIN_BYTES));
        assert_eq!(next_run(&bytes, 3 * GRAIN_BYTES), Some(10 * GRAIN_BYTES..bytes.len()));
        assert_eq!(next_run(&bytes, bytes.len()), None);
    }

    #[test]
    fn one_bit_is_not_zero_wherever_it_is() {
        let mut bytes = vec![0; 9000];
        assert!(is_zero(&bytes) && is_zero(&[]));
        for at in [0, 4095, 4096, 8999] {
            bytes[at] = 0x80;
            assert!(!is_zero(&bytes));
            bytes[at] = 0;
        }
    }
}
