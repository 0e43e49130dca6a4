//! Bytes that are known, or known to be one of a few.

use std::ops::Range;

/// How many a byte may be one of; with more, anything is allowed.
const FEW: usize = 7;

/// What a byte may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Few {
    bytes: [u8; FEW],
    count: u8,
}

impl Few {
    fn one(byte: u8) -> Self {
        Self {
            bytes: [byte; FEW],
            count: 1,
        }
    }

    fn allows(&self, byte: u8) -> bool {
        self.bytes[0] == byte || usize::from(self.count) > FEW || self.bytes[1..].contains(&byte)
    }

    fn add(&mut self, byte: u8) {
        if !self.allows(byte) {
            // Places that are not in use repeat the first byte.
            if let Some(place) = self.bytes.get_mut(usize::from(self.count)) {
                *place = byte;
            }
            self.count += 1;
        }
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Fuzzy(Vec<Few>);

impl Fuzzy {
    /// Zeros.
    pub(crate) fn new(len: usize) -> Self {
        Self(vec![Few::one(0); len])
    }

    /// These bytes, and zeros behind them.
    pub(crate) fn of(bytes: &[u8], len: usize) -> Self {
        let zeros = std::iter::repeat_n(&0, len - bytes.len());
        Self(bytes.iter().chain(zeros).map(|&byte| Few::one(byte)).collect())
    }

    /// The byte is this.
    pub(crate) fn set(&mut self, at: usize, byte: u8) {
        self.0[at] = Few::one(byte);
    }

    /// The byte may be this, too.
    pub(crate) fn may(&mut self, at: usize, byte: u8) {
        self.0[at].add(byte);
    }

    /// The byte is, or may be, what it is there.
    pub(crate) fn take(&mut self, at: usize, from: &Self) {
        self.0[at] = from.0[at];
    }

    /// Is it one byte?
    pub(crate) fn is_known(&self, at: usize) -> bool {
        self.0[at].count == 1
    }

    /// A part of it.
    pub(crate) fn part(&self, range: Range<usize>) -> Self {
        Self(self.0[range].to_vec())
    }

    /// The bytes may be those, too.
    pub(crate) fn join(&mut self, other: &Self) {
        for (few, more) in self.0.iter_mut().zip(&other.0) {
            if usize::from(more.count) > FEW {
                *few = *more;
            }
            more.bytes.iter().for_each(|&byte| few.add(byte));
        }
    }

    /// The first byte of `bytes` that cannot be, which it is, and what it might be.
    pub(crate) fn first_wrong(&self, bytes: &[u8]) -> Option<(usize, u8, Vec<u8>)> {
        let at = self.0.iter().zip(bytes).position(|(few, &byte)| !few.allows(byte))?;
        let Few { bytes: few, count } = self.0[at];
        Some((at, bytes[at], few[..count.into()].to_vec()))
    }
}
