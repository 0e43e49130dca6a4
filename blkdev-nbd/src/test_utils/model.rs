//! The protocol as one would write it down: all bytes are there, nothing is incremental, and nothing is shared with the core
//! but numbers.

use iomgr_core::{Operation, RequestFlags};

use super::conversation::{self, OPTIONS_MAX, PAYLOAD_MAX, Shelf};
use crate::proto::{Catalog, Event, ExportFacts, ExportId, HandshakeOutcome, OptionReplyHeader, Zeros};

/// What must come of some bytes.
#[derive(Debug, Default)]
pub(super) struct Conversation {
    /// Option and type of each reply.
    replies: Vec<(u32, u32)>,
    structured: bool,
    /// The export whose context was chosen.
    context: Option<usize>,
    /// Export, structured replies, block status.
    session: Option<(usize, bool, bool)>,
    is_aborted: bool,
    is_violated: bool,
    events: Vec<Said>,
    payload: Vec<u8>,
}

/// An event in plain numbers.
#[derive(Debug, PartialEq)]
enum Said {
    /// Type, flags for the device, offset, length, whether zeros may be left out: 0 no, 1 if all are zeros, 2 yes.
    Run(u16, u8, u64, u64, u8),
    Status(u64, u64, bool),
    /// Error number.
    Refused(u32),
    Disconnect,
}

const ACK: u32 = 1;
const SERVER: u32 = 2;
const INFO: u32 = 3;
const META: u32 = 4;
const UNSUP: u32 = 1 << 31 | 1;
const INVALID: u32 = 1 << 31 | 3;
const UNKNOWN: u32 = 1 << 31 | 6;
const TOO_BIG: u32 = 1 << 31 | 9;

/// Why to stop: the bytes end, the peer broke the rules, or it is over.
enum Stop {
    Starved,
    Violation,
    Over,
}

/// The bytes that are left.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Stop> {
        let (front, rest) = self.0.split_at_checked(len).ok_or(Stop::Starved)?;
        self.0 = rest;
        Ok(front)
    }

    /// A big-endian number of so many bytes.
    fn number(&mut self, len: usize) -> Result<u64, Stop> {
        Ok(self
            .take(len)?
            .iter()
            .fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn u32(&mut self) -> Result<u32, Stop> {
        Ok(u32::try_from(self.number(4)?).expect("four bytes"))
    }

    fn text(&mut self) -> Result<&'a [u8], Stop> {
        let len = self.u32()?;
        self.take(len as usize)
    }
}

impl Conversation {
    pub(super) fn of(input: &[u8]) -> Self {
        let mut talk = Self::default();
        let mut bytes = Bytes(input);
        let stop = talk
            .handshake(&mut bytes)
            .and_then(|facts| talk.transmission(&mut bytes, &facts));
        talk.is_violated = matches!(stop, Err(Stop::Violation));
        talk
    }

    /// Does the core say the same?
    pub(super) fn assert_same(&self, core: &conversation::Conversation) {
        assert_eq!(self.is_violated, core.violation.is_some(), "{:?}", core.violation);
        assert_eq!(self.is_aborted, core.outcome == Some(HandshakeOutcome::Abort));
        let session = core.session();
        let session = session.map(|session| (session.export.0, session.structured, session.allocation));
        assert_eq!(self.session, session);
        assert_eq!(self.replies, replies(&core.said));
        let events: Vec<_> = core.events.iter().map(Said::of).collect();
        assert_eq!(self.events, events);
        assert_eq!(self.payload, core.payload);
    }

    fn handshake(&mut self, bytes: &mut Bytes<'_>) -> Result<ExportFacts, Stop> {
        let flags = bytes.u32()?;
        if flags > 3 {
            return Err(Stop::Violation);
        }
        for _ in 0..OPTIONS_MAX {
            let (option, data) = self.next_option(bytes, flags & 1 != 0)?;
            if let Some(facts) = data.map_or(Ok(None), |data| self.option(option, data))? {
                return Ok(facts);
            }
        }
        // One more is too many; it is not answered.
        let answered = self.replies.len();
        let next = self.next_option(bytes, flags & 1 != 0);
        if self.replies.len() == answered {
            next?;
        }
        self.replies.truncate(answered);
        Err(Stop::Violation)
    }

    /// The next option; no data if it was too long to be looked at.
    fn next_option<'a>(&mut self, bytes: &mut Bytes<'a>, fixed: bool) -> Result<(u32, Option<&'a [u8]>), Stop> {
        let mut header = Bytes(bytes.take(16)?);
        let (magic, option, len) = (header.number(8)?, header.u32()?, header.u32()?);
        if magic != 0x4948_4156_454f_5054 || (option != 1 && !fixed) {
            return Err(Stop::Violation);
        }
        if len <= 8192 {
            return Ok((option, Some(bytes.take(len as usize)?)));
        }
        if option == 1 || len > 32 << 20 {
            return Err(Stop::Violation);
        }
        self.replies.push((option, TOO_BIG));
        bytes.take(len as usize)?;
        Ok((option, None))
    }

    /// The export's facts, if the option begins the transmission.
    fn option(&mut self, option: u32, data: &[u8]) -> Result<Option<ExportFacts>, Stop> {
        let replies: Result<Vec<u32>, u32> = match option {
            1 => return find(data).map_or(Err(Stop::Violation), |export| Ok(Some(self.go(export)))),
            2 => {
                self.is_aborted = true;
                Ok(vec![ACK])
            }
            3 if data.is_empty() => Ok(vec![SERVER, SERVER, SERVER, SERVER, ACK]),
            6 | 7 => info(data).map(|(_, infos)| [vec![INFO; infos], vec![ACK]].concat()),
            8 if data.is_empty() => {
                self.structured = true;
                Ok(vec![ACK])
            }
            9 | 10 => self.meta(option, data),
            3 | 8 => Err(INVALID),
            _ => Err(UNSUP),
        };
        let export = info(data).ok().filter(|_| option == 7).map(|(export, _)| export);
        let replies = replies.unwrap_or_else(|error| vec![error]);
        self.replies.extend(replies.into_iter().map(|kind| (option, kind)));
        if self.is_aborted {
            return Err(Stop::Over);
        }
        Ok(export.map(|export| self.go(export)))
    }

    fn meta(&mut self, option: u32, data: &[u8]) -> Result<Vec<u32>, u32> {
        let chosen = if self.structured {
            meta(data, option == 9)
        } else {
            Err(INVALID)
        };
        if option == 10 {
            self.context = chosen.ok().flatten();
        }
        Ok(if chosen?.is_some() { vec![META, ACK] } else { vec![ACK] })
    }

    fn go(&mut self, export: usize) -> ExportFacts {
        self.session = Some((export, self.structured, self.context == Some(export)));
        let facts = Shelf::default().facts(ExportId(export));
        facts.expect("an export that was found is there")
    }

    fn transmission(&mut self, bytes: &mut Bytes<'_>, facts: &ExportFacts) -> Result<(), Stop> {
        loop {
            // A header is looked at when all of it is there.
            let mut header = Bytes(bytes.take(28)?);
            if header.u32()? != 0x2560_9513 {
                return Err(Stop::Violation);
            }
            let (flags, kind, _) = (header.number(2)?, header.number(2)?, header.number(8)?);
            let (offset, len) = (header.number(8)?, header.number(4)?);
            if kind == 2 {
                self.events.push(Said::Disconnect);
                return Err(Stop::Over);
            }
            let said = self.command(facts, kind, flags, offset, len);
            let takes = matches!(said, Said::Run(..));
            self.events.push(said);
            if kind == 1 {
                let len = usize::try_from(len).expect("four bytes");
                let there = &bytes.0[..len.min(bytes.0.len())];
                self.payload.extend_from_slice(if takes { there } else { &[] });
                bytes.take(len)?;
            }
        }
    }

    fn command(&self, facts: &ExportFacts, kind: u64, flags: u64, offset: u64, len: u64) -> Said {
        let offers = |bit: u32| facts.flags.bits() >> bit & 1 == 1;
        let writes = matches!(kind, 1 | 4 | 6);
        if writes && offers(1) {
            return Said::Refused(1);
        }
        if !self.is_offered(facts, kind) || flags & !(self.flags_of(facts, kind) | 1) != 0 {
            return Said::Refused(22);
        }
        let min = u64::from(facts.blocks.min);
        let bad = match kind {
            3 => offset != 0 || len != 0,
            0 | 1 if len > u64::from(PAYLOAD_MAX) => true,
            _ => len == 0 || !offset.is_multiple_of(min) || !len.is_multiple_of(min),
        };
        let beyond = u128::from(offset) + u128::from(len) > u128::from(facts.size_bytes);
        match kind {
            _ if bad => Said::Refused(22),
            1 | 6 if beyond => Said::Refused(28),
            _ if beyond => Said::Refused(22),
            7 => Said::Status(offset, len, flags & 8 != 0),
            kind => {
                let fua = u8::from(writes && flags & 1 != 0);
                let bits = fua | u8::from(flags & 2 != 0) << 1 | u8::from(flags & 16 != 0) << 2;
                let zeros = match kind {
                    0 if self.structured => 2 - u8::from(flags & 4 != 0),
                    _ => 0,
                };
                Said::Run(u16::try_from(kind).expect("two bytes"), bits, offset, len, zeros)
            }
        }
    }

    fn is_offered(&self, facts: &ExportFacts, kind: u64) -> bool {
        let offers = |bit: u32| facts.flags.bits() >> bit & 1 == 1;
        match kind {
            0 | 1 => true,
            3 => offers(2),
            4 => offers(5),
            5 => offers(10),
            6 => offers(6),
            7 => self.session.is_some_and(|(_, _, allocation)| allocation),
            _ => false,
        }
    }

    /// The flags of a command, but for FUA.
    fn flags_of(&self, facts: &ExportFacts, kind: u64) -> u64 {
        match kind {
            0 if self.structured => 1 << 2,
            6 if facts.flags.bits() >> 11 & 1 == 1 => 1 << 1 | 1 << 4,
            6 => 1 << 1,
            7 => 1 << 3,
            _ => 0,
        }
    }
}

impl Said {
    fn of(event: &Event) -> Self {
        match event {
            Event::Command(command) => {
                let kind = match command.op {
                    Operation::Read => 0,
                    Operation::Write => 1,
                    Operation::Flush => 3,
                    Operation::Discard => 4,
                    Operation::Prefetch => 5,
                    Operation::WriteZeroes => 6,
                };
                let bit = |flag, bit: u8| if command.flags.contains(flag) { bit } else { 0 };
                let flags =
                    bit(RequestFlags::FUA, 1) | bit(RequestFlags::NO_UNMAP, 2) | bit(RequestFlags::FAST_ZERO, 4);
                let zeros = match command.zeros {
                    Zeros::Sent => 0,
                    Zeros::AllOrNone => 1,
                    Zeros::LeftOut => 2,
                };
                Self::Run(
                    kind,
                    flags,
                    command.range.offset_bytes(),
                    command.range.len_bytes(),
                    zeros,
                )
            }
            Event::Status(query) => Self::Status(query.range.offset_bytes(), query.range.len_bytes(), query.one),
            Event::Refused(refusal) => Self::Refused(refusal.failure.error.code()),
            Event::Payload(_) | Event::Disconnect => Self::Disconnect,
        }
    }
}

/// The place of an export, or the error to reply.
fn find(name: &[u8]) -> Result<usize, u32> {
    if name.is_empty() {
        return Ok(0);
    }
    let shelf = Shelf::default();
    let mut names = (0..shelf.count()).map(|export| shelf.name(ExportId(export)));
    let found = names.position(|other| other.is_some_and(|other| other.as_bytes() == name));
    found.ok_or(UNKNOWN)
}

/// The export that is asked for, if its name is not too long.
fn checked_find(name: &[u8]) -> Result<usize, u32> {
    if name.len() > 4096 { Err(TOO_BIG) } else { find(name) }
}

/// Export and number of information replies.
fn info(data: &[u8]) -> Result<(usize, usize), u32> {
    let mut bytes = Bytes(data);
    let mut parse = || {
        let name = bytes.text()?;
        let count = bytes.number(2)?;
        let kinds: Result<Vec<_>, Stop> = (0..count).map(|_| bytes.number(2)).collect();
        Ok::<_, Stop>((name, kinds?))
    };
    let (name, kinds) = parse().map_err(|_| INVALID)?;
    if !bytes.0.is_empty() {
        return Err(INVALID);
    }
    let extra = usize::from(kinds.contains(&1)) + usize::from(kinds.contains(&2));
    Ok((checked_find(name)?, 2 + extra))
}

/// The export for which `base:allocation` is listed or chosen; nothing if it is not.
fn meta(data: &[u8], lists: bool) -> Result<Option<usize>, u32> {
    let mut bytes = Bytes(data);
    let mut parse = || {
        let name = bytes.text()?;
        let count = bytes.u32()?;
        let queries: Result<Vec<_>, Stop> = (0..count).map(|_| bytes.text()).collect();
        Ok::<_, Stop>((name, queries?))
    };
    let (name, queries) = parse().map_err(|_| INVALID)?;
    if !bytes.0.is_empty() {
        return Err(INVALID);
    }
    let export = checked_find(name)?;
    let exact = queries.contains(&&b"base:allocation"[..]);
    let wild = lists && (queries.is_empty() || queries.contains(&&b"base:"[..]));
    Ok((exact || wild).then_some(export))
}

/// Option and type of each reply in what the server said; `EXPORT_NAME` has none.
fn replies(said: &[u8]) -> Vec<(u32, u32)> {
    let mut replies = Vec::new();
    let mut rest = said.get(18..).unwrap_or_default();
    while let Some(header) = rest.first_chunk().and_then(OptionReplyHeader::parse) {
        replies.push((header.option, header.kind));
        rest = &rest[OptionReplyHeader::BYTES + header.len as usize..];
    }
    assert!([0, 10, 134].contains(&rest.len()), "nothing else is said");
    replies
}
