//! What the frontend refuses, with the way out where there is one.

use blkdev_ublk::{ErrorKind as Kind, Recovery, block_path};

use super::UblkOptions;
use crate::error::{Error, ErrorKind};

/// The way out of what zero copy cannot do.
const COPY: &str = "without --zero-copy the driver copies, which every kernel and every part of a device can do";

/// Why a device with these options is not there.
pub(super) fn not_added(error: blkdev_ublk::Error, options: &UblkOptions) -> Error {
    match error.kind() {
        Kind::Config | Kind::Unsupported if options.zero_copy => failed(error).hint(COPY),
        _ => failed(error),
    }
}

/// Can a device be handed over to another server with no request failing?
pub(super) fn check_hand_over(id: u32, recovery: Recovery) -> Result<(), Error> {
    let why = match recovery {
        Recovery::Reissue => return Ok(()),
        Recovery::Fail => "--recovery fail: requests that come while its server ends would fail",
        Recovery::Off => "--recovery off: it goes away with its server",
    };
    let what = format!("{} was added with {why}", block_path(id).display());
    let way_out = format!(
        "a hand-over takes --recovery reissue, the default; `iomgr del -n {id}` and `iomgr add` bring this device to another program"
    );
    Err(Error::new(ErrorKind::Unsupported, what).hint(way_out))
}

/// An error of the frontend's, with the way out where there is one without ublk.
pub(crate) fn failed(error: blkdev_ublk::Error) -> Error {
    const NBD: &str = "`iomgr serve IMAGE` serves an image over NBD, which needs no driver and no privilege";
    let (kind, hint) = match error.kind() {
        Kind::Config => (ErrorKind::InvalidOption, None),
        Kind::NoDriver | Kind::Denied | Kind::Unsupported | Kind::BadKernel => (ErrorKind::Server, Some(NBD)),
        Kind::Taken | Kind::Full | Kind::NotFound => {
            (ErrorKind::Server, Some("`iomgr list --ublk` shows those there are"))
        }
        _ => (ErrorKind::Server, None),
    };
    let what = error.to_string();
    let cause = error.into_source();
    let mut error = Error::new(kind, what);
    if let Some(hint) = hint {
        error = error.hint(hint);
    }
    match cause {
        Some(cause) => error.because(cause),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_device_that_keeps_its_requests_is_handed_over() {
        check_hand_over(3, Recovery::Reissue).unwrap();
        for (recovery, name) in [(Recovery::Fail, "--recovery fail"), (Recovery::Off, "--recovery off")] {
            let refused = check_hand_over(3, recovery).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Unsupported);
            let what = refused.to_string();
            assert!(what.contains("/dev/ublkb3") && what.contains(name), "{what}");
            assert!(
                what.contains("--recovery reissue") && what.contains("`iomgr del -n 3`"),
                "{what}"
            );
        }
    }
}
