//! What the frontend refuses, with the way out where there is one.

use blkdev_ublk::ErrorKind as Kind;

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
