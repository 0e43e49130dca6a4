//! What a device is (`struct ublksrv_ctrl_dev_info`): asked for by `ADD_DEV`, and told by it and by `GET_DEV_INFO`.

use std::fmt;

use super::bytes::{Put, Take};
use crate::Features;

/// What a device is, as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its number; [`DeviceInfo::ANY_ID`] asks for any that is free.
    pub id: u32,
    /// Hardware queues.
    pub queues: u16,
    /// Tags of each.
    pub depth: u16,
    /// Bytes of the largest request.
    pub buffer_bytes: u32,
    /// What it was made with.
    pub features: Features,
    /// Where it is in its life.
    pub state: DeviceState,
    /// The process that serves it; 0 or less if there is none.
    pub server_pid: i32,
    /// What its maker wrote on it, which the kernel keeps and does not look at (`ublksrv_flags`).
    pub mark: u64,
    /// Who owns it, if it is unprivileged.
    pub owner: (u32, u32),
}

/// Where a device is in its life (`UBLK_S_DEV_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceState {
    /// It was made, or stopped: there is no block device.
    Dead,
    /// It is served.
    Live,
    /// Its server has died; requests wait for the next.
    Quiesced,
    /// Its server has died; requests fail until the next comes.
    FailIo,
    /// What a newer kernel has besides.
    Other(u16),
}

impl DeviceInfo {
    /// Of the kernel's structure.
    pub(crate) const BYTES: usize = 64;
    /// Any number that is free.
    pub const ANY_ID: u32 = u32::MAX;

    /// Does the driver hand over the pages of requests, rather than copy them?
    pub fn is_zero_copy(&self) -> bool {
        self.features.contains(Features::AUTO_BUF_REG)
    }

    /// As the kernel takes it.
    pub(crate) fn emit(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let mut put = Put(&mut bytes);
        put.u16(0, self.queues);
        put.u16(2, self.depth);
        put.u16(4, self.state.number());
        put.u32(8, self.buffer_bytes);
        put.u32(12, self.id);
        put.u32(16, self.server_pid.cast_unsigned());
        put.u64(24, self.features.bits());
        put.u64(32, self.mark);
        put.u32(40, self.owner.0);
        put.u32(44, self.owner.1);
        bytes
    }

    /// As the kernel tells it.
    ///
    /// # Panics
    /// If there are fewer than [`Self::BYTES`].
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let take = Take(bytes);
        Self {
            queues: take.u16(0),
            depth: take.u16(2),
            state: DeviceState::from_number(take.u16(4)),
            buffer_bytes: take.u32(8),
            id: take.u32(12),
            server_pid: take.u32(16).cast_signed(),
            features: Features::from_bits_retain(take.u64(24)),
            mark: take.u64(32),
            owner: (take.u32(40), take.u32(44)),
        }
    }
}

impl DeviceState {
    fn from_number(number: u16) -> Self {
        match number {
            0 => Self::Dead,
            1 => Self::Live,
            2 => Self::Quiesced,
            3 => Self::FailIo,
            other => Self::Other(other),
        }
    }

    fn number(self) -> u16 {
        match self {
            Self::Dead => 0,
            Self::Live => 1,
            Self::Quiesced => 2,
            Self::FailIo => 3,
            Self::Other(number) => number,
        }
    }
}

impl fmt::Display for DeviceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dead => f.write_str("dead"),
            Self::Live => f.write_str("live"),
            Self::Quiesced => f.write_str("quiesced"),
            Self::FailIo => f.write_str("failing"),
            Self::Other(number) => write!(f, "state {number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_gets_and_tells_the_same() {
        let info = DeviceInfo {
            id: 3,
            queues: 2,
            depth: 128,
            buffer_bytes: 512 << 10,
            features: Features::USER_RECOVERY | Features::CMD_IOCTL_ENCODE,
            state: DeviceState::Quiesced,
            server_pid: -1,
            mark: 0x1234_5678_9abc_def0,
            owner: (1000, 100),
        };
        let bytes = info.emit();
        assert_eq!(DeviceInfo::parse(&bytes), info);
        // As the header lays it out: queues, depth, state, padding, bytes, id, process.
        assert_eq!(bytes[..4], [2u16.to_ne_bytes(), 128u16.to_ne_bytes()].concat());
        assert_eq!(bytes[24..32], 0x48u64.to_ne_bytes());
    }

    #[test]
    fn states_of_newer_kernels_are_kept() {
        let state = DeviceState::from_number(9);
        assert_eq!((state.number(), state.to_string().as_str()), (9, "state 9"));
    }
}
