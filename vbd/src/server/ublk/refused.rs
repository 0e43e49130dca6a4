//! Devices that the driver, or a part of theirs, does not go with.

use blkdev_ublk::ErrorKind as Kind;

use super::{UblkOptions, failed};
use crate::error::Error;

/// The way out of what zero copy cannot do.
const COPY: &str = "without --zero-copy the driver copies, which every kernel and every part of a device can do";

/// Why a device with these options is not there.
pub(super) fn not_added(error: blkdev_ublk::Error, options: &UblkOptions) -> Error {
    match error.kind() {
        Kind::Config | Kind::Unsupported if options.zero_copy => failed(error).hint(COPY),
        _ => failed(error),
    }
}
