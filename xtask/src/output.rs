//! Reading what test runners print: totals, and tests that say `skipped: reason`.
//!
//! The convention for tests is one printed line, `skipped: reason`. libtest shows it with `--show-output`, after a
//! line with the test's name; nextest keeps it in its JUnit report.

use crate::tally::{Skip, Tally};

/// What a test prints when it cannot run here.
const SKIPPED: &str = "skipped: ";

/// Collects totals and skips from the lines of `cargo test` and `cargo nextest run`.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    tally: Tally,
    /// The test whose captured output is being shown.
    test: String,
}

impl Reader {
    /// Looks at one line.
    pub(crate) fn line(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix("test result: ") {
            self.libtest_totals(rest);
        } else if let Some((_, totals)) = line
            .split_once(" run: ")
            .filter(|_| line.trim_start().starts_with("Summary"))
        {
            self.nextest_totals(totals);
        } else if let Some(name) = line
            .strip_prefix("---- ")
            .and_then(|rest| rest.strip_suffix(" stdout ----"))
        {
            name.clone_into(&mut self.test);
        } else if let Some(reason) = line.strip_prefix(SKIPPED) {
            self.skip(reason);
        }
    }

    /// Looks at nextest's JUnit report for skips; its totals are in the output already.
    pub(crate) fn junit(&mut self, xml: &str) {
        for line in xml.lines() {
            if let Some(name) = attribute(line, "testcase name") {
                self.test = unescaped(name);
            }
            let text = without_tags(line);
            if let Some(reason) = text.trim().strip_prefix(SKIPPED) {
                self.skip(&unescaped(reason));
            }
        }
    }

    /// The sum so far.
    pub(crate) fn finish(self) -> Tally {
        self.tally
    }

    fn skip(&mut self, reason: &str) {
        self.tally.skips.insert(Skip {
            test: self.test.clone(),
            reason: reason.trim().to_owned(),
        });
    }

    /// `ok. 5 passed; 0 failed; 0 ignored; …`
    fn libtest_totals(&mut self, totals: &str) {
        let totals = totals.split_once(". ").map_or(totals, |(_, rest)| rest);
        for (count, what) in counts(totals, ';') {
            match what {
                "passed" => self.tally.ended_well += count,
                "failed" => self.tally.failed += count,
                _ => {}
            }
        }
    }

    /// `5 passed (1 slow), 1 failed, 1 timed out, 3 skipped`; "skipped" are those that a filter left out.
    fn nextest_totals(&mut self, totals: &str) {
        for (count, what) in counts(totals, ',') {
            match what.split(" (").next().unwrap_or(what) {
                "passed" => self.tally.ended_well += count,
                "failed" | "timed out" | "exec failed" => self.tally.failed += count,
                _ => {}
            }
        }
    }
}

/// `5 passed; 0 failed` → (5, "passed"), (0, "failed")
fn counts(text: &str, separator: char) -> impl Iterator<Item = (usize, &str)> {
    text.split(separator).filter_map(|part| {
        let (count, what) = part.trim().split_once(' ')?;
        Some((count.parse().ok()?, what))
    })
}

fn attribute<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let rest = line.split_once(&format!("{name}=\""))?.1;
    Some(rest.split_once('"')?.0)
}

/// The text of a line of XML; a `<` of the text itself is escaped there.
fn without_tags(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut inside = false;
    for c in line.chars() {
        match c {
            '<' => inside = true,
            '>' => inside = false,
            c if !inside => text.push(c),
            _ => {}
        }
    }
    text
}

fn unescaped(text: &str) -> String {
    text.replace("&quot;", "\"")
        .replace("&apos;", "'")
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &str) -> Tally {
        let mut reader = Reader::default();
        lines.lines().for_each(|line| reader.line(line));
        reader.finish()
    }

    #[test]
    fn libtest_totals_are_summed_over_binaries() {
        let tally = read(
            "test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
             test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        );
        assert_eq!(tally.to_string(), "7 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn libtest_skips_carry_the_test_that_printed_them() {
        let tally = read("---- nbd::nbd_copy stdout ----\nskipped: no nbdcopy\n\ntest result: ok. 3 passed; 0 failed");
        assert_eq!(tally.to_string(), "2 passed, 0 failed, 1 skipped");
        assert_eq!(tally.skips.first().unwrap().test, "nbd::nbd_copy");
    }

    #[test]
    fn nextest_totals_count_time_outs_as_failures() {
        let tally = read(
            "     Summary [   1.2s] 9/12 tests run: 7 passed (1 slow), 1 failed, 1 timed out, 3 skipped\n\
             a test prints: 3 tests run: 3 passed",
        );
        assert_eq!(tally.to_string(), "7 passed, 2 failed, 0 skipped");
    }

    #[test]
    fn nextest_skips_are_in_the_junit_report() {
        let xml = "<testcase name=\"nbd::nbd_copy\" classname=\"iomgr-tests::it\" time=\"0.0\">\n\
                   <system-out>\nrunning 1 test\nskipped: no &quot;nbdcopy&quot;\ntest x ... ok\n</system-out>\n</testcase>\n\
                   <testcase name=\"b\" classname=\"c\"><system-out>skipped: too</system-out></testcase>";
        let mut reader = Reader::default();
        reader.junit(xml);
        let skips: Vec<_> = reader
            .finish()
            .skips
            .into_iter()
            .map(|skip| (skip.test, skip.reason))
            .collect();
        let expected = [("b", "too"), ("nbd::nbd_copy", "no \"nbdcopy\"")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(skips, expected);
    }
}
