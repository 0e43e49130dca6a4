//! Which ops a filter is about: kinds, and a range of bytes.

use std::fmt;
use std::ops::Range;

use super::text::{Field, size_text};
use super::{FilterOp, OpKinds};
use crate::Error;

/// Which ops a filter is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// `op=read+write`: ops of these kinds.
    pub kinds: OpKinds,
    /// `range=1MiB-2MiB`: of those that have a place, ops that touch a byte of these, from the start of the *file*; the end
    /// is not part of it. In an image with a format that is not where the disk's bytes are. `None`: wherever they are.
    pub range: Option<Range<u64>>,
}

impl Scope {
    /// Is it about this op?
    pub fn has(&self, op: &FilterOp<'_>) -> bool {
        let touches = |range: &Range<u64>| {
            let end = op.offset().saturating_add(op.len_bytes());
            op.kind() == OpKinds::FLUSH || op.offset() < range.end && range.start < end
        };
        self.kinds.contains(op.kind()) && self.range.as_ref().is_none_or(touches)
    }

    /// Takes a field that it knows; false for any other.
    pub(super) fn parse(&mut self, field: Field<'_>) -> Result<bool, Error> {
        match field.name {
            "op" => self.kinds = OpKinds::parse(field)?,
            "range" => self.range = Some(parse_range(field)?),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn parse_range(field: Field<'_>) -> Result<Range<u64>, Error> {
    let way_out = "say START-END in bytes or sizes such as 1MiB-2MiB, the end larger than the start";
    let (start, end) = field.value.split_once('-').ok_or_else(|| field.wrong(way_out))?;
    let range = field.size(start)?..field.size(end)?;
    if range.is_empty() {
        return Err(field.wrong(way_out));
    }
    Ok(range)
}

impl fmt::Display for Scope {
    /// As the text form has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "op={}", self.kinds)?;
        let Some(Range { start, end }) = &self.range else {
            return Ok(());
        };
        write!(f, ",range={}-{}", size_text(*start), size_text(*end))
    }
}
