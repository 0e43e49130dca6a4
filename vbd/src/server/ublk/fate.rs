//! What becomes of a block device when its server ends: the first wish counts, and who wishes something else is refused.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};

use crate::error::{Error, ErrorKind};

/// How it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It goes away.
    Delete,
    /// The next server has it.
    Leave,
}

/// Where that is decided, once. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Decision(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    fate: OnceLock<Fate>,
    /// Held by who looks first whether it can be had. The end itself does not wait for that.
    trying: Mutex<()>,
}

/// The right to decide after a look.
pub(super) struct Trial<'a>(#[expect(dead_code, reason = "dropping it lets others try")] MutexGuard<'a, ()>);

impl Decision {
    /// It is to be that.
    ///
    /// # Errors
    /// `State`: it is to be something else.
    pub(super) fn make(&self, fate: Fate, device: &Path) -> Result<(), Error> {
        match *self.0.fate.get_or_init(|| fate) == fate {
            true => Ok(()),
            false => Err(fate.refused(device)),
        }
    }

    /// At the end it goes away, if nothing else was decided.
    pub(super) fn at_the_end(&self) -> Fate {
        *self.0.fate.get_or_init(|| Fate::Delete)
    }

    /// Nobody else tries anything meanwhile.
    ///
    /// # Errors
    /// `State`: somebody does, or it is to be something else.
    pub(super) fn attempt(&self, fate: Fate, device: &Path) -> Result<Trial<'_>, Error> {
        let trial = match self.0.trying.try_lock() {
            Ok(guard) => Trial(guard),
            Err(TryLockError::Poisoned(poisoned)) => Trial(PoisonError::into_inner(poisoned)),
            Err(TryLockError::WouldBlock) => {
                let what = "is being stopped or handed over right now, by somebody else";
                return Err(Error::new(ErrorKind::State, what).at(device).hint("try again"));
            }
        };
        match self.0.fate.get() {
            Some(&decided) if decided != fate => Err(fate.refused(device)),
            _ => Ok(trial),
        }
    }
}

impl Fate {
    /// Why it cannot be had any more.
    fn refused(self, device: &Path) -> Error {
        let (what, hint) = match self {
            Self::Delete => (
                "is being handed over to another server, and stays",
                "try again when that serves it",
            ),
            Self::Leave => ("is being stopped, and is not handed over", "add it again"),
        };
        Error::new(ErrorKind::State, what).at(device).hint(hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: &str = "/dev/ublkb0";

    fn device() -> &'static Path {
        Path::new(DEVICE)
    }

    #[test]
    fn the_first_wish_counts() {
        for (first, other) in [(Fate::Delete, Fate::Leave), (Fate::Leave, Fate::Delete)] {
            let decision = Decision::default();
            decision.make(first, device()).unwrap();
            decision.make(first, device()).unwrap();
            for refused in [
                decision.make(other, device()),
                decision.attempt(other, device()).map(drop),
            ] {
                let refused = refused.unwrap_err();
                assert_eq!(refused.kind(), ErrorKind::State);
                assert!(refused.to_string().starts_with(DEVICE), "{refused}");
            }
            assert_eq!(decision.clone().at_the_end(), first);
        }
    }

    #[test]
    fn a_server_that_ends_by_itself_hands_nothing_over_any_more() {
        let decision = Decision::default();
        assert_eq!(decision.at_the_end(), Fate::Delete);
        decision.make(Fate::Leave, device()).unwrap_err();
    }

    /// What a careful stop waits for may come to nothing; until it is known, nobody gets a promise. The end does not wait.
    #[test]
    fn while_one_tries_the_others_are_refused() {
        let decision = Decision::default();
        let trial = decision.attempt(Fate::Delete, device()).unwrap();
        decision.attempt(Fate::Leave, device()).map(drop).unwrap_err();
        drop(trial);
        let trial = decision.attempt(Fate::Leave, device()).unwrap();
        assert_eq!(decision.at_the_end(), Fate::Delete);
        drop(trial);
        decision.make(Fate::Leave, device()).unwrap_err();
    }
}
