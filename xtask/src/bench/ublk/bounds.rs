//! What a request may take of each server of ours, and whether it does.

use super::figures::{Figures, Load, Target};

/// A figure and what it may be.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Bound {
    what: String,
    found: f64,
    max: f64,
    /// There is nobody to compare with.
    skipped: bool,
}

/// Ours, for a ratio of instructions to another's: ours, whose, at most.
const RATIOS: [(Target, Target, f64); 4] = [
    (ours("null"), rublk("null"), 1.0),
    (ours("file"), rublk("file"), 0.9),
    (ours("loop"), rublk("loop"), 0.9),
    (ours("vhd"), ours("file"), 1.05),
];

/// Calls of `io_uring_enter` for a request at depth 1: one fetches, and one brings what the storage said.
const ENTERS: [(Target, f64); 4] = [
    (ours("null"), 1.1),
    (ours("file"), 2.1),
    (ours("loop"), 2.1),
    (ours("vhd"), 2.1),
];
/// At depth 32, whatever the storage.
const ENTERS_DEEP: f64 = 0.5;

pub(super) const fn ours(storage: &'static str) -> Target {
    let server = "iomgr";
    Target { server, storage }
}

pub(super) const fn rublk(storage: &'static str) -> Target {
    let server = "rublk";
    Target { server, storage }
}

/// All bounds for a load.
pub(super) fn of(load: Load, figures: &Figures<'_>, has_rublk: bool) -> Vec<Bound> {
    let skipped = |theirs: Target| theirs.server == "rublk" && !has_rublk;
    let ratio = |figure: &'static str, ours, theirs: Target, max| Bound {
        what: format!("{load}: {figure}, {} : {}", name(ours), name(theirs)),
        found: figures.per_request(load, ours, figure) / figures.per_request(load, theirs, figure),
        max,
        skipped: skipped(theirs),
    };
    let count = |figure: &'static str, ours, max| Bound {
        what: format!("{load}: {figure}, {}", name(ours)),
        found: figures.per_request(load, ours, figure),
        max,
        skipped: false,
    };
    let mut bounds: Vec<_> = RATIOS
        .iter()
        .map(|&(ours, theirs, max)| ratio("instructions", ours, theirs, max))
        .collect();
    for (ours, max) in ENTERS {
        bounds.push(count("enters", ours, if load.depth == 1 { max } else { ENTERS_DEEP }));
        bounds.push(count("allocations", ours, 0.0));
    }
    if load.depth > 1 {
        let pairs = RATIOS.iter().filter(|(_, theirs, _)| theirs.server == "rublk");
        bounds.extend(pairs.map(|&(ours, theirs, _)| ratio("enters", ours, theirs, 1.0)));
    }
    bounds
}

fn name(target: Target) -> String {
    format!("{} {}", target.server, target.device())
}

impl Bound {
    /// No figure is no good one.
    pub(super) fn is_broken(&self) -> bool {
        !self.skipped && (self.found.is_nan() || self.found > self.max)
    }

    pub(super) fn row(&self) -> String {
        let Bound { what, found, max, .. } = self;
        match (self.skipped, self.is_broken()) {
            (true, _) => format!("| {what} | – | {max} | skipped: no rublk |\n"),
            (false, false) => format!("| {what} | {found:.3} | {max} | holds |\n"),
            (false, true) => format!("| {what} | {found:.3} | {max} | **broken** |\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOAD: Load = Load {
        pattern: "read",
        depth: 32,
    };

    /// All figures of a load: ours, and rublk's with instructions of their own.
    fn text(rublk_instructions: u32) -> String {
        let mut text = String::new();
        for storage in ["null", "file", "vhd", "loop"] {
            for (server, instructions) in [("iomgr", 90), ("rublk", rublk_instructions)] {
                text += &format!("read 32 {server}-{storage} instructions {instructions}00000\r\n");
                text += &format!("read 32 {server}-{storage} enters 1000\n");
                text += &format!("read 32 {server}-{storage} allocations 0\n");
            }
        }
        text
    }

    fn broken(text: &str, has_rublk: bool) -> Vec<String> {
        let bounds = of(LOAD, &Figures(text), has_rublk);
        bounds
            .iter()
            .filter(|bound| bound.is_broken())
            .map(Bound::row)
            .collect()
    }

    #[test]
    fn ratios_and_counts_are_held_to_their_bounds() {
        assert!(broken(&text(100), true).is_empty());
        assert_eq!(broken(&text(99), true).len(), 2, "raw, on a file and on a loop device");
        assert_eq!(broken(&text(89), true).len(), 3);
        let allocating = text(100).replace("iomgr-vhd allocations 0", "iomgr-vhd allocations 1");
        assert_eq!(broken(&allocating, true).len(), 1);
        let entering = text(100).replace("iomgr-vhd enters 1000", "iomgr-vhd enters 11000");
        assert_eq!(broken(&entering, true).len(), 1);
    }

    #[test]
    fn without_rublk_the_rest_is_still_held() {
        assert!(broken(&text(89), false).is_empty());
        assert!(!broken("", false).is_empty());
    }
}
