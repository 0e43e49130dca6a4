//! Random numbers that anybody can name: the `n`-th number of a seed, without those before it.
//!
//! # References
//! Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators (SplitMix64), OOPSLA 2014.

/// The `n`-th number of `seed`, uniform over all of 64 bits.
pub(super) fn number(seed: u64, n: u64) -> u64 {
    let mut z = seed.wrapping_add(n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The `n`-th number of `seed` that is at most `max`.
pub(super) fn at_most(seed: u64, n: u64, max: u64) -> u64 {
    let scaled = (u128::from(number(seed, n)) * (u128::from(max) + 1)) >> 64;
    u64::try_from(scaled).expect("a 64-bit number times 2^64 at most, over 2^64")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_paper_s_generator() {
        // The first three of its reference implementation for the seed 1234567.
        let first: Vec<u64> = (0..3).map(|n| number(1_234_567, n)).collect();
        assert_eq!(
            first,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }

    #[test]
    fn bounds_are_met() {
        assert_eq!(at_most(1, 2, 0), 0);
        assert_eq!(at_most(1, 2, u64::MAX), number(1, 2));
        let seen: Vec<u64> = (0..100).map(|n| at_most(7, n, 3)).collect();
        assert!((0..=3).all(|value| seen.contains(&value)) && seen.iter().all(|&value| value <= 3));
    }
}
