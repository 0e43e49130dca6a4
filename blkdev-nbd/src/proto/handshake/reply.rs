//! What a server says in the handshake, message by message.

use super::super::facts::{Catalog, ExportFacts, ExportId};
use super::super::option::{REP_ACK, REP_INFO, REP_META_CONTEXT, REP_SERVER};
use super::super::{
    ALLOCATION_CONTEXT, InfoType, NBD_MAGIC, OPTION_MAGIC, OptionCode, OptionError, OptionReplyHeader, Writer,
};
use super::{EXPORT_NAME_ZEROES, FIXED_NEWSTYLE, NO_ZEROES};

/// What has to be transmitted next; some of these turn into another one when they were.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reply {
    Greeting,
    Ack {
        option: u32,
    },
    Error {
        option: u32,
        error: OptionError,
        text: &'static str,
    },
    /// The exports from this number on.
    List {
        from: ExportId,
    },
    Info(InfoReply),
    /// The one metadata context, under this number.
    MetaContext {
        option: u32,
        id: u32,
    },
    ExportName {
        facts: ExportFacts,
        zeroes: bool,
    },
}

/// A sequence of information messages, then an acknowledgement.
#[derive(Clone, Copy, Debug)]
pub(super) struct InfoReply {
    pub(super) option: u32,
    pub(super) export: ExportId,
    pub(super) facts: ExportFacts,
    /// What to send still, a bit for each [`InfoType`].
    pub(super) left: u16,
}

impl Reply {
    /// Writes one message; says what follows it.
    pub(super) fn emit(self, out: &mut Writer<'_>, catalog: &dyn Catalog) -> Option<Self> {
        match self {
            Self::Greeting => {
                out.u64(NBD_MAGIC).u64(OPTION_MAGIC).u16(FIXED_NEWSTYLE | NO_ZEROES);
                None
            }
            Self::Ack { option } => {
                emit_header(out, option, REP_ACK, 0);
                None
            }
            Self::Error { option, error, text } => {
                emit_header(out, option, error as u32, text.len());
                out.bytes(text.as_bytes());
                None
            }
            Self::List { from } => emit_list(out, from, catalog),
            Self::Info(info) => Some(info.emit(out, catalog)),
            Self::MetaContext { option, id } => {
                emit_header(out, option, REP_META_CONTEXT, 4 + ALLOCATION_CONTEXT.len());
                out.u32(id).bytes(ALLOCATION_CONTEXT.as_bytes());
                Some(Self::Ack { option })
            }
            Self::ExportName { facts, zeroes } => {
                out.u64(facts.size_bytes).u16(facts.flags.bits());
                if zeroes {
                    out.bytes(&[0; EXPORT_NAME_ZEROES]);
                }
                None
            }
        }
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
            InfoType::Name => text(catalog.name(self.export).unwrap_or_default()),
            InfoType::Description => text(catalog.description(self.export).unwrap_or_default()),
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

fn emit_list(out: &mut Writer<'_>, from: ExportId, catalog: &dyn Catalog) -> Option<Reply> {
    let option = OptionCode::List as u32;
    let Some(id) = catalog.next(from) else {
        emit_header(out, option, REP_ACK, 0);
        return None;
    };
    let (name, text) = (catalog.name(id), catalog.description(id));
    let (name, text) = (name.unwrap_or_default(), text.unwrap_or_default());
    emit_header(out, option, REP_SERVER, 4 + name.len() + text.len());
    out.u32(len32(name.len())).bytes(name.as_bytes()).bytes(text.as_bytes());
    Some(Reply::List { from: id.after() })
}

fn emit_header(out: &mut Writer<'_>, option: u32, kind: u32, len: usize) {
    let len = len32(len);
    out.bytes(&OptionReplyHeader { option, kind, len }.emit());
}

pub(super) fn bit(kind: InfoType) -> u16 {
    1 << kind as u16
}

pub(super) fn len32(len: usize) -> u32 {
    u32::try_from(len).expect("names and descriptions are bounded")
}
