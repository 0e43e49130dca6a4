//! Kinds of disk ops, as filters name them.

use std::fmt;

use iomgr_core::Action;

use super::text::{self, Field};
use crate::Error;

bitflags::bitflags! {
    /// Kinds of disk ops.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct OpKinds: u8 {
        /// `read`.
        const READ = 1 << 0;
        /// `write`.
        const WRITE = 1 << 1;
        /// `flush`.
        const FLUSH = 1 << 2;
        /// `discard`.
        const DISCARD = 1 << 3;
        /// `zero`: write-zeroes.
        const ZERO = 1 << 4;
        /// `prefetch`.
        const PREFETCH = 1 << 5;
    }
}

impl OpKinds {
    /// The kind of an op: one flag.
    pub fn of(action: &Action) -> Self {
        match action {
            Action::Read { .. } => Self::READ,
            Action::Write { .. } => Self::WRITE,
            Action::Flush => Self::FLUSH,
            Action::Discard { .. } => Self::DISCARD,
            Action::WriteZeroes { .. } => Self::ZERO,
            Action::Prefetch { .. } => Self::PREFETCH,
        }
    }

    /// Reads `write`, or `read+write`, or `all`.
    pub(super) fn parse(field: Field<'_>) -> Result<Self, Error> {
        if field.value == "all" {
            return Ok(Self::all());
        }
        let kinds = field.value.split('+').map(|name| {
            let kind = Self::from_name(&name.to_uppercase()).filter(|_| text::is_lower(name));
            kind.ok_or_else(|| {
                field.wrong("say read, write, flush, discard, zero, prefetch, several as read+write, or all")
            })
        });
        kinds.collect()
    }
}

impl fmt::Display for OpKinds {
    /// As the text form has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_all() {
            return f.write_str("all");
        }
        for (at, (name, _)) in self.iter_names().enumerate() {
            let plus = if at == 0 { "" } else { "+" };
            write!(f, "{plus}{}", name.to_lowercase())?;
        }
        Ok(())
    }
}
