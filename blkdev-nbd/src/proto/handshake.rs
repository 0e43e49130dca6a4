//! The handshake: greeting, client flags, options, until an export is chosen or the session ends.
//!
//! ```text
//!   ┌──────────┐      ┌─────────────┐      ┌─────────┐  EXPORT_NAME, GO   ┌───────────┐
//!   │ greeting ├─────►│ ClientFlags ├─────►│ Options ├───────────────────►│ Ended(Go) │
//!   └──────────┘      └─────────────┘      └──┬───▲──┘                    └───────────┘
//!                                  too long │   │ skipped        ABORT  ┌──────────────┐
//!                                           ▼   │              ────────►│ Ended(Abort) │
//!                                         ┌───────┐                     └──────────────┘
//!                                         │ Skip  │
//!                                         └───────┘
//! ```
//!
//! # Contract
//! - One thing at a time: while a reply waits to be transmitted no input is taken, so a peer that does not read its
//!   replies holds nothing but its own connection.
//! - A reply may be long (a list of exports): [`Handshake::poll_transmit`] yields it message by message.

use super::facts::{Catalog, ExportFacts, ExportId};
use super::option::{REP_ACK, REP_INFO, REP_SERVER};
use super::{
    InfoType, NAME_BYTES_MAX, NBD_MAGIC, OPTION_BYTES_MAX, OPTION_MAGIC, OptionCode, OptionError, OptionHeader,
    OptionReplyHeader, PAYLOAD_BYTES_MAX, Violation, Writer, be16,
};

/// Options taken on one connection; clients send fewer than ten.
pub const OPTIONS_MAX: u32 = 64;

/// Handshake flags offered to the client, and the client flags that answer them: fixed newstyle, no zeroes.
const FIXED_NEWSTYLE: u16 = 1 << 0;
const NO_ZEROES: u16 = 1 << 1;

/// Zeros behind the answer to `EXPORT_NAME`, unless both sides do without.
const EXPORT_NAME_ZEROES: usize = 124;

/// How a handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeOutcome {
    /// Transmission begins, on this export, by these facts.
    Go(ExportId, ExportFacts),
    /// The client wants no more: close.
    Abort,
}

/// The server's side of the handshake of one connection.
#[derive(Clone, Debug)]
pub struct Handshake {
    stage: Stage,
    reply: Option<Reply>,
    client: u32,
    options_left: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    ClientFlags,
    Options,
    /// Data of an option that was too long to look at.
    Skip {
        left: u32,
    },
    /// Nothing more is taken. The outcome counts when the last reply was transmitted.
    Ended(HandshakeOutcome),
}

/// What has to be transmitted next; some of these turn into another one when they were.
#[derive(Clone, Copy, Debug)]
enum Reply {
    Greeting,
    Ack {
        option: u32,
    },
    Error {
        option: u32,
        error: OptionError,
        text: &'static str,
    },
    List {
        next: usize,
    },
    Info(InfoReply),
    ExportName(ExportFacts),
}

/// A sequence of information messages, then an acknowledgement.
#[derive(Clone, Copy, Debug)]
struct InfoReply {
    option: u32,
    export: ExportId,
    facts: ExportFacts,
    /// What to send still, a bit for each [`InfoType`].
    left: u16,
}

impl Handshake {
    /// Bytes of input that the caller must be able to hold: the longest option.
    pub const INPUT_BYTES: usize = OptionHeader::BYTES + OPTION_BYTES_MAX;
    /// Room that [`poll_transmit`](Self::poll_transmit) needs: the longest single message.
    pub const OUTPUT_BYTES: usize = OptionReplyHeader::BYTES + 4 + 2 * NAME_BYTES_MAX;

    /// A handshake that begins with its greeting.
    pub fn new() -> Self {
        Self {
            stage: Stage::ClientFlags,
            reply: Some(Reply::Greeting),
            client: 0,
            options_left: OPTIONS_MAX,
        }
    }

    /// Takes one element off the front of `input` and says how many bytes that were. 0 means: an element is not complete
    /// yet, or a reply must be transmitted first, or the handshake has ended.
    pub fn handle_bytes(&mut self, input: &[u8], catalog: &dyn Catalog) -> Result<usize, Violation> {
        if self.reply.is_some() {
            return Ok(0);
        }
        match self.stage {
            Stage::ClientFlags => self.handle_client_flags(input),
            Stage::Options => self.handle_option(input, catalog),
            Stage::Skip { left } => Ok(self.skip(input, left)),
            Stage::Ended(_) => Ok(0),
        }
    }

    /// Writes the next message that is due to the front of `out`, and says how long it is; 0 if none is due.
    ///
    /// # Panics
    /// If `out` is shorter than [`OUTPUT_BYTES`](Self::OUTPUT_BYTES).
    pub fn poll_transmit(&mut self, out: &mut [u8], catalog: &dyn Catalog) -> usize {
        assert!(out.len() >= Self::OUTPUT_BYTES, "the longest message must fit");
        let Some(reply) = self.reply else { return 0 };
        let mut writer = Writer::new(out);
        self.reply = self.emit(reply, &mut writer, catalog);
        writer.at
    }

    /// How it ended, once everything is transmitted.
    pub fn poll_outcome(&self) -> Option<HandshakeOutcome> {
        match (self.stage, self.reply) {
            (Stage::Ended(outcome), None) => Some(outcome),
            _ => None,
        }
    }

    fn handle_client_flags(&mut self, input: &[u8]) -> Result<usize, Violation> {
        let Some(flags) = input.first_chunk::<4>() else {
            return Ok(0);
        };
        self.client = u32::from_be_bytes(*flags);
        if self.client & !u32::from(FIXED_NEWSTYLE | NO_ZEROES) != 0 {
            return Err(Violation::ClientFlags(self.client));
        }
        self.stage = Stage::Options;
        Ok(4)
    }

    fn handle_option(&mut self, input: &[u8], catalog: &dyn Catalog) -> Result<usize, Violation> {
        let Some(bytes) = input.first_chunk() else {
            return Ok(0);
        };
        let header = OptionHeader::parse(bytes)?;
        let export_name = header.option == OptionCode::ExportName as u32;
        if !export_name && !self.has(FIXED_NEWSTYLE) {
            return Err(Violation::NotFixedNewstyle(header.option));
        }
        if header.len as usize > OPTION_BYTES_MAX {
            return self.refuse_too_long(&header, export_name);
        }
        let end = OptionHeader::BYTES + header.len as usize;
        let Some(data) = input.get(OptionHeader::BYTES..end) else {
            return Ok(0);
        };
        self.count_option()?;
        self.run_option(header.option, data, catalog)?;
        Ok(end)
    }

    /// `EXPORT_NAME` has no error reply; what nobody would wait for is not skipped either.
    fn refuse_too_long(&mut self, header: &OptionHeader, export_name: bool) -> Result<usize, Violation> {
        if export_name || header.len > PAYLOAD_BYTES_MAX {
            return Err(Violation::OptionLength(header.len));
        }
        self.count_option()?;
        self.refuse(header.option, OptionError::TooBig, "the option is too long");
        self.stage = Stage::Skip { left: header.len };
        Ok(OptionHeader::BYTES)
    }

    fn count_option(&mut self) -> Result<(), Violation> {
        self.options_left = self.options_left.checked_sub(1).ok_or(Violation::TooManyOptions)?;
        Ok(())
    }

    fn skip(&mut self, input: &[u8], left: u32) -> usize {
        let len = input.len().min(left as usize);
        let left = u32::try_from(left as usize - len).expect("less than it was");
        self.stage = if left == 0 {
            Stage::Options
        } else {
            Stage::Skip { left }
        };
        len
    }

    fn run_option(&mut self, option: u32, data: &[u8], catalog: &dyn Catalog) -> Result<(), Violation> {
        match OptionCode::from_wire(option) {
            Some(OptionCode::ExportName) => return self.run_export_name(data, catalog),
            Some(OptionCode::Abort) => {
                self.reply = Some(Reply::Ack { option });
                self.stage = Stage::Ended(HandshakeOutcome::Abort);
            }
            Some(OptionCode::List) if !data.is_empty() => {
                self.refuse(option, OptionError::Invalid, "LIST takes no data");
            }
            Some(OptionCode::List) => self.reply = Some(Reply::List { next: 0 }),
            Some(OptionCode::Info | OptionCode::Go) => self.run_info(option, data, catalog),
            Some(OptionCode::StartTls) => self.refuse(option, OptionError::Unsup, "TLS is not supported"),
            None => self.refuse(option, OptionError::Unsup, "the option is not supported"),
        }
        Ok(())
    }

    fn run_export_name(&mut self, name: &[u8], catalog: &dyn Catalog) -> Result<(), Violation> {
        let export = catalog.find(name).ok_or(Violation::UnknownExport)?;
        let facts = catalog.facts(export);
        self.reply = Some(Reply::ExportName(facts));
        self.stage = Stage::Ended(HandshakeOutcome::Go(export, facts));
        Ok(())
    }

    fn run_info(&mut self, option: u32, data: &[u8], catalog: &dyn Catalog) {
        let Some((name, wanted)) = parse_info(data) else {
            return self.refuse(option, OptionError::Invalid, "lengths disagree");
        };
        if name.len() > NAME_BYTES_MAX {
            return self.refuse(option, OptionError::TooBig, "the export name is too long");
        }
        let Some(export) = catalog.find(name) else {
            return self.refuse(option, OptionError::Unknown, "there is no export of this name");
        };
        let facts = catalog.facts(export);
        let left = wanted | bit(InfoType::Export) | bit(InfoType::BlockSize);
        self.reply = Some(Reply::Info(InfoReply {
            option,
            export,
            facts,
            left,
        }));
        if option == OptionCode::Go as u32 {
            self.stage = Stage::Ended(HandshakeOutcome::Go(export, facts));
        }
    }

    fn has(&self, flag: u16) -> bool {
        self.client & u32::from(flag) != 0
    }

    fn refuse(&mut self, option: u32, error: OptionError, text: &'static str) {
        self.reply = Some(Reply::Error { option, error, text });
    }

    /// Writes one message; says what follows it.
    fn emit(&self, reply: Reply, out: &mut Writer<'_>, catalog: &dyn Catalog) -> Option<Reply> {
        match reply {
            Reply::Greeting => {
                out.u64(NBD_MAGIC).u64(OPTION_MAGIC).u16(FIXED_NEWSTYLE | NO_ZEROES);
                None
            }
            Reply::Ack { option } => {
                emit_header(out, option, REP_ACK, 0);
                None
            }
            Reply::Error { option, error, text } => {
                emit_header(out, option, error as u32, text.len());
                out.bytes(text.as_bytes());
                None
            }
            Reply::List { next } => emit_list(out, next, catalog),
            Reply::Info(info) => Some(info.emit(out, catalog)),
            Reply::ExportName(facts) => {
                out.u64(facts.size_bytes).u16(facts.flags.bits());
                if !self.has(NO_ZEROES) {
                    out.bytes(&[0; EXPORT_NAME_ZEROES]);
                }
                None
            }
        }
    }
}

impl Default for Handshake {
    fn default() -> Self {
        Self::new()
    }
}

impl InfoReply {
    /// Block sizes are told whether asked for or not: they are not the defaults that a client would assume.
    const ORDER: [InfoType; 4] = [
        InfoType::Export,
        InfoType::Name,
        InfoType::Description,
        InfoType::BlockSize,
    ];

    fn emit(mut self, out: &mut Writer<'_>, catalog: &dyn Catalog) -> Reply {
        let due = |kind: &InfoType| self.left & bit(*kind) != 0;
        let kind = Self::ORDER
            .into_iter()
            .find(due)
            .expect("a sequence holds a message until it ends");
        self.emit_one(kind, out, catalog);
        self.left &= !bit(kind);
        if self.left == 0 {
            Reply::Ack { option: self.option }
        } else {
            Reply::Info(self)
        }
    }

    fn emit_one(&self, kind: InfoType, out: &mut Writer<'_>, catalog: &dyn Catalog) {
        let mut text = |text: &str| {
            emit_header(out, self.option, REP_INFO, 2 + text.len());
            out.u16(kind as u16).bytes(text.as_bytes());
        };
        match kind {
            InfoType::Name => text(catalog.name(self.export)),
            InfoType::Description => text(catalog.description(self.export)),
            InfoType::Export => {
                emit_header(out, self.option, REP_INFO, 12);
                out.u16(kind as u16)
                    .u64(self.facts.size_bytes)
                    .u16(self.facts.flags.bits());
            }
            InfoType::BlockSize => {
                let sizes = self.facts.blocks;
                emit_header(out, self.option, REP_INFO, 14);
                out.u16(kind as u16).u32(sizes.min).u32(sizes.preferred).u32(sizes.max);
            }
        }
    }
}

fn emit_list(out: &mut Writer<'_>, next: usize, catalog: &dyn Catalog) -> Option<Reply> {
    let option = OptionCode::List as u32;
    if next < catalog.count() {
        let (name, text) = (catalog.name(ExportId(next)), catalog.description(ExportId(next)));
        emit_header(out, option, REP_SERVER, 4 + name.len() + text.len());
        out.u32(len32(name.len())).bytes(name.as_bytes()).bytes(text.as_bytes());
        return Some(Reply::List { next: next + 1 });
    }
    emit_header(out, option, REP_ACK, 0);
    None
}

fn emit_header(out: &mut Writer<'_>, option: u32, kind: u32, len: usize) {
    let len = len32(len);
    out.bytes(&OptionReplyHeader { option, kind, len }.emit());
}

/// Name and wanted kinds of `INFO` and `GO`: `| name length u32 | name | count u16 | count × kind u16 |`, no more, no less.
fn parse_info(data: &[u8]) -> Option<(&[u8], u16)> {
    let (len, rest) = data.split_first_chunk::<4>()?;
    let (name, rest) = rest.split_at_checked(u32::from_be_bytes(*len) as usize)?;
    let (count, kinds) = rest.split_first_chunk::<2>()?;
    if kinds.len() != 2 * usize::from(u16::from_be_bytes(*count)) {
        return None;
    }
    let known = [InfoType::Name, InfoType::Description];
    let asked = kinds.chunks_exact(2).map(|kind| be16(kind, 0));
    let wanted = asked.filter_map(|kind| known.into_iter().find(|known| *known as u16 == kind));
    Some((name, wanted.fold(0, |set, kind| set | bit(kind))))
}

fn bit(kind: InfoType) -> u16 {
    1 << kind as u16
}

fn len32(len: usize) -> u32 {
    u32::try_from(len).expect("names and descriptions are bounded")
}

#[cfg(test)]
#[path = "handshake/tests.rs"]
mod tests;
