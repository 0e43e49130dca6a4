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
    CommandFlags, CommandHeader, CommandType, ExportFacts, Failure, NbdError, Session, StatusQuery, TransmissionFlags,
    Violation,
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
    /// How a read's zeros may be told.
    pub zeros: Zeros,
}

/// How the reply to a read may tell of zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zeros {
    /// They are sent: replies are simple, or the command is no read.
    Sent,
    /// If all of it is zeros, that may be said instead; the client wants one chunk.
    AllOrNone,
    /// Any of them may be left out.
    LeftOut,
}

/// A command that cannot be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Comes back in the reply.
    pub cookie: u64,
    /// Why.
    pub failure: Failure,
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
    /// A question that needs no request: the device knows.
    Status(StatusQuery),
    /// A command that cannot be run: say so.
    Refused(Refusal),
    /// The client goes: let what it asked for end, answer it, and close.
    Disconnect,
}

/// The server's side of the transmission phase of one connection.
#[derive(Clone, Debug)]
pub struct Transmission {
    session: Session,
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
    /// The phase as it begins, after what the handshake came to.
    pub fn new(session: Session) -> Self {
        Self {
            session,
            stage: Stage::Header,
        }
    }

    /// What the handshake came to.
    pub fn session(&self) -> &Session {
        &self.session
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
        let left = header.payload_len();
        let event = check(header, &self.session);
        self.stage = match event {
            Event::Disconnect => Stage::Ended,
            Event::Refused(_) => Stage::Skip { left },
            _ => Stage::Payload { left },
        };
        self.stage = self.stage.after(0);
        event
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

/// What a command comes to.
fn check(header: &CommandHeader, session: &Session) -> Event {
    let checked = match CommandType::from_wire(header.kind) {
        Some(CommandType::Disc) => Ok(Event::Disconnect),
        Some(CommandType::BlockStatus) => check_status(header, session).map(Event::Status),
        Some(kind) => check_command(header, kind, session).map(Event::Command),
        None => Err(UNKNOWN),
    };
    checked.unwrap_or_else(|failure| {
        Event::Refused(Refusal {
            cookie: header.cookie,
            failure,
        })
    })
}

const UNKNOWN: Failure = Failure::new(NbdError::Inval, "the command is not known");

/// What a command asks of a device, and what must be offered for it.
fn operation(kind: CommandType) -> Option<(Operation, TransmissionFlags)> {
    Some(match kind {
        CommandType::Read => (Operation::Read, TransmissionFlags::HAS_FLAGS),
        CommandType::Write => (Operation::Write, TransmissionFlags::HAS_FLAGS),
        CommandType::Flush => (Operation::Flush, TransmissionFlags::SEND_FLUSH),
        CommandType::Trim => (Operation::Discard, TransmissionFlags::SEND_TRIM),
        CommandType::Cache => (Operation::Prefetch, TransmissionFlags::SEND_CACHE),
        CommandType::WriteZeroes => (Operation::WriteZeroes, TransmissionFlags::SEND_WRITE_ZEROES),
        CommandType::Disc | CommandType::BlockStatus => return None,
    })
}

/// Everything that must hold before a command may run.
fn check_command(header: &CommandHeader, kind: CommandType, session: &Session) -> Result<Command, Failure> {
    let facts = &session.facts;
    let (op, needed) = operation(kind).ok_or(UNKNOWN)?;
    if op.is_write() && facts.flags.contains(TransmissionFlags::READ_ONLY) {
        return Err(Failure::new(NbdError::Perm, "the export is read-only"));
    }
    if !facts.flags.contains(needed) {
        return Err(Failure::new(NbdError::Inval, "the command is not offered"));
    }
    check_flags(header.flags, kind, facts)?;
    let range = match op {
        Operation::Flush => check_flush(header)?,
        _ => check_range(header, op, facts)?,
    };
    Ok(Command {
        cookie: header.cookie,
        op,
        flags: request_flags(header.flags, op),
        range,
        zeros: match op {
            Operation::Read if session.structured && header.flags.contains(CommandFlags::DF) => Zeros::AllOrNone,
            Operation::Read if session.structured => Zeros::LeftOut,
            _ => Zeros::Sent,
        },
    })
}

fn check_status(header: &CommandHeader, session: &Session) -> Result<StatusQuery, Failure> {
    if !session.allocation {
        return Err(Failure::new(NbdError::Inval, "no metadata context was chosen"));
    }
    check_flags(header.flags, CommandType::BlockStatus, &session.facts)?;
    Ok(StatusQuery {
        cookie: header.cookie,
        range: check_range(header, Operation::Prefetch, &session.facts)?,
        block: SectorCount::from_bytes_floor(u64::from(session.facts.blocks.min)),
        one: header.flags.contains(CommandFlags::REQ_ONE),
    })
}

/// FUA is valid on every command, and without meaning on those that write nothing; the others belong to one command.
fn check_flags(flags: CommandFlags, kind: CommandType, facts: &ExportFacts) -> Result<(), Failure> {
    let offered = |flag, needed| {
        if facts.flags.contains(needed) {
            flag
        } else {
            CommandFlags::empty()
        }
    };
    let known = CommandFlags::FUA
        | match kind {
            CommandType::Read => offered(CommandFlags::DF, TransmissionFlags::SEND_DF),
            CommandType::BlockStatus => CommandFlags::REQ_ONE,
            CommandType::WriteZeroes => {
                CommandFlags::NO_HOLE | offered(CommandFlags::FAST_ZERO, TransmissionFlags::SEND_FAST_ZERO)
            }
            _ => CommandFlags::empty(),
        };
    if known.contains(flags) {
        Ok(())
    } else {
        Err(Failure::new(
            NbdError::Inval,
            "the command has a flag that was not offered for it",
        ))
    }
}

fn request_flags(flags: CommandFlags, op: Operation) -> RequestFlags {
    let mut out = RequestFlags::empty();
    out.set(RequestFlags::FUA, flags.contains(CommandFlags::FUA) && op.is_write());
    out.set(RequestFlags::NO_UNMAP, flags.contains(CommandFlags::NO_HOLE));
    out.set(RequestFlags::FAST_ZERO, flags.contains(CommandFlags::FAST_ZERO));
    out
}

fn check_flush(header: &CommandHeader) -> Result<SectorRange, Failure> {
    if (header.offset, header.len) == (0, 0) {
        Ok(SectorRange::default())
    } else {
        Err(Failure::new(NbdError::Inval, "a flush has neither offset nor length"))
    }
}

/// Beyond the end is `ENOSPC` for what puts data there and `EINVAL` for the rest, as the specification has it.
fn check_range(header: &CommandHeader, op: Operation, facts: &ExportFacts) -> Result<SectorRange, Failure> {
    let invalid = |text| Err(Failure::new(NbdError::Inval, text));
    let (offset, len) = (header.offset, u64::from(header.len));
    let unit = u64::from(facts.blocks.min);
    if len == 0 {
        return invalid("the length is 0");
    }
    if matches!(op, Operation::Read | Operation::Write) && header.len > facts.blocks.max {
        return invalid("the length is greater than the maximum that was announced");
    }
    if !offset.is_multiple_of(unit) || !len.is_multiple_of(unit) {
        return invalid("offset and length must be multiples of the block size");
    }
    let inside = offset.checked_add(len).is_some_and(|end| end <= facts.size_bytes);
    if !inside {
        let adds = matches!(op, Operation::Write | Operation::WriteZeroes);
        let error = if adds { NbdError::NoSpc } else { NbdError::Inval };
        // The first byte that is not there.
        let at = offset.max(facts.size_bytes);
        return Err(Failure::new(error, "that is beyond the end of the export").at(Some(at)));
    }
    let start = Sector::from_bytes(offset);
    let range = start
        .zip(SectorCount::from_bytes(len))
        .and_then(|(start, count)| SectorRange::new(start, count));
    range.ok_or(Failure::new(NbdError::Inval, "offset and length must be whole sectors"))
}

#[cfg(test)]
#[path = "transmission/tests.rs"]
mod tests;
