//! Metadata contexts: which there are, and which of them a client's queries name.
//!
//! ```text
//!  LIST_META_CONTEXT, SET_META_CONTEXT
//!          | name length u32 | name … | count u32 | (length u32 | query …) … |
//! ```
//!
//! There is one, `base:allocation`.

use super::option::OptionCode;

/// The name of the context that tells holes and zeros.
pub const ALLOCATION_CONTEXT: &str = "base:allocation";

/// Its number on the wire. Any would do, as long as it stays the same on a connection.
pub const ALLOCATION_CONTEXT_ID: u32 = 1;

/// All contexts of the namespace `base`; a wildcard for `LIST` only.
const BASE_WILDCARD: &[u8] = b"base:";

/// What an option asks of the contexts of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MetaQuery<'a> {
    /// The export's name.
    pub(super) name: &'a [u8],
    count: u32,
    queries: &'a [u8],
}

impl<'a> MetaQuery<'a> {
    /// Takes an option's data apart; `None` if lengths disagree.
    pub(super) fn parse(data: &'a [u8]) -> Option<Self> {
        let (name, rest) = split_text(data)?;
        let (count, queries) = rest.split_first_chunk::<4>()?;
        let query = Self {
            name,
            count: u32::from_be_bytes(*count),
            queries,
        };
        query.is_whole().then_some(query)
    }

    /// Is `base:allocation` among what is asked for? Queries that nobody knows are ignored.
    pub(super) fn names_allocation(&self, option: OptionCode) -> bool {
        let lists = option == OptionCode::ListMetaContext;
        let named = |query: &[u8]| query == ALLOCATION_CONTEXT.as_bytes() || (lists && query == BASE_WILDCARD);
        (lists && self.count == 0) || self.iter().any(named)
    }

    /// Are there as many queries as was said, and nothing else?
    fn is_whole(&self) -> bool {
        let bytes: usize = self.iter().map(|query| 4 + query.len()).sum();
        bytes == self.queries.len() && self.iter().count() == self.count as usize
    }

    fn iter(&self) -> impl Iterator<Item = &'a [u8]> {
        let mut rest = self.queries;
        std::iter::from_fn(move || {
            let (query, tail) = split_text(rest)?;
            rest = tail;
            Some(query)
        })
    }
}

/// A string behind its length, and what follows.
fn split_text(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = data.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_be_bytes(*len) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use OptionCode::{ListMetaContext, SetMetaContext};

    /// `count` and `queries` for the export "e".
    fn data(count: u32, queries: &[&str]) -> Vec<u8> {
        let mut out = b"\0\0\0\x01e".to_vec();
        out.extend_from_slice(&count.to_be_bytes());
        for query in queries {
            out.extend_from_slice(&u32::try_from(query.len()).unwrap().to_be_bytes());
            out.extend_from_slice(query.as_bytes());
        }
        out
    }

    fn names(option: OptionCode, queries: &[&str]) -> bool {
        let data = data(u32::try_from(queries.len()).unwrap(), queries);
        MetaQuery::parse(&data).unwrap().names_allocation(option)
    }

    #[test]
    fn wildcards_are_for_lists() {
        for (queries, list, set) in [
            (&[][..], true, false),
            (&["base:"], true, false),
            (&["base:allocation"], true, true),
            (&["qemu:dirty", "base:allocation"], true, true),
            (&["base:alloc", "", "base:allocation2"], false, false),
        ] {
            assert_eq!(names(ListMetaContext, queries), list, "{queries:?}");
            assert_eq!(names(SetMetaContext, queries), set, "{queries:?}");
        }
    }

    #[test]
    fn lengths_must_agree() {
        assert!(MetaQuery::parse(&data(1, &["base:"])).is_some());
        assert!(MetaQuery::parse(&data(2, &["base:"])).is_none(), "one too few");
        assert!(MetaQuery::parse(&data(0, &["base:"])).is_none(), "one too many");
        assert!(MetaQuery::parse(&data(u32::MAX, &[])).is_none());
        let whole = data(1, &["base:"]);
        assert!((0..whole.len()).all(|len| MetaQuery::parse(&whole[..len]).is_none()));
        assert!(MetaQuery::parse(&[whole, vec![0]].concat()).is_none());
    }
}
