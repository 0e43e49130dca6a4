//! A log-linear scale of times, for histograms: each power of two of nanoseconds is cut into the same number of buckets, from
//! 1 µs to 18 minutes. What lies outside is in the nearest bucket.

/// The first and the last power of two, in nanoseconds.
const FIRST_LOG2: u32 = 10;
const LAST_LOG2: u32 = 39;

/// How fine it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scale {
    /// Each power of two has so many buckets, as a power of two.
    parts_log2: u32,
}

impl Scale {
    /// The longest time in the last bucket.
    pub(crate) const MAX_NS: u64 = (2 << LAST_LOG2) - 1;

    /// A bucket's bounds are `2^-parts_log2` of a time apart.
    pub(crate) const fn new(parts_log2: u32) -> Self {
        assert!(parts_log2 <= FIRST_LOG2, "a bucket is not shorter than 1 ns");
        Self { parts_log2 }
    }

    /// How many buckets there are.
    pub(crate) const fn len(self) -> usize {
        ((LAST_LOG2 - FIRST_LOG2 + 1) as usize) << self.parts_log2
    }

    /// The bucket of a time.
    #[inline]
    pub(crate) fn index(self, ns: u64) -> usize {
        let ns = ns.clamp(1 << FIRST_LOG2, Self::MAX_NS);
        let octave = ns.ilog2() - FIRST_LOG2;
        // Its highest bits: one that is set, which counts as an octave's parts, then those that count the part.
        let part = ns >> (octave + FIRST_LOG2 - self.parts_log2);
        ((octave as usize) << self.parts_log2) + part as usize - (1 << self.parts_log2)
    }

    /// The first time that is too long for a bucket.
    pub(crate) fn bound_ns(self, index: usize) -> u64 {
        self.start_ns(index) + self.width_ns(index)
    }

    /// The time in the middle of a bucket.
    pub(crate) fn middle_ns(self, index: usize) -> u64 {
        self.start_ns(index) + self.width_ns(index) / 2
    }

    fn start_ns(self, index: usize) -> u64 {
        let parts = 1 << self.parts_log2;
        ((parts + index % parts) as u64) * self.width_ns(index)
    }

    fn width_ns(self, index: usize) -> u64 {
        let octave = index >> self.parts_log2;
        1 << octave << (FIRST_LOG2 - self.parts_log2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_in_its_bucket_and_not_far_from_the_middle() {
        for parts_log2 in [3, 6] {
            let scale = Scale::new(parts_log2);
            let mut ns: u64 = 1 << FIRST_LOG2;
            while ns <= Scale::MAX_NS {
                let index = scale.index(ns);
                let (bound, middle) = (scale.bound_ns(index), scale.middle_ns(index));
                assert!(ns < bound && bound - ns <= bound >> parts_log2, "{ns} below {bound}");
                assert!(ns.abs_diff(middle) <= ns >> (parts_log2 + 1), "{ns} by {middle}");
                assert_eq!(scale.index(bound - 1), index, "{bound} is where the next one begins");
                ns += ns / 200 + 1;
            }
            assert_eq!(scale.index(Scale::MAX_NS), scale.len() - 1);
        }
    }

    #[test]
    fn what_lies_outside_is_in_the_nearest_bucket() {
        let scale = Scale::new(3);
        assert_eq!((scale.index(0), scale.index(u64::MAX)), (0, scale.len() - 1));
    }
}
