//! What the driver is asked for, and whether it made that.
//!
//! It drops flags that it does not know, and cuts sizes down, without a word. Fewer queues and smaller buffers are served as
//! they are; everything else is refused.

use crate::abi::{DeviceInfo, DeviceState};
use crate::config::ServerConfig;
use crate::{Error, ErrorKind, Features};

/// The driver registers the pages of requests with the queue's ring when it delivers them, and takes them away again.
const ZERO_COPY: Features = Features::SUPPORT_ZERO_COPY.union(Features::AUTO_BUF_REG);
/// Features that change how requests are served.
const MODES: Features = ZERO_COPY.union(Features::USER_COPY).union(Features::NEED_GET_DATA);

/// What the driver is asked for, which knows these features.
pub(super) fn wanted(config: &ServerConfig, known: Features) -> DeviceInfo {
    let owned = match config.unprivileged {
        true => Features::UNPRIVILEGED_DEV,
        false => Features::empty(),
    };
    DeviceInfo {
        id: config.id.unwrap_or(DeviceInfo::ANY_ID),
        queues: config.queues,
        depth: config.depth,
        buffer_bytes: config.buffer_bytes,
        // The driver adds those that it always has.
        features: Features::CMD_IOCTL_ENCODE | mode(config) | config.recovery.features(known) | owned,
        state: DeviceState::Dead,
        server_pid: 0,
        mark: config.mark,
        owner: (0, 0),
    }
}

/// Can what it made be served?
pub(super) fn compare(wanted: &DeviceInfo, made: &DeviceInfo) -> Result<(), Error> {
    let refuse = |what: String| Err(Error::new(ErrorKind::Unsupported, what));
    let missing = wanted.features.difference(made.features);
    if missing == Features::UNPRIVILEGED_DEV && made.features.contains(Features::CMD_IOCTL_ENCODE) {
        return refuse("the ublk driver makes devices without privilege only for users without CAP_SYS_ADMIN".into());
    }
    if !missing.is_empty() {
        let mut names = String::new();
        // Writing to a string does not fail.
        let _ = bitflags::parser::to_writer(&missing, &mut names);
        let since = missing.since().map(|kernel| format!(", which {kernel} brought"));
        return refuse(format!("the ublk driver lacks {names}{}", since.unwrap_or_default()));
    }
    if made.depth != wanted.depth || !(1..=wanted.queues).contains(&made.queues) {
        return refuse(format!(
            "the ublk driver made {} queues of depth {} of the {} of depth {} that were asked for",
            made.queues, made.depth, wanted.queues, wanted.depth
        ));
    }
    if !made.buffer_bytes.is_power_of_two() || !(4096..=wanted.buffer_bytes).contains(&made.buffer_bytes) {
        return refuse(format!(
            "the ublk driver made requests of {} bytes of the {} that were asked for",
            made.buffer_bytes, wanted.buffer_bytes
        ));
    }
    check_mode(wanted.features, made)
}

/// How requests are to be served.
pub(super) fn mode(config: &ServerConfig) -> Features {
    match config.zero_copy {
        true => ZERO_COPY,
        false => Features::empty(),
    }
}

/// Is that how the driver will have them served?
pub(super) fn check_mode(wanted: Features, made: &DeviceInfo) -> Result<(), Error> {
    match made.features & MODES == wanted & MODES {
        false => Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "ublk device {} has another mode than the one in which it is to be served",
                made.id
            ),
        )),
        true => Ok(()),
    }
}
