//! The transmission phase: a stream of bytes becomes commands that are safe to run.
//!
//! ```text
//!            ┌────────────────── good, no payload ──────────────────┐
//!            ▼                                                      │
//!        ┌────────┐ good write ┌─────────┐                          │
//!  ─────►│ Header ├───────────►│ Payload ├── all of it came ────────┤
//!        └─┬──┬───┘            └─────────┘                          │
//!     DISC │  │ refused write  ┌─────────┐                          │
//!          ▼  └───────────────►│  Skip   ├── all of it came ────────┘
//!        Ended                 └─────────┘
//! ```
//!
//! A command that is refused is answered and its payload skipped, however long: that costs its sender time and nobody
//! else anything.

use iomgr_core::{Operation, RequestFlags, Sector, SectorCount, SectorRange};

use super::{
    CommandFlags, CommandHeader, CommandType, ExportFacts, NbdError, SimpleReply, TransmissionFlags, Violation,
};

/// A command that may be run: inside the export, aligned, permitted, not too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Command {
    /// Comes back in the reply.
    pub cookie: u64,
    /// What to do.
    pub op: Operation,
    /// How.
    pub flags: RequestFlags,
    /// Where; empty for a flush.
    pub range: SectorRange,
}

impl Command {
    /// Bytes of payload that a read's reply carries or a write brings along.
    pub fn data_len(&self) -> u32 {
        match self.op {
            Operation::Read | Operation::Write => {
                u32::try_from(self.range.len_bytes()).expect("payloads are at most `BlockSizes::max` long")
            }
            Operation::Flush | Operation::Discard | Operation::WriteZeroes | Operation::Prefetch => 0,
        }
    }
}

/// What a piece of input was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A command. A write's payload follows as [`Event::Payload`]; run it when all of that has come.
    Command(Command),
    /// This many bytes, the ones just consumed, are payload of the write that came last.
    Payload(usize),
    /// A command that cannot be run: send this.
    Refused(SimpleReply),
    /// The client goes: let what it asked for end, answer it, and close.
    Disconnect,
}

/// The server's side of the transmission phase of one connection.
#[derive(Clone, Debug)]
pub struct Transmission {
    facts: ExportFacts,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// A header comes next.
    Header,
    /// Payload of a write that will run.
    Payload { left: u32 },
    /// Payload of a write that was refused.
    Skip { left: u32 },
    /// After `DISC`, nothing is looked at.
    Ended,
}

impl Transmission {
    /// The phase as it begins, for the export that the handshake chose.
    pub fn new(facts: ExportFacts) -> Self {
        Self {
            facts,
            stage: Stage::Header,
        }
    }

    /// Takes one element off the front of `input`: a header, or the part of a payload that is there. Says how many bytes
    /// it took; 0 if an element is not complete yet, and after the end.
    pub fn handle_bytes(&mut self, input: &[u8]) -> Result<(usize, Option<Event>), Violation> {
        match self.stage {
            Stage::Header => self.handle_header(input),
            Stage::Payload { left } => {
                let len = input.len().min(left as usize);
                self.stage = Stage::Payload { left }.after(len);
                Ok((len, (len > 0).then_some(Event::Payload(len))))
            }
            Stage::Skip { left } => {
                let len = input.len().min(left as usize);
                self.stage = Stage::Skip { left }.after(len);
                Ok((len, None))
            }
            Stage::Ended => Ok((0, None)),
        }
    }

    /// Bytes still to come of the payload of the write that came last.
    pub fn payload_left(&self) -> u32 {
        match self.stage {
            Stage::Payload { left } => left,
            _ => 0,
        }
    }

    /// Does a header come next?
    pub fn at_header(&self) -> bool {
        self.stage == Stage::Header
    }

    /// Notes `len` bytes of payload that the caller received straight into their place.
    ///
    /// # Panics
    /// If that is more than [`payload_left`](Self::payload_left).
    pub fn handle_payload(&mut self, len: u32) {
        assert!(len <= self.payload_left(), "payload comes only where it is due");
        self.stage = self.stage.after(len as usize);
    }

    fn handle_header(&mut self, input: &[u8]) -> Result<(usize, Option<Event>), Violation> {
        let Some(bytes) = input.first_chunk() else {
            return Ok((0, None));
        };
        let header = CommandHeader::parse(bytes)?;
        Ok((CommandHeader::BYTES, Some(self.judge(&header))))
    }

    fn judge(&mut self, header: &CommandHeader) -> Event {
        if header.kind == CommandType::Disc as u16 {
            self.stage = Stage::Ended;
            return Event::Disconnect;
        }
        let left = header.payload_len();
        match check(header, &self.facts) {
            Ok(command) => {
                self.stage = Stage::Payload { left }.after(0);
                Event::Command(command)
            }
            Err(error) => {
                self.stage = Stage::Skip { left }.after(0);
                Event::Refused(SimpleReply {
                    cookie: header.cookie,
                    result: Err(error),
                })
            }
        }
    }
}

impl Stage {
    /// The stage after `len` more bytes of payload.
    fn after(self, len: usize) -> Self {
        let less = |left: u32| u32::try_from(left as usize - len).expect("less than it was");
        match self {
            Self::Payload { left } if less(left) > 0 => Self::Payload { left: less(left) },
            Self::Skip { left } if less(left) > 0 => Self::Skip { left: less(left) },
            Self::Ended => Self::Ended,
            _ => Self::Header,
        }
    }
}

/// Everything that must hold before a command may run.
fn check(header: &CommandHeader, facts: &ExportFacts) -> Result<Command, NbdError> {
    let kind = CommandType::from_wire(header.kind).ok_or(NbdError::Inval)?;
    let (op, needed) = match kind {
        CommandType::Read => (Operation::Read, TransmissionFlags::HAS_FLAGS),
        CommandType::Write => (Operation::Write, TransmissionFlags::HAS_FLAGS),
        CommandType::Flush => (Operation::Flush, TransmissionFlags::SEND_FLUSH),
        CommandType::Trim => (Operation::Discard, TransmissionFlags::SEND_TRIM),
        CommandType::WriteZeroes => (Operation::WriteZeroes, TransmissionFlags::SEND_WRITE_ZEROES),
        CommandType::Disc => return Err(NbdError::Inval),
    };
    if op.is_write() && facts.flags.contains(TransmissionFlags::READ_ONLY) {
        return Err(NbdError::Perm);
    }
    if !facts.flags.contains(needed) {
        return Err(NbdError::Inval);
    }
    let flags = check_flags(header.flags, op, facts)?;
    let range = check_range(header, op, facts)?;
    Ok(Command {
        cookie: header.cookie,
        op,
        flags,
        range,
    })
}

/// FUA is valid on every command, and without meaning on those that write nothing; the others belong to one command.
fn check_flags(flags: CommandFlags, op: Operation, facts: &ExportFacts) -> Result<RequestFlags, NbdError> {
    let mut known = CommandFlags::FUA;
    if op == Operation::WriteZeroes {
        known |= CommandFlags::NO_HOLE;
        if facts.flags.contains(TransmissionFlags::SEND_FAST_ZERO) {
            known |= CommandFlags::FAST_ZERO;
        }
    }
    if !known.contains(flags) {
        return Err(NbdError::Inval);
    }
    let mut out = RequestFlags::empty();
    out.set(RequestFlags::FUA, flags.contains(CommandFlags::FUA) && op.is_write());
    out.set(RequestFlags::NO_UNMAP, flags.contains(CommandFlags::NO_HOLE));
    out.set(RequestFlags::FAST_ZERO, flags.contains(CommandFlags::FAST_ZERO));
    Ok(out)
}

/// Beyond the end is `ENOSPC` for what puts data there and `EINVAL` for the rest, as the specification has it.
fn check_range(header: &CommandHeader, op: Operation, facts: &ExportFacts) -> Result<SectorRange, NbdError> {
    let (offset, len) = (header.offset, u64::from(header.len));
    if op == Operation::Flush {
        return if (offset, len) == (0, 0) {
            Ok(SectorRange::default())
        } else {
            Err(NbdError::Inval)
        };
    }
    let unit = u64::from(facts.blocks.min);
    let has_payload = matches!(op, Operation::Read | Operation::Write);
    let too_long = has_payload && header.len > facts.blocks.max;
    if len == 0 || too_long || !offset.is_multiple_of(unit) || !len.is_multiple_of(unit) {
        return Err(NbdError::Inval);
    }
    let inside = offset.checked_add(len).is_some_and(|end| end <= facts.size_bytes);
    if !inside {
        let adds = matches!(op, Operation::Write | Operation::WriteZeroes);
        return Err(if adds { NbdError::NoSpc } else { NbdError::Inval });
    }
    let start = Sector::from_bytes(offset).ok_or(NbdError::Inval)?;
    let count = SectorCount::from_bytes(len).ok_or(NbdError::Inval)?;
    SectorRange::new(start, count).ok_or(NbdError::Inval)
}

#[cfg(test)]
#[path = "transmission/tests.rs"]
mod tests;
