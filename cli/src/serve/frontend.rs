//! How clients reach the images: by a block device of this machine where that is possible, by NBD otherwise.

use clap::ValueEnum;

use crate::failure::Failure;

/// What the user wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Wanted {
    Auto,
    Ublk,
    Nbd,
}

/// What it comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frontend {
    Ublk,
    /// And why it is not ublk, if anybody might wonder.
    Nbd(Option<String>),
}

impl Frontend {
    /// `only_nbd` is what was asked for that NBD alone can do; `ublk` tells why it cannot be had.
    pub(super) fn choose(
        wanted: Wanted,
        only_nbd: Option<&str>,
        ublk: impl FnOnce() -> Result<(), vbd::Error>,
    ) -> Result<Self, Failure> {
        let frontend = match (wanted, only_nbd) {
            (Wanted::Nbd, _) => Self::Nbd(None),
            (Wanted::Auto, Some(what)) => Self::Nbd(Some(format!("{what} is for NBD alone"))),
            (Wanted::Ublk, Some(what)) => {
                let what = format!("--frontend ublk: {what} is for NBD alone");
                return Err(Failure::new(what).exit(super::EXIT_USAGE));
            }
            (Wanted::Auto, None) => match ublk() {
                Ok(()) => Self::Ublk,
                // Its way out is NBD.
                Err(error) => Self::Nbd(Some(error.parts().what.to_owned())),
            },
            (Wanted::Ublk, None) => {
                ublk()?;
                Self::Ublk
            }
        };
        Ok(frontend)
    }
}

#[cfg(test)]
mod tests {
    use vbd::{Error, ErrorKind};

    use super::*;

    fn absent() -> Result<(), Error> {
        Err(Error::new(ErrorKind::Server, "no driver"))
    }

    fn choose(wanted: Wanted, only_nbd: Option<&str>, ublk: fn() -> Result<(), Error>) -> Option<Frontend> {
        Frontend::choose(wanted, only_nbd, ublk).ok()
    }

    fn nbd(why: &str) -> Option<Frontend> {
        Some(Frontend::Nbd(Some(why.to_owned())))
    }

    #[test]
    fn a_block_device_where_that_is_possible() {
        assert_eq!(choose(Wanted::Auto, None, || Ok(())), Some(Frontend::Ublk));
        assert_eq!(choose(Wanted::Auto, None, absent), nbd("no driver"));
        assert_eq!(
            choose(Wanted::Auto, Some("--listen"), || Ok(())),
            nbd("--listen is for NBD alone")
        );
    }

    #[test]
    fn what_is_asked_for_or_nothing() {
        assert_eq!(choose(Wanted::Ublk, None, || Ok(())), Some(Frontend::Ublk));
        assert_eq!(choose(Wanted::Ublk, None, absent), None);
        assert_eq!(choose(Wanted::Ublk, Some("--listen"), || Ok(())), None);
        assert_eq!(choose(Wanted::Nbd, None, || Ok(())), Some(Frontend::Nbd(None)));
    }
}
