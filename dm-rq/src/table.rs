//! Tables as text: one line per target, as dmsetup takes and shows them.
//!
//! ```text
//!  start length target  arguments of the target
//!  0     2048   linear  /images/a.img 0
//!  2048  1024   zero
//! ```
//!
//! # Contract
//! - The lines of a table begin at sector 0 and follow one another without gap or overlap.
//! - What a target makes of its arguments is the target's business; here they are words.
//! - Parsing what was printed gives the same table.

use std::fmt;
use std::str::FromStr;

use iomgr_core::{Sector, SectorCount, SectorRange};

use crate::{Error, ErrorKind};

/// One line: which sectors go to which target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableLine {
    /// The sectors, as the mapped device counts them. Never empty.
    pub range: SectorRange,
    /// The target's name.
    pub target: String,
    /// The target's arguments.
    pub args: Vec<String>,
}

/// Lines that cover a device from its first sector to its last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table(Vec<TableLine>);

impl Table {
    /// Makes a table of lines, if they make one.
    pub fn new(lines: Vec<TableLine>) -> Result<Self, Error> {
        check((1..).zip(&lines))?;
        Ok(Self(lines))
    }

    /// Its lines, in ascending order.
    pub fn lines(&self) -> &[TableLine] {
        &self.0
    }

    /// The size of a device with this table.
    pub fn size(&self) -> SectorCount {
        SectorCount(self.0.last().map_or(0, |line| line.range.end().0))
    }

    /// The line that a sector belongs to; `None` past the end.
    pub fn find(&self, sector: Sector) -> Option<&TableLine> {
        let index = self.0.partition_point(|line| line.range.end() <= sector);
        self.0.get(index)
    }
}

/// Do the lines, each with its number, make a table?
fn check<'a>(lines: impl Iterator<Item = (usize, &'a TableLine)>) -> Result<(), Error> {
    let mut end = None;
    for (number, line) in lines {
        check_follows(line.range, end.unwrap_or(Sector(0))).map_err(|error| error.at_line(number))?;
        end = Some(line.range.end());
    }
    end.map(|_| ())
        .ok_or_else(|| Error::new(ErrorKind::Empty, "a table has at least one line"))
}

fn check_follows(range: SectorRange, end: Sector) -> Result<(), Error> {
    let fault = |kind, what| {
        Err(Error::new(
            kind,
            format!("it begins at {}, {what} {end}", range.start()),
        ))
    };
    match range.start() {
        _ if range.is_empty() => Err(Error::new(ErrorKind::BadRange, "it covers no sectors")),
        start if start < end => fault(ErrorKind::Overlap, "before the line above ends, at"),
        start if start > end => fault(ErrorKind::Gap, "and nothing covers what comes before, from"),
        _ => Ok(()),
    }
}

impl FromStr for Table {
    type Err = Error;

    /// Empty lines are passed over, and count.
    fn from_str(text: &str) -> Result<Self, Error> {
        let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
        let parse = |(number, line): (usize, &str)| match line.parse() {
            Ok(line) => Ok((number, line)),
            Err(error) => Err(Error::at_line(error, number)),
        };
        let lines = lines.map(parse).collect::<Result<Vec<_>, _>>()?;
        check(lines.iter().map(|(number, line)| (*number, line)))?;
        Ok(Self(lines.into_iter().map(|(_, line)| line).collect()))
    }
}

impl FromStr for TableLine {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut words = text.split_whitespace();
        let (Some(start), Some(length), Some(target)) = (words.next(), words.next(), words.next()) else {
            return Err(Error::new(ErrorKind::Syntax, "it takes a start, a length and a target"));
        };
        let (start, length) = (number(start)?, number(length)?);
        let range = SectorRange::new(Sector(start), SectorCount(length)).filter(|range| !range.is_empty());
        let bad_range = || {
            Error::new(
                ErrorKind::BadRange,
                format!("{start} and {length} make no range of sectors"),
            )
        };
        let args = words.map(str::to_owned).collect();
        Ok(Self {
            range: range.ok_or_else(bad_range)?,
            target: target.to_owned(),
            args,
        })
    }
}

/// Decimal digits and nothing else: no sign, as in dmsetup.
fn number(word: &str) -> Result<u64, Error> {
    let digits = word.bytes().all(|byte| byte.is_ascii_digit());
    let value = digits.then(|| word.parse().ok()).flatten();
    value.ok_or_else(|| Error::new(ErrorKind::Syntax, format!("{word:?} is no number of sectors")))
}

impl fmt::Display for TableLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.range.start().0, self.range.count().0, self.target)?;
        self.args.iter().try_for_each(|arg| write!(f, " {arg}"))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn refused(text: &str, kind: ErrorKind, says: &str) {
        let error = text.parse::<Table>().unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (kind, says));
    }

    #[test]
    fn a_line_is_start_length_target_and_arguments() {
        let line: TableLine = " 2048\t1024 linear  /images/a.img 16 ".parse().unwrap();
        assert_eq!(
            (line.range.start(), line.range.count()),
            (Sector(2048), SectorCount(1024))
        );
        assert_eq!(
            (line.target.as_str(), line.args),
            ("linear", vec!["/images/a.img".into(), "16".into()])
        );
    }

    #[test]
    fn a_bad_line_is_named() {
        refused(
            "0 8 zero\n\n8 zero",
            ErrorKind::Syntax,
            "line 3: it takes a start, a length and a target",
        );
        refused("0 -8 zero", ErrorKind::Syntax, "line 1: \"-8\" is no number of sectors");
        refused("0 +8 zero", ErrorKind::Syntax, "line 1: \"+8\" is no number of sectors");
        refused(
            "0 0x8 zero",
            ErrorKind::Syntax,
            "line 1: \"0x8\" is no number of sectors",
        );
        refused(
            "0 0 zero",
            ErrorKind::BadRange,
            "line 1: 0 and 0 make no range of sectors",
        );
        let past_64_bits = format!("1 {} zero", u64::MAX);
        let says = format!("line 1: 1 and {} make no range of sectors", u64::MAX);
        refused(&past_64_bits, ErrorKind::BadRange, &says);
    }

    #[test]
    fn lines_follow_one_another() {
        refused("", ErrorKind::Empty, "a table has at least one line");
        refused(
            "8 8 zero",
            ErrorKind::Gap,
            "line 1: it begins at sector 8, and nothing covers what comes before, from sector 0",
        );
        refused(
            "0 8 zero\n7 8 zero",
            ErrorKind::Overlap,
            "line 2: it begins at sector 7, before the line above ends, at sector 8",
        );
        refused(
            "0 8 zero\n\n9 8 zero",
            ErrorKind::Gap,
            "line 3: it begins at sector 9, and nothing covers what comes before, from sector 8",
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_printed_parses_and_every_sector_has_its_line(lengths in prop::collection::vec(1..50u64, 1..20)) {
            let mut text = String::new();
            let mut owners = Vec::new();
            for (index, length) in lengths.iter().enumerate() {
                text += &format!("{} {length} target{index} a b\n", owners.len());
                owners.extend((0..*length).map(|_| format!("target{index}")));
            }
            let table: Table = text.parse().unwrap();
            prop_assert_eq!(table.to_string(), text);
            prop_assert_eq!(table.size().0, owners.len() as u64);
            for (sector, owner) in (0..).zip(&owners) {
                prop_assert_eq!(&table.find(Sector(sector)).unwrap().target, owner);
            }
            prop_assert_eq!(table.find(Sector(owners.len() as u64)), None);
        }

        #[test]
        fn any_text_is_a_table_or_a_clear_error(text in "([0-9]{0,3}[ \n]|[a-z]{1,4}[ \n]){0,12}") {
            match text.parse::<Table>() {
                Ok(table) => prop_assert_eq!(table.to_string().parse::<Table>().unwrap(), table),
                Err(error) => prop_assert!(!error.to_string().is_empty()),
            }
        }
    }
}
