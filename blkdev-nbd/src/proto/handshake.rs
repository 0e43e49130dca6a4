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
//! - Exports may come and go meanwhile. One that goes while it is being told of is unknown, and the client may choose another.

mod reply;

use self::reply::{InfoReply, Reply, bit};
use super::facts::{Catalog, ExportId, Session};
use super::meta::{ALLOCATION_CONTEXT_ID, MetaQuery};
use super::{
    InfoType, NAME_BYTES_MAX, OPTION_BYTES_MAX, OptionCode, OptionError, OptionHeader, OptionReplyHeader,
    PAYLOAD_BYTES_MAX, TransmissionFlags, Violation, Writer, be16,
};

/// Options taken on one connection, besides some for each export; clients send fewer than ten.
const OPTIONS_MAX: usize = 64;

/// Who lists the exports asks about each of them; qemu does so twice, on one connection.
const OPTIONS_PER_EXPORT: usize = 4;

/// Handshake flags offered to the client, and the client flags that answer them: fixed newstyle, no zeroes.
const FIXED_NEWSTYLE: u16 = 1 << 0;
const NO_ZEROES: u16 = 1 << 1;

/// Zeros behind the answer to `EXPORT_NAME`, unless both sides do without.
const EXPORT_NAME_ZEROES: usize = 124;

/// How a handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeOutcome {
    /// Transmission begins.
    Go(Session),
    /// The client wants no more: close.
    Abort,
}

/// The server's side of the handshake of one connection.
#[derive(Clone, Debug)]
pub struct Handshake {
    stage: Stage,
    reply: Option<Reply>,
    client: u32,
    /// Options taken so far.
    options: usize,
    /// Structured replies were agreed upon.
    structured: bool,
    /// The export for which `base:allocation` was chosen last.
    allocation: Option<ExportId>,
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
            options: 0,
            structured: false,
            allocation: None,
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
        self.notice_gone(catalog);
        let Some(reply) = self.reply else { return 0 };
        let mut writer = Writer::new(out);
        self.reply = reply.emit(&mut writer, catalog);
        writer.at
    }

    /// How it ended, once everything is transmitted.
    pub fn poll_outcome(&self) -> Option<HandshakeOutcome> {
        match (self.stage, self.reply) {
            (Stage::Ended(outcome), None) => Some(outcome),
            _ => None,
        }
    }

    /// An export that is gone is not told of any further, nor chosen.
    fn notice_gone(&mut self, catalog: &dyn Catalog) {
        if let Some(Reply::Info(info)) = self.reply
            && catalog.name(info.export).is_none()
        {
            self.refuse(info.option, OptionError::Unknown, "the export is gone");
            self.stage = Stage::Options;
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
        if header.option != OptionCode::ExportName as u32 && !self.has(FIXED_NEWSTYLE) {
            return Err(Violation::NotFixedNewstyle(header.option));
        }
        if header.len as usize > OPTION_BYTES_MAX {
            return self.refuse_too_long(&header, catalog);
        }
        let end = OptionHeader::BYTES + header.len as usize;
        let Some(data) = input.get(OptionHeader::BYTES..end) else {
            return Ok(0);
        };
        self.count_option(catalog)?;
        self.run_option(header.option, data, catalog)?;
        Ok(end)
    }

    /// `EXPORT_NAME` has no error reply; what nobody would wait for is not skipped either.
    fn refuse_too_long(&mut self, header: &OptionHeader, catalog: &dyn Catalog) -> Result<usize, Violation> {
        if header.option == OptionCode::ExportName as u32 || header.len > PAYLOAD_BYTES_MAX {
            return Err(Violation::OptionLength(header.len));
        }
        self.count_option(catalog)?;
        self.refuse(header.option, OptionError::TooBig, "the option is too long");
        self.stage = Stage::Skip { left: header.len };
        Ok(OptionHeader::BYTES)
    }

    fn count_option(&mut self, catalog: &dyn Catalog) -> Result<(), Violation> {
        self.options += 1;
        if self.options > OPTIONS_MAX + OPTIONS_PER_EXPORT * catalog.count() {
            return Err(Violation::TooManyOptions);
        }
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
            Some(OptionCode::List) => self.reply = Some(Reply::List { from: ExportId(0) }),
            Some(OptionCode::Info | OptionCode::Go) => self.run_info(option, data, catalog),
            Some(OptionCode::StartTls) => self.refuse(option, OptionError::Unsup, "TLS is not supported"),
            Some(OptionCode::StructuredReply) if !data.is_empty() => {
                self.refuse(option, OptionError::Invalid, "STRUCTURED_REPLY takes no data");
            }
            Some(OptionCode::StructuredReply) => {
                self.structured = true;
                self.reply = Some(Reply::Ack { option });
            }
            Some(code @ (OptionCode::ListMetaContext | OptionCode::SetMetaContext)) => {
                self.run_meta(code, data, catalog);
            }
            None => self.refuse(option, OptionError::Unsup, "the option is not supported"),
        }
        Ok(())
    }

    fn run_export_name(&mut self, name: &[u8], catalog: &dyn Catalog) -> Result<(), Violation> {
        let session = catalog.find(name).and_then(|export| self.session(export, catalog));
        let session = session.ok_or(Violation::UnknownExport)?;
        self.reply = Some(Reply::ExportName {
            facts: session.facts,
            zeroes: !self.has(NO_ZEROES),
        });
        self.stage = Stage::Ended(HandshakeOutcome::Go(session));
        Ok(())
    }

    fn run_info(&mut self, option: u32, data: &[u8], catalog: &dyn Catalog) {
        let Some((name, wanted)) = parse_info(data) else {
            return self.refuse(option, OptionError::Invalid, "lengths disagree");
        };
        let export = self.find(option, name, catalog);
        let Some(session) = export.and_then(|export| self.session(export, catalog)) else {
            return;
        };
        let left = wanted | bit(InfoType::Export) | bit(InfoType::BlockSize);
        self.reply = Some(Reply::Info(InfoReply {
            option,
            export: session.export,
            facts: session.facts,
            left,
        }));
        if option == OptionCode::Go as u32 {
            self.stage = Stage::Ended(HandshakeOutcome::Go(session));
        }
    }

    /// A `SET` replaces what was chosen before, also when it fails.
    fn run_meta(&mut self, code: OptionCode, data: &[u8], catalog: &dyn Catalog) {
        let (option, sets) = (code as u32, code == OptionCode::SetMetaContext);
        if sets {
            self.allocation = None;
        }
        if !self.structured {
            return self.refuse(option, OptionError::Invalid, "structured replies come first");
        }
        let Some(query) = MetaQuery::parse(data) else {
            return self.refuse(option, OptionError::Invalid, "lengths disagree");
        };
        let Some(export) = self.find(option, query.name, catalog) else {
            return;
        };
        if !query.names_allocation(code) {
            self.reply = Some(Reply::Ack { option });
            return;
        }
        if sets {
            self.allocation = Some(export);
        }
        // The number means something in the answer to a `SET` only.
        let id = if sets { ALLOCATION_CONTEXT_ID } else { 0 };
        self.reply = Some(Reply::MetaContext { option, id });
    }

    /// The export of that name, or the option is refused.
    fn find(&mut self, option: u32, name: &[u8], catalog: &dyn Catalog) -> Option<ExportId> {
        if name.len() > NAME_BYTES_MAX {
            self.refuse(option, OptionError::TooBig, "the export name is too long");
            return None;
        }
        let export = catalog.find(name);
        if export.is_none() {
            self.refuse(option, OptionError::Unknown, "there is no export of this name");
        }
        export
    }

    /// What transmission on this export would be, by what was agreed upon so far.
    fn session(&self, export: ExportId, catalog: &dyn Catalog) -> Option<Session> {
        let mut facts = catalog.facts(export)?;
        facts.flags.set(TransmissionFlags::SEND_DF, self.structured);
        Some(Session {
            export,
            facts,
            structured: self.structured,
            allocation: self.allocation == Some(export),
        })
    }

    fn has(&self, flag: u16) -> bool {
        self.client & u32::from(flag) != 0
    }

    fn refuse(&mut self, option: u32, error: OptionError, text: &'static str) {
        self.reply = Some(Reply::Error { option, error, text });
    }
}

impl Default for Handshake {
    fn default() -> Self {
        Self::new()
    }
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

#[cfg(test)]
#[path = "handshake/tests.rs"]
mod tests;
