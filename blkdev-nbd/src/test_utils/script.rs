//! What clients say, byte by byte: the beginnings of tests, and the seeds of the fuzzer.

use crate::proto::{CommandFlags, CommandHeader, CommandType, OptionCode, OptionHeader};

/// The bytes of a client, put together piece by piece.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script(Vec<u8>);

impl Script {
    /// A client that has said its flags: 1 for the fixed newstyle, 2 for no zeroes.
    pub fn new(flags: u32) -> Self {
        Self(flags.to_be_bytes().to_vec())
    }

    /// All of it.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Anything.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// An option by its number.
    pub fn option(self, option: u32, data: &[u8]) -> Self {
        let len = len32(data.len());
        self.raw(&OptionHeader { option, len }.emit()).raw(data)
    }

    /// `INFO` or `GO`, with the kinds of information that are wanted.
    pub fn info(self, code: OptionCode, name: &str, wanted: &[u16]) -> Self {
        let mut data = text(name.as_bytes());
        data.extend(u16::try_from(wanted.len()).expect("scripts are short").to_be_bytes());
        data.extend(wanted.iter().flat_map(|kind| kind.to_be_bytes()));
        self.option(code as u32, &data)
    }

    /// `GO`, with nothing wanted.
    pub fn go(self, name: &str) -> Self {
        self.info(OptionCode::Go, name, &[])
    }

    /// `LIST_META_CONTEXT` or `SET_META_CONTEXT`.
    pub fn meta(self, code: OptionCode, name: &str, queries: &[&str]) -> Self {
        let mut data = text(name.as_bytes());
        data.extend(len32(queries.len()).to_be_bytes());
        data.extend(queries.iter().flat_map(|query| text(query.as_bytes())));
        self.option(code as u32, &data)
    }

    /// A client that has chosen an export, structured replies and `base:allocation`.
    pub fn structured(name: &str) -> Self {
        let script = Self::new(3).option(OptionCode::StructuredReply as u32, b"");
        script
            .meta(OptionCode::SetMetaContext, name, &["base:allocation"])
            .go(name)
    }

    /// A command; a write brings as many bytes as it says.
    pub fn command(self, kind: CommandType, flags: CommandFlags, offset: u64, len: u32) -> Self {
        let header = CommandHeader {
            flags,
            kind: kind as u16,
            cookie: self.0.len() as u64,
            offset,
            len,
        };
        let payload = vec![0xa5; header.payload_len() as usize];
        self.raw(&header.emit()).raw(&payload)
    }
}

/// Scripts that reach every part of the protocol, by name.
pub fn seeds() -> Vec<(&'static str, Script)> {
    let fixed = || Script::new(3);
    vec![
        (
            "list",
            fixed()
                .option(OptionCode::List as u32, b"")
                .option(OptionCode::Abort as u32, b""),
        ),
        (
            "info",
            fixed()
                .info(OptionCode::Info, "ro", &[0, 1, 2, 3, 9])
                .info(OptionCode::Info, "none", &[]),
        ),
        (
            "export_name",
            Script::new(0).option(OptionCode::ExportName as u32, b"disk"),
        ),
        (
            "refused_options",
            fixed()
                .option(OptionCode::StartTls as u32, b"")
                .option(11, b"")
                .option(7, &[0; 9000])
                .go("bare"),
        ),
        ("contexts", contexts()),
        ("simple", commands(fixed().go("disk"))),
        ("structured", commands(Script::structured("disk"))),
        ("read_only", commands(Script::structured("ro"))),
        ("bare", commands(fixed().go("bare"))),
    ]
}

fn contexts() -> Script {
    let script = Script::new(3)
        .meta(OptionCode::SetMetaContext, "disk", &["base:allocation"])
        .option(OptionCode::StructuredReply as u32, b"")
        .meta(OptionCode::ListMetaContext, "disk", &[])
        .meta(OptionCode::ListMetaContext, "ro", &["base:", "qemu:dirty-bitmap:x"])
        .meta(OptionCode::SetMetaContext, "ro", &["base:allocation"])
        .meta(OptionCode::SetMetaContext, "disk", &["x-y:", "base:allocation"])
        .go("disk");
    script.command(CommandType::BlockStatus, CommandFlags::REQ_ONE, 4096, 65536)
}

/// One command of each kind, with its flags and without, and some that are refused.
fn commands(script: Script) -> Script {
    let none = CommandFlags::empty();
    script
        .command(CommandType::Read, none, 0, 65536)
        .command(CommandType::Read, CommandFlags::DF, 4096, 8192)
        .command(CommandType::Write, none, 8192, 4096)
        .command(CommandType::Write, CommandFlags::FUA, 12288, 512)
        .command(CommandType::Flush, none, 0, 0)
        .command(CommandType::Trim, none, 0, 4096)
        .command(CommandType::Cache, none, 0, 1 << 20)
        .command(
            CommandType::WriteZeroes,
            CommandFlags::NO_HOLE | CommandFlags::FAST_ZERO,
            0,
            4096,
        )
        .command(CommandType::BlockStatus, none, 0, 1 << 20)
        .command(CommandType::BlockStatus, CommandFlags::REQ_ONE, 512, 4096)
        .command(CommandType::Write, none, 1 << 40, 4096)
        .command(CommandType::Read, none, 3, 77)
        .command(CommandType::Disc, none, 0, 0)
        .raw(b"never looked at")
}

/// A string behind its length.
fn text(text: &[u8]) -> Vec<u8> {
    [&len32(text.len()).to_be_bytes()[..], text].concat()
}

fn len32(len: usize) -> u32 {
    u32::try_from(len).expect("scripts are short")
}
