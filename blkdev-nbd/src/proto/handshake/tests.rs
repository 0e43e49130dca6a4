use std::fmt::Write as _;

use proptest::prelude::*;

use super::super::{BlockSizes, ExportFacts};
use super::reply::len32;
use super::*;

/// Two exports; the first is the default.
struct Shelf;

const EXPORTS: [(&str, &str, u64); 2] = [("first", "the default export", 1 << 30), ("zweite", "", 4096)];

impl Catalog for Shelf {
    fn count(&self) -> usize {
        EXPORTS.len()
    }

    fn next(&self, from: ExportId) -> Option<ExportId> {
        (from.0 < EXPORTS.len()).then_some(from)
    }

    fn name(&self, id: ExportId) -> Option<&str> {
        EXPORTS.get(id.0).map(|export| export.0)
    }

    fn description(&self, id: ExportId) -> Option<&str> {
        EXPORTS.get(id.0).map(|export| export.1)
    }

    fn facts(&self, id: ExportId) -> Option<ExportFacts> {
        let blocks = BlockSizes {
            min: 512,
            preferred: 4096,
            max: PAYLOAD_BYTES_MAX,
        };
        let flags = TransmissionFlags::HAS_FLAGS | TransmissionFlags::SEND_FLUSH;
        Some(ExportFacts {
            size_bytes: EXPORTS.get(id.0)?.2,
            flags,
            blocks,
        })
    }
}

/// What a whole exchange came to.
#[derive(Debug, Default, PartialEq)]
struct Exchange {
    sent: Vec<u8>,
    taken: usize,
    end: Option<Result<HandshakeOutcome, Violation>>,
}

/// Feeds `pieces` one after the other, as a socket would yield them.
fn exchange<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Exchange {
    let (mut machine, mut held, mut result) = (Handshake::new(), Vec::new(), Exchange::default());
    let mut out = vec![0; Handshake::OUTPUT_BYTES];
    for piece in pieces {
        held.extend_from_slice(piece);
        loop {
            let len = machine.poll_transmit(&mut out, &Shelf);
            result.sent.extend_from_slice(&out[..len]);
            let taken = match machine.handle_bytes(&held, &Shelf) {
                Ok(taken) => taken,
                Err(violation) => {
                    result.end = Some(Err(violation));
                    return result;
                }
            };
            held.drain(..taken);
            result.taken += taken;
            if len == 0 && taken == 0 {
                break;
            }
        }
        assert!(held.len() <= Handshake::INPUT_BYTES || machine.poll_outcome().is_some());
    }
    result.end = machine.poll_outcome().map(Ok);
    result
}

fn option(option: u32, data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len()).unwrap();
    [&OptionHeader { option, len }.emit()[..], data].concat()
}

fn go(code: OptionCode, name: &str, wanted: &[u16]) -> Vec<u8> {
    let mut data = len32(name.len()).to_be_bytes().to_vec();
    data.extend_from_slice(name.as_bytes());
    data.extend_from_slice(&u16::try_from(wanted.len()).unwrap().to_be_bytes());
    data.extend(wanted.iter().flat_map(|kind| kind.to_be_bytes()));
    option(code as u32, &data)
}

fn client(flags: u32, options: &[Vec<u8>]) -> Vec<u8> {
    [&flags.to_be_bytes()[..], &options.concat()].concat()
}

const FIXED: u32 = 3;

/// The server's side of an exchange in words.
fn dump(input: &[u8]) -> String {
    let exchange = exchange([input]);
    let (greeting, mut rest) = exchange.sent.split_at(18);
    let mut text = format!("greeting {greeting:02x?}\n");
    while let Some(header) = rest.first_chunk().and_then(OptionReplyHeader::parse) {
        let (data, tail) = rest[OptionReplyHeader::BYTES..].split_at(header.len as usize);
        writeln!(
            text,
            "option {} reply {:#x} \"{}\"",
            header.option,
            header.kind,
            data.escape_ascii()
        )
        .unwrap();
        rest = tail;
    }
    if !rest.is_empty() {
        writeln!(text, "plain {} bytes {:02x?}", rest.len(), &rest[..10]).unwrap();
    }
    writeln!(text, "taken {} of {}, {:?}", exchange.taken, input.len(), exchange.end).unwrap();
    text
}

#[test]
fn go_tells_what_was_asked_and_the_block_sizes() {
    insta::assert_snapshot!(dump(&client(FIXED, &[go(OptionCode::Go, "first", &[1, 2, 77])])), @r#"
    greeting [4e, 42, 44, 4d, 41, 47, 49, 43, 49, 48, 41, 56, 45, 4f, 50, 54, 00, 03]
    option 7 reply 0x3 "\x00\x00\x00\x00\x00\x00@\x00\x00\x00\x00\x05"
    option 7 reply 0x3 "\x00\x01first"
    option 7 reply 0x3 "\x00\x02the default export"
    option 7 reply 0x3 "\x00\x03\x00\x00\x02\x00\x00\x00\x10\x00\x02\x00\x00\x00"
    option 7 reply 0x1 ""
    taken 37 of 37, Some(Ok(Go(Session { export: ExportId(0), facts: ExportFacts { size_bytes: 1073741824, flags: TransmissionFlags(HAS_FLAGS | SEND_FLUSH), blocks: BlockSizes { min: 512, preferred: 4096, max: 33554432 } }, structured: false, allocation: false })))
    "#);
}

#[test]
fn info_leaves_the_session_open_and_the_empty_name_is_the_default() {
    let options = [go(OptionCode::Info, "", &[1]), go(OptionCode::Go, "zweite", &[])];
    insta::assert_snapshot!(dump(&client(FIXED, &options)), @r#"
    greeting [4e, 42, 44, 4d, 41, 47, 49, 43, 49, 48, 41, 56, 45, 4f, 50, 54, 00, 03]
    option 6 reply 0x3 "\x00\x00\x00\x00\x00\x00@\x00\x00\x00\x00\x05"
    option 6 reply 0x3 "\x00\x01first"
    option 6 reply 0x3 "\x00\x03\x00\x00\x02\x00\x00\x00\x10\x00\x02\x00\x00\x00"
    option 6 reply 0x1 ""
    option 7 reply 0x3 "\x00\x00\x00\x00\x00\x00\x00\x00\x10\x00\x00\x05"
    option 7 reply 0x3 "\x00\x03\x00\x00\x02\x00\x00\x00\x10\x00\x02\x00\x00\x00"
    option 7 reply 0x1 ""
    taken 56 of 56, Some(Ok(Go(Session { export: ExportId(1), facts: ExportFacts { size_bytes: 4096, flags: TransmissionFlags(HAS_FLAGS | SEND_FLUSH), blocks: BlockSizes { min: 512, preferred: 4096, max: 33554432 } }, structured: false, allocation: false })))
    "#);
}

#[test]
fn list_names_every_export() {
    let options = [option(3, b""), option(3, b"x"), option(2, b"")];
    insta::assert_snapshot!(dump(&client(FIXED, &options)), @r#"
    greeting [4e, 42, 44, 4d, 41, 47, 49, 43, 49, 48, 41, 56, 45, 4f, 50, 54, 00, 03]
    option 3 reply 0x2 "\x00\x00\x00\x05firstthe default export"
    option 3 reply 0x2 "\x00\x00\x00\x06zweite"
    option 3 reply 0x1 ""
    option 3 reply 0x80000003 "LIST takes no data"
    option 2 reply 0x1 ""
    taken 53 of 53, Some(Ok(Abort))
    "#);
}

#[test]
fn what_is_unknown_or_refused_is_answered() {
    let options = [
        option(99, b"data of an unknown option"),
        option(5, b""),
        option(11, b""),
        go(OptionCode::Go, "none", &[]),
        option(7, b"\0\0\0\x09short"),
    ];
    insta::assert_snapshot!(dump(&client(FIXED, &options)), @r#"
    greeting [4e, 42, 44, 4d, 41, 47, 49, 43, 49, 48, 41, 56, 45, 4f, 50, 54, 00, 03]
    option 99 reply 0x80000001 "the option is not supported"
    option 5 reply 0x80000001 "TLS is not supported"
    option 11 reply 0x80000001 "the option is not supported"
    option 7 reply 0x80000006 "there is no export of this name"
    option 7 reply 0x80000003 "lengths disagree"
    taken 128 of 128, None
    "#);
}

#[test]
fn export_name_has_zeroes_only_where_they_are_wanted() {
    insta::assert_snapshot!(dump(&client(0, &[option(1, b"first")])), @r#"
    greeting [4e, 42, 44, 4d, 41, 47, 49, 43, 49, 48, 41, 56, 45, 4f, 50, 54, 00, 03]
    plain 134 bytes [00, 00, 00, 00, 40, 00, 00, 00, 00, 05]
    taken 25 of 25, Some(Ok(Go(Session { export: ExportId(0), facts: ExportFacts { size_bytes: 1073741824, flags: TransmissionFlags(HAS_FLAGS | SEND_FLUSH), blocks: BlockSizes { min: 512, preferred: 4096, max: 33554432 } }, structured: false, allocation: false })))
    "#);
    insta::assert_snapshot!(dump(&client(2, &[option(1, b"zweite")])), @r#"
    greeting [4e, 42, 44, 4d, 41, 47, 49, 43, 49, 48, 41, 56, 45, 4f, 50, 54, 00, 03]
    plain 10 bytes [00, 00, 00, 00, 00, 00, 10, 00, 00, 05]
    taken 26 of 26, Some(Ok(Go(Session { export: ExportId(1), facts: ExportFacts { size_bytes: 4096, flags: TransmissionFlags(HAS_FLAGS | SEND_FLUSH), blocks: BlockSizes { min: 512, preferred: 4096, max: 33554432 } }, structured: false, allocation: false })))
    "#);
}

#[test]
fn an_option_too_long_is_refused_and_skipped() {
    let options = [
        option(7, &vec![7; OPTION_BYTES_MAX + 1]),
        go(OptionCode::Go, &"n".repeat(4097), &[]),
        option(2, b""),
    ];
    insta::assert_snapshot!(dump(&client(FIXED, &options)), @r#"
    greeting [4e, 42, 44, 4d, 41, 47, 49, 43, 49, 48, 41, 56, 45, 4f, 50, 54, 00, 03]
    option 7 reply 0x80000009 "the option is too long"
    option 7 reply 0x80000009 "the export name is too long"
    option 2 reply 0x1 ""
    taken 12348 of 12348, Some(Ok(Abort))
    "#);
}

#[test]
fn violations_end_the_session() {
    let end = |input: &[u8]| exchange([input]).end;
    let header = |option, len| [&FIXED.to_be_bytes()[..], &OptionHeader { option, len }.emit()].concat();
    assert_eq!(end(&4u32.to_be_bytes()), Some(Err(Violation::ClientFlags(4))));
    assert_eq!(
        end(&client(0, &[option(3, b"")])),
        Some(Err(Violation::NotFixedNewstyle(3)))
    );
    assert_eq!(
        end(&client(FIXED, &[option(1, b"none")])),
        Some(Err(Violation::UnknownExport))
    );
    assert_eq!(end(&header(1, 8193)), Some(Err(Violation::OptionLength(8193))));
    assert_eq!(end(&header(3, u32::MAX)), Some(Err(Violation::OptionLength(u32::MAX))));
    assert!(matches!(
        end(&client(FIXED, &[vec![0; 16]])),
        Some(Err(Violation::OptionMagic(0)))
    ));
    let many = vec![option(99, b""); OPTIONS_MAX + OPTIONS_PER_EXPORT * EXPORTS.len() + 1];
    assert_eq!(end(&client(FIXED, &many)), Some(Err(Violation::TooManyOptions)));
    assert_eq!(end(&client(FIXED, &many[1..])), None);
}

/// A query for the metadata contexts of an export.
fn meta(code: OptionCode, name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = Vec::new();
    let mut push = |bytes: &[u8]| data.extend_from_slice(bytes);
    push(&len32(name.len()).to_be_bytes());
    push(name.as_bytes());
    push(&len32(queries.len()).to_be_bytes());
    for query in queries {
        push(&len32(query.len()).to_be_bytes());
        push(query.as_bytes());
    }
    option(code as u32, &data)
}

#[test]
fn contexts_are_listed_and_chosen() {
    let options = [
        option(8, b""),
        meta(OptionCode::ListMetaContext, "first", &[]),
        meta(OptionCode::ListMetaContext, "", &["qemu:", "base:"]),
        meta(OptionCode::SetMetaContext, "first", &["base:"]),
        meta(
            OptionCode::SetMetaContext,
            "first",
            &["base:unknown", "base:allocation"],
        ),
        go(OptionCode::Go, "", &[]),
    ];
    insta::assert_snapshot!(dump(&client(FIXED, &options)), @r#"
    greeting [4e, 42, 44, 4d, 41, 47, 49, 43, 49, 48, 41, 56, 45, 4f, 50, 54, 00, 03]
    option 8 reply 0x1 ""
    option 9 reply 0x4 "\x00\x00\x00\x00base:allocation"
    option 9 reply 0x1 ""
    option 9 reply 0x4 "\x00\x00\x00\x00base:allocation"
    option 9 reply 0x1 ""
    option 10 reply 0x1 ""
    option 10 reply 0x4 "\x00\x00\x00\x01base:allocation"
    option 10 reply 0x1 ""
    option 7 reply 0x3 "\x00\x00\x00\x00\x00\x00@\x00\x00\x00\x00\x85"
    option 7 reply 0x3 "\x00\x03\x00\x00\x02\x00\x00\x00\x10\x00\x02\x00\x00\x00"
    option 7 reply 0x1 ""
    taken 215 of 215, Some(Ok(Go(Session { export: ExportId(0), facts: ExportFacts { size_bytes: 1073741824, flags: TransmissionFlags(HAS_FLAGS | SEND_FLUSH | SEND_DF), blocks: BlockSizes { min: 512, preferred: 4096, max: 33554432 } }, structured: true, allocation: true })))
    "#);
}

#[test]
fn what_contexts_depend_on_is_checked() {
    let options = [
        meta(OptionCode::SetMetaContext, "first", &["base:allocation"]),
        option(8, b"x"),
        option(8, b""),
        meta(OptionCode::SetMetaContext, "none", &["base:allocation"]),
        meta(OptionCode::ListMetaContext, &"n".repeat(4097), &[]),
        option(
            OptionCode::SetMetaContext as u32,
            b"\0\0\0\x05first\0\0\0\x02\0\0\0\x05base:",
        ),
    ];
    insta::assert_snapshot!(dump(&client(FIXED, &options)), @r#"
    greeting [4e, 42, 44, 4d, 41, 47, 49, 43, 49, 48, 41, 56, 45, 4f, 50, 54, 00, 03]
    option 10 reply 0x80000003 "structured replies come first"
    option 8 reply 0x80000003 "STRUCTURED_REPLY takes no data"
    option 8 reply 0x1 ""
    option 10 reply 0x80000006 "there is no export of this name"
    option 9 reply 0x80000009 "the export name is too long"
    option 10 reply 0x80000003 "lengths disagree"
    taken 4291 of 4291, None
    "#);
}

/// Is block status served after these options and a `GO` for this export?
fn allocation(options: &[&[u8]], name: &str) -> bool {
    let input = client(
        FIXED,
        &[option(8, b""), options.concat(), go(OptionCode::Go, name, &[])],
    );
    match exchange([&input[..]]).end {
        Some(Ok(HandshakeOutcome::Go(session))) => session.allocation,
        end => panic!("{end:?}"),
    }
}

#[test]
fn a_choice_holds_for_its_export_until_the_next() {
    let set = |name, queries: &[&str]| meta(OptionCode::SetMetaContext, name, queries);
    let first = &set("first", &["base:allocation"])[..];
    let info = go(OptionCode::Info, "zweite", &[]);
    let list = meta(OptionCode::ListMetaContext, "zweite", &["base:allocation"]);
    assert!(allocation(&[first], "first"));
    assert!(allocation(&[first, &info], ""), "the same export by its other name");
    assert!(!allocation(&[first], "zweite"));
    assert!(
        !allocation(&[first, &set("first", &[])], "first"),
        "replaced by nothing"
    );
    assert!(
        !allocation(&[first, &set("none", &["base:allocation"])], "first"),
        "replaced by a failure"
    );
    assert!(allocation(&[first, &list], "first"), "a list chooses nothing");
    assert!(allocation(&[&set("zweite", &["base:allocation"])], "zweite"));
}

#[test]
fn export_name_keeps_what_was_agreed_upon() {
    let set = meta(OptionCode::SetMetaContext, "first", &["base:allocation"]);
    let all = [option(8, b""), set, option(1, b"")];
    let Some(Ok(HandshakeOutcome::Go(session))) = exchange([&client(FIXED, &all)[..]]).end else {
        panic!("an export was chosen");
    };
    assert!(session.structured && session.allocation);
    assert!(session.facts.flags.contains(TransmissionFlags::SEND_DF));
}

#[test]
fn nothing_is_taken_while_a_reply_waits() {
    let mut machine = Handshake::new();
    assert_eq!(machine.handle_bytes(&FIXED.to_be_bytes(), &Shelf), Ok(0));
    assert_eq!(machine.poll_transmit(&mut [0; Handshake::OUTPUT_BYTES], &Shelf), 18);
    assert_eq!(machine.handle_bytes(&FIXED.to_be_bytes(), &Shelf), Ok(4));
}

/// A shelf whose exports are those of these numbers.
struct Changing(Vec<usize>);

impl Catalog for Changing {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn next(&self, from: ExportId) -> Option<ExportId> {
        self.0.iter().copied().map(ExportId).find(|id| *id >= from)
    }

    fn name(&self, id: ExportId) -> Option<&str> {
        self.0.contains(&id.0).then(|| Shelf.name(id)).flatten()
    }

    fn description(&self, id: ExportId) -> Option<&str> {
        self.name(id).map(|_| "")
    }

    fn facts(&self, id: ExportId) -> Option<ExportFacts> {
        self.0.contains(&id.0).then(|| Shelf.facts(id)).flatten()
    }
}

/// The types of what is replied to an option while the exports change from message to message; the last ones stay.
fn replies(option: &[u8], exports: [&[usize]; 4]) -> (Handshake, Vec<u32>) {
    let mut machine = Handshake::new();
    let (mut out, both) = ([0; Handshake::OUTPUT_BYTES], Changing(vec![0, 1]));
    machine.poll_transmit(&mut out, &both);
    machine.handle_bytes(&FIXED.to_be_bytes(), &both).unwrap();
    assert_eq!(machine.handle_bytes(option, &both), Ok(option.len()));
    let mut kinds = Vec::new();
    let mut exports = exports.into_iter().map(|exports| Changing(exports.to_vec()));
    let mut now = exports.next().unwrap();
    while machine.poll_transmit(&mut out, &now) > 0 {
        kinds.push(OptionReplyHeader::parse(out.first_chunk().unwrap()).unwrap().kind);
        now = exports.next().unwrap_or(now);
    }
    (machine, kinds)
}

#[test]
fn an_export_that_goes_while_it_is_told_of_is_unknown_and_another_can_be_chosen() {
    const UNKNOWN: u32 = OptionError::Unknown as u32;
    for code in [OptionCode::Info, OptionCode::Go] {
        let ask = go(code, "zweite", &[1, 2]);
        let (mut machine, kinds) = replies(&ask, [&[0, 1], &[0], &[0], &[0]]);
        assert_eq!((kinds, machine.poll_outcome()), (vec![3, UNKNOWN], None));
        let next = go(OptionCode::Go, "", &[]);
        assert_eq!(machine.handle_bytes(&next, &Changing(vec![0])), Ok(next.len()));
        assert_eq!(
            replies(&ask, [&[], &[0, 1], &[0, 1], &[0, 1]]).1,
            [UNKNOWN],
            "it does not come back"
        );
    }
}

#[test]
fn a_list_has_each_export_once_that_is_there_all_the_time() {
    let list = option(3, b"");
    assert_eq!(replies(&list, [&[0, 1], &[1], &[1], &[1]]).1, [2, 2, 1]);
    assert_eq!(replies(&list, [&[0, 1], &[0], &[0], &[0]]).1, [2, 1]);
    assert_eq!(replies(&list, [&[1], &[0, 1], &[0, 1], &[0, 1]]).1, [2, 1]);
    assert_eq!(replies(&list, [&[], &[0, 1], &[0, 1], &[0, 1]]).1, [1]);
}

fn an_option() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(option(3, b"")),
        Just(go(OptionCode::Info, "first", &[1, 2, 3])),
        Just(go(OptionCode::Go, "zweite", &[3])),
        Just(option(2, b"")),
        Just(option(8, b"")),
        Just(meta(OptionCode::SetMetaContext, "zweite", &["base:allocation"])),
        Just(meta(OptionCode::ListMetaContext, "", &[])),
        (0u32..12, proptest::collection::vec(any::<u8>(), 0..40)).prop_map(|(code, data)| option(code, &data)),
        (8000usize..9000).prop_map(|len| option(7, &vec![0; len])),
        proptest::collection::vec(any::<u8>(), 0..40),
    ]
}

/// Cuts `input` at the given places.
fn pieces<'a>(mut input: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut out = Vec::new();
    for cut in cuts {
        let (piece, rest) = input.split_at(input.len().min(*cut));
        out.push(piece);
        input = rest;
    }
    out.push(input);
    out
}

proptest! {
    #[test]
    fn the_cut_of_the_input_changes_nothing(
        flags in 0u32..4,
        options in proptest::collection::vec(an_option(), 0..8),
        cuts in proptest::collection::vec(0usize..60, 0..60),
    ) {
        let input = client(flags, &options);
        prop_assert_eq!(exchange(pieces(&input, &cuts)), exchange([&input[..]]));
    }

    #[test]
    fn noise_never_panics(input in proptest::collection::vec(any::<u8>(), 0..300)) {
        exchange([&input[..]]);
    }
}
