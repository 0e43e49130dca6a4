//! What the ops of a disk's queue are called below.

use iomgr_core::{Owner, Token};

/// What a token of ours names, in its upper bits; the index is in the lower 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OpKind {
    /// Part of the request with this tag.
    Part,
    /// The flush that is under way.
    Flush,
    /// A bitmap for the request with this tag.
    Bitmap,
    /// A step of the allocator.
    Step,
}

impl OpKind {
    pub(super) fn token(self, owner: Owner, index: u32) -> Token {
        Token::new(owner, (self as u64) << 32 | u64::from(index))
    }

    pub(super) fn parse(token: Token) -> (Self, u32) {
        let kind = match token.value() >> 32 {
            0 => Self::Part,
            1 => Self::Flush,
            2 => Self::Bitmap,
            _ => Self::Step,
        };
        (
            kind,
            u32::try_from(token.value() & u64::from(u32::MAX)).expect("masked to 32 bits"),
        )
    }
}

/// The token of a step of the allocator.
pub(crate) fn step_token(owner: Owner, index: u32) -> Token {
    OpKind::Step.token(owner, index)
}
