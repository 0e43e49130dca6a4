//! How many tests passed, failed and were skipped, and why: one sum over several runs of several runners.

use std::collections::BTreeSet;
use std::fmt;

/// The sum. A test that printed `skipped: reason` counts as skipped, not as passed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Tests that the runner reports as passed, skipped ones included.
    pub(crate) ended_well: usize,
    /// Tests that failed, or timed out.
    pub(crate) failed: usize,
    /// Test and reason, each once.
    pub(crate) skips: BTreeSet<Skip>,
}

/// A test that could not run here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Skip {
    pub(crate) test: String,
    pub(crate) reason: String,
}

impl Skip {
    /// A skip that even CI may have: the folder of images by other tools is not part of a clone.
    pub(crate) fn is_allowed(&self) -> bool {
        self.reason.contains("../shared")
    }
}

impl Tally {
    /// Adds another run.
    pub(crate) fn add(&mut self, other: Tally) {
        self.ended_well += other.ended_well;
        self.failed += other.failed;
        self.skips.extend(other.skips);
    }

    /// Tests with at least one skip.
    pub(crate) fn skipped(&self) -> usize {
        self.skips.iter().map(|skip| &skip.test).collect::<BTreeSet<_>>().len()
    }

    /// Prints the reasons, then the sum, alone on the last line.
    pub(crate) fn print(&self) {
        if !self.skips.is_empty() {
            println!("\nskipped:");
        }
        for skip in &self.skips {
            println!("  {}: {}", skip.test, skip.reason);
        }
        println!("{self}");
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let skipped = self.skipped();
        let passed = self.ended_well.saturating_sub(skipped);
        write!(f, "{passed} passed, {} failed, {skipped} skipped", self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn skip(test: &str, reason: &str) -> Skip {
        Skip {
            test: test.into(),
            reason: reason.into(),
        }
    }

    #[test]
    fn a_test_with_two_reasons_is_skipped_once() {
        let skips = BTreeSet::from([skip("a", "no fio"), skip("a", "no qemu"), skip("b", "no fio")]);
        let tally = Tally {
            ended_well: 10,
            failed: 1,
            skips,
        };
        assert_eq!(tally.to_string(), "8 passed, 1 failed, 2 skipped");
    }

    #[test]
    fn only_the_missing_image_folder_is_an_allowed_skip() {
        assert!(skip("a", "../shared/vhd-images is not here").is_allowed());
        assert!(!skip("a", "no loop devices").is_allowed());
    }
}
