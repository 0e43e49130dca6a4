//! What the lines of a guest come to.

use crate::guest::Outcome;
use crate::tally::{Skip, Tally};

/// A script, as its lines are read.
#[derive(Debug, Default)]
struct Seen {
    ended_well: usize,
    failed: usize,
    /// Did the script's exit status say what its lines say? What comes after it is the runner's.
    ended: Option<Result<(), String>>,
}

/// Counts the lines of each script; one that ended otherwise than they say has failed as well, and so has one that did not come.
pub(super) fn judge(names: &[&str], text: &str, outcome: &Outcome) -> Tally {
    let mut tally = Tally::default();
    let mut parts = text.split("== guest::").skip(1).peekable();
    for name in names {
        match parts.next_if(|part| part.lines().next().map(str::trim_end) == name.strip_prefix("guest::")) {
            Some(part) => tally.add(judge_script(name, part, outcome)),
            None => tally.add(failure(name, &format!("was not run: the guest ended by {outcome:?}"))),
        }
    }
    tally
}

fn judge_script(name: &str, text: &str, outcome: &Outcome) -> Tally {
    let (mut tally, mut seen) = (Tally::default(), Seen::default());
    for line in text.lines().map(str::trim_end) {
        if let Some(test) = line.strip_prefix("ok ") {
            seen.ended_well += 1;
            if let Some((test, reason)) = test.split_once(" # SKIP ") {
                tally.skips.insert(skip(&format!("{name} {test}"), reason));
            }
        } else if line.starts_with("not ok ") {
            seen.failed += 1;
        } else if let Some(exit) = line.strip_prefix("== exit ") {
            let expected = u8::from(seen.failed > 0).to_string();
            let agrees = exit == expected;
            seen.ended = Some(match agrees {
                true => Ok(()),
                false => Err(format!("ended with {exit}, not with {expected}")),
            });
        }
    }
    (tally.ended_well, tally.failed) = (seen.ended_well, seen.failed);
    match seen.ended {
        None => tally.add(failure(name, &format!("did not end: the guest ended by {outcome:?}"))),
        Some(Err(otherwise)) => tally.add(failure(name, &otherwise)),
        Some(Ok(())) if seen.ended_well + seen.failed == 0 => tally.add(failure(name, "tested nothing")),
        Some(Ok(())) => {}
    }
    tally
}

/// One test that has failed.
pub(super) fn failure(name: &str, reason: &str) -> Tally {
    println!("not ok {name}: {reason}");
    Tally {
        failed: 1,
        ..Tally::default()
    }
}

/// One that cannot run here.
pub(super) fn skipped(name: &str, reason: String) -> Tally {
    println!("skipped: {reason}");
    Tally {
        ended_well: 1,
        skips: [skip(name, &reason)].into(),
        ..Tally::default()
    }
}

fn skip(test: &str, reason: &str) -> Skip {
    Skip {
        test: test.to_owned(),
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(lines: &str, exit: &str) -> String {
        let text = format!("== guest::x\n{lines}{exit}");
        judge(&["guest::x"], &text, &Outcome::Exit(0)).to_string()
    }

    #[test]
    fn lines_are_counted_and_the_end_must_agree_with_them() {
        let lines = "ok a\nok b # SKIP no such thing\n  why\nok then c\r\n";
        assert_eq!(sum(lines, "== exit 0\r\n"), "2 passed, 0 failed, 1 skipped");
        assert_eq!(sum("ok a\nnot ok b\n", "== exit 1\n"), "1 passed, 1 failed, 0 skipped");
        assert_eq!(sum("ok a\n", "== exit 1\n"), "1 passed, 1 failed, 0 skipped");
        assert_eq!(sum("ok a\n", ""), "1 passed, 1 failed, 0 skipped");
        assert_eq!(sum("", "== exit 0\n"), "0 passed, 1 failed, 0 skipped");
        let left = "== exit 0\nnot ok x leaves nothing behind\n";
        assert_eq!(sum("ok a\n", left), "1 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn a_script_that_did_not_come_has_failed() {
        let text = "== guest::a\nok a\n== exit 0\n== guest::c\nok c\n";
        let sum = judge(&["guest::a", "guest::b", "guest::c"], text, &Outcome::OutOfTime);
        assert_eq!(sum.to_string(), "2 passed, 2 failed, 0 skipped");
    }
}
