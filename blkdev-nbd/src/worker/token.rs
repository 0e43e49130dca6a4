//! The names of the frontend's own ops.

use iomgr_core::{Owner, Token};

/// The frontend's owner number; device queues have those from 1.
pub(super) const FRONTEND: Owner = Owner(0);

/// What a completion of the frontend is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NetOp {
    /// Bytes came on this connection, or it ended.
    Recv(u32),
    /// Bytes went out on this connection, or it broke.
    Send(u32),
    /// The eventfd counted.
    Wake,
    /// Somebody connects to this listener.
    Accept(u32),
    /// Time to try accepting from this listener again.
    AcceptRetry(u32),
    /// Time to look who takes too long.
    Tick,
    /// Time to look whom we have left unheard.
    Resume,
}

impl NetOp {
    pub(super) fn token(self) -> Token {
        let (kind, index) = match self {
            Self::Recv(conn) => (0, conn),
            Self::Send(conn) => (1, conn),
            Self::Wake => (2, 0),
            Self::Accept(listener) => (3, listener),
            Self::AcceptRetry(listener) => (4, listener),
            Self::Tick => (5, 0),
            Self::Resume => (6, 0),
        };
        Token::new(FRONTEND, kind << 32 | u64::from(index))
    }

    /// # Panics
    /// If the token is none of the frontend's.
    pub(super) fn of(token: Token) -> Self {
        let index = u32::try_from(token.value() & u64::from(u32::MAX)).expect("32 bits");
        match token.value() >> 32 {
            0 => Self::Recv(index),
            1 => Self::Send(index),
            2 => Self::Wake,
            3 => Self::Accept(index),
            4 => Self::AcceptRetry(index),
            5 => Self::Tick,
            6 => Self::Resume,
            kind => panic!("no frontend op has kind {kind}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_name_their_ops() {
        for op in [
            NetOp::Recv(0),
            NetOp::Recv(u32::MAX),
            NetOp::Send(7),
            NetOp::Wake,
            NetOp::Accept(1),
            NetOp::AcceptRetry(2),
            NetOp::Tick,
            NetOp::Resume,
        ] {
            assert_eq!(NetOp::of(op.token()), op);
            assert_eq!(op.token().owner(), FRONTEND);
        }
    }
}
