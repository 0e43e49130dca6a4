//! The driver's commands, and how they are laid out.

use rustix::ioctl::opcode;

use super::bytes::Put;

/// A command on the control device (`UBLK_U_CMD_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum ControlOp {
    Affinity = 0x01,
    DeviceInfo = 0x02,
    Add = 0x04,
    Delete = 0x05,
    Start = 0x06,
    Stop = 0x07,
    SetParams = 0x08,
    Params = 0x09,
    StartRecovery = 0x10,
    EndRecovery = 0x11,
    Features = 0x13,
    UpdateSize = 0x15,
    Quiesce = 0x16,
    TryStop = 0x17,
}

/// `struct ublksrv_ctrl_cmd`, of which only the size counts here.
pub(crate) type ControlCommand = [u8; 32];
/// `struct ublksrv_io_cmd`.
pub(crate) type IoCommand = [u8; 16];

impl ControlOp {
    /// As it is numbered.
    #[allow(clippy::cast_possible_truncation, reason = "such numbers have 32 bits")]
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Affinity | Self::DeviceInfo | Self::Params | Self::Features => {
                opcode::read::<ControlCommand>(b'u', self as u8) as u32
            }
            _ => opcode::read_write::<ControlCommand>(b'u', self as u8) as u32,
        }
    }
}

/// A control command's arguments: for which device, and where the structure that goes with it lies.
/// The path of the character device may come first there, and has `path_len` bytes.
pub(crate) fn control_command(device: u32, (len, path_len): (u16, u16), address: u64, data: u64) -> ControlCommand {
    let mut bytes = ControlCommand::default();
    let mut put = Put(&mut bytes);
    put.u32(0, device);
    // For no queue in particular.
    put.u16(4, u16::MAX);
    put.u16(6, len);
    put.u64(8, address);
    put.u64(16, data);
    put.u16(24, path_len);
    bytes
}

/// A command of a queue (`UBLK_U_IO_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum QueueOp {
    /// Completes when there is a request for the tag.
    Fetch = 0x20,
    /// Ends the tag's request, and fetches the next.
    CommitAndFetch = 0x21,
}

impl QueueOp {
    /// As it is numbered.
    #[allow(clippy::cast_possible_truncation, reason = "such numbers have 32 bits")]
    pub(crate) fn number(self) -> u32 {
        opcode::read_write::<IoCommand>(b'u', self as u8) as u32
    }
}

/// A queue command's arguments: which tag of which queue, how its request ended, and the buffer of the next.
pub(crate) fn queue_command(queue: u16, tag: u16, result: i32, address: u64) -> IoCommand {
    let mut bytes = IoCommand::default();
    let mut put = Put(&mut bytes);
    put.u16(0, queue);
    put.u16(2, tag);
    put.u32(4, result.cast_unsigned());
    put.u64(8, address);
    bytes
}

/// What a queue command says for an address with `AUTO_BUF_REG` (`struct ublk_auto_buf_reg`): where in the ring's table the next
/// request is to be registered. Where that cannot be, the request fails: no fallback is asked for.
pub(crate) fn registered_at(index: u16) -> u64 {
    index.into()
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    /// Numbers as the header's macros come to on this machine.
    #[test]
    fn commands_are_numbered_as_the_header_does() {
        assert_eq!(ControlOp::Add.number(), 0xc020_7504);
        assert_eq!(ControlOp::Features.number(), 0x8020_7513);
        assert_eq!(ControlOp::Affinity.number(), 0x8020_7501);
        assert_eq!(ControlOp::StartRecovery.number(), 0xc020_7510);
        assert_eq!(ControlOp::TryStop.number(), 0xc020_7517);
        assert_eq!(QueueOp::CommitAndFetch.number(), 0xc010_7521);
    }

    #[test]
    fn arguments_lie_where_the_header_has_them() {
        let command = queue_command(1, 2, -5, 0x1000);
        assert_eq!(command[..4], [1, 0, 2, 0]);
        assert_eq!(command[4..8], (-5i32).to_ne_bytes());
        let command = control_command(7, (64, 12), 0x2000, 9);
        assert_eq!(command[..8], [7, 0, 0, 0, 0xff, 0xff, 64, 0]);
        assert_eq!(command[16..24], 9u64.to_ne_bytes());
        assert_eq!(command[24..26], 12u16.to_ne_bytes());
    }
}
