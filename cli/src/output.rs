//! Writing to stdout. A reader that went away is no error: `iomgr check … | head -1` ends as without `head`.
//!
//! Names of files may hold any bytes, also such as tell a terminal what to do. Control characters are shown escaped.

use std::borrow::Cow;
use std::io::{self, Write};

use serde::Serialize;

use crate::failure::Failure;

/// Writes `text`, which ends its own lines, and flushes it.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    try_print(&escaped(text, |letter| letter == '\n' || letter == '\t')).map(drop)
}

/// The same for text that is to be written as it is; is there still somebody who reads?
pub(crate) fn try_print(text: &str) -> Result<bool, Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::new("cannot write to stdout").because(error)),
    }
}

/// Writes one indented JSON document.
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).expect("the answers are plain data with text for keys");
    try_print(&format!("{text}\n")).map(drop)
}

/// Writes one JSON document on one line, for readers that take lines.
pub(crate) fn print_json_line(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).expect("the answers are plain data with text for keys");
    try_print(&format!("{text}\n")).map(drop)
}

/// Tells people something that is not the answer, on stderr.
pub(crate) fn note(text: &str) {
    // Who closed stderr does not want to know.
    let _ = writeln!(io::stderr(), "iomgr: {}", visible(text));
}

/// One line, whatever is in it.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    escaped(text, |_| false)
}

fn escaped(text: &str, may_stay: impl Fn(char) -> bool) -> Cow<'_, str> {
    let harmful = |letter: char| letter.is_control() && !may_stay(letter);
    if !text.contains(harmful) {
        return text.into();
    }
    let mut clean = String::new();
    for letter in text.chars() {
        match harmful(letter) {
            true => clean.extend(letter.escape_default()),
            false => clean.push(letter),
        }
    }
    clean.into()
}

/// Lines up the columns of `rows`, two blanks apart; the last column is not padded.
pub(crate) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| row.each_ref().map(|cell| visible(cell)))
        .collect();
    let width = |column: usize| {
        rows.iter()
            .map(|row: &[Cow<'_, str>; N]| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Two blanks before each line.
pub(crate) fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

/// Three digits that matter, and a unit.
pub(crate) fn microseconds(us: f64) -> String {
    let (value, unit) = match us {
        us if us < 1e3 => (us, "µs"),
        us if us < 1e6 => (us / 1e3, "ms"),
        us => (us / 1e6, "s"),
    };
    let digits = match value {
        value if value < 10.0 => 2,
        value if value < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let row = |a: &str, b: &str| [a.to_owned(), b.to_owned()];
        assert_eq!(table(&[row("a", "bb"), row("ccc", "")]), "a    bb\nccc\n");
    }

    #[test]
    fn what_would_steer_a_terminal_is_shown() {
        assert_eq!(visible("a\x1b[2J\nß\u{9b}"), "a\\u{1b}[2J\\nß\\u{9b}");
        let row = |a: &str| [a.to_owned(), String::new()];
        assert_eq!(table(&[row("a\n"), row("b")]), "a\\n\nb\n");
        assert!(matches!(
            escaped("a\tb\n", |letter| letter.is_whitespace()),
            Cow::Borrowed(_)
        ));
    }

    #[test]
    fn times_have_three_digits() {
        for (us, text) in [
            (0.0, "0.00 µs"),
            (9.876, "9.88 µs"),
            (99.4, "99.4 µs"),
            (1500.0, "1.50 ms"),
            (6e7, "60.0 s"),
        ] {
            assert_eq!(microseconds(us), text);
        }
    }
}
