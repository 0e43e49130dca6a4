use proptest::prelude::*;

use super::super::{BlockSizes, ExportId};
use super::*;

const SIZE: u64 = 1 << 30;
const MAX: u32 = 1 << 20;

fn facts() -> ExportFacts {
    let flags = TransmissionFlags::HAS_FLAGS
        | TransmissionFlags::SEND_FLUSH
        | TransmissionFlags::SEND_FUA
        | TransmissionFlags::SEND_TRIM
        | TransmissionFlags::SEND_WRITE_ZEROES;
    let blocks = BlockSizes {
        min: 512,
        preferred: 4096,
        max: MAX,
    };
    ExportFacts {
        size_bytes: SIZE,
        flags,
        blocks,
    }
}

/// Simple replies on that export.
fn session(facts: ExportFacts) -> Session {
    Session {
        export: ExportId(0),
        facts,
        structured: false,
        allocation: false,
    }
}

/// Everything there is.
fn rich() -> Session {
    let mut session = session(facts());
    session.facts.flags |=
        TransmissionFlags::SEND_DF | TransmissionFlags::SEND_CACHE | TransmissionFlags::SEND_FAST_ZERO;
    (session.structured, session.allocation) = (true, true);
    session
}

fn header(kind: CommandType, flags: CommandFlags, offset: u64, len: u32) -> CommandHeader {
    CommandHeader {
        flags,
        kind: kind as u16,
        cookie: 9,
        offset,
        len,
    }
}

/// What a session makes of one command.
fn outcome_on(session: &Session, header: &CommandHeader) -> Result<Command, NbdError> {
    match check(header, session) {
        Event::Command(command) => Ok(command),
        Event::Refused(refusal) => Err(refusal.failure.error),
        event => panic!("{event:?}"),
    }
}

fn outcome(header: CommandHeader) -> Result<Command, NbdError> {
    outcome_on(&session(facts()), &header)
}

fn refusal(kind: CommandType, offset: u64, len: u32) -> Option<NbdError> {
    outcome(header(kind, CommandFlags::empty(), offset, len)).err()
}

use CommandType::{BlockStatus, Cache, Disc, Flush, Read, Trim, Write, WriteZeroes};

#[test]
fn beyond_the_end_is_no_space_for_what_adds_data() {
    for (kind, error) in [
        (Read, NbdError::Inval),
        (Trim, NbdError::Inval),
        (Write, NbdError::NoSpc),
        (WriteZeroes, NbdError::NoSpc),
    ] {
        assert_eq!(refusal(kind, SIZE - 512, 512), None);
        assert_eq!(refusal(kind, SIZE - 512, 1024), Some(error));
        assert_eq!(refusal(kind, SIZE, 512), Some(error));
        assert_eq!(refusal(kind, u64::MAX - 511, 512), Some(error));
    }
}

#[test]
fn what_is_not_whole_blocks_is_invalid() {
    for kind in [Read, Write, Trim, WriteZeroes] {
        for (offset, len) in [(1, 512), (0, 511), (512, 1), (0, 0)] {
            assert_eq!(
                refusal(kind, offset, len),
                Some(NbdError::Inval),
                "{kind:?} {offset}+{len}"
            );
        }
    }
    assert_eq!(refusal(Flush, 0, 512), Some(NbdError::Inval));
    assert_eq!(refusal(Flush, 512, 0), Some(NbdError::Inval));
    assert_eq!(refusal(Flush, 0, 0), None);
}

#[test]
fn only_payloads_have_a_longest_length() {
    for kind in [Read, Write] {
        assert_eq!(refusal(kind, 0, MAX), None);
        assert_eq!(refusal(kind, 0, MAX + 512), Some(NbdError::Inval));
    }
    for kind in [Trim, WriteZeroes] {
        assert_eq!(refusal(kind, 0, u32::try_from(SIZE).unwrap()), None);
    }
}

#[test]
fn flags_belong_to_their_commands() {
    let flags =
        |kind, flags| outcome(header(kind, flags, 0, if kind == Flush { 0 } else { 512 })).map(|command| command.flags);
    for kind in [Read, Flush] {
        assert_eq!(flags(kind, CommandFlags::FUA), Ok(RequestFlags::empty()));
    }
    for kind in [Write, Trim, WriteZeroes] {
        assert_eq!(flags(kind, CommandFlags::FUA), Ok(RequestFlags::FUA));
    }
    assert_eq!(flags(WriteZeroes, CommandFlags::NO_HOLE), Ok(RequestFlags::NO_UNMAP));
    assert_eq!(
        flags(WriteZeroes, CommandFlags::FAST_ZERO),
        Err(NbdError::Inval),
        "not offered"
    );
    assert_eq!(flags(Write, CommandFlags::NO_HOLE), Err(NbdError::Inval));
    assert_eq!(
        flags(Read, CommandFlags::DF),
        Err(NbdError::Inval),
        "structured replies only"
    );
    assert_eq!(
        flags(Read, CommandFlags::from_bits_retain(1 << 9)),
        Err(NbdError::Inval)
    );
}

#[test]
fn a_read_only_export_refuses_writes_of_every_kind() {
    let mut facts = facts();
    facts.flags |= TransmissionFlags::READ_ONLY;
    for kind in [Write, Trim, WriteZeroes] {
        assert_eq!(
            outcome_on(&session(facts), &header(kind, CommandFlags::empty(), 0, 512)),
            Err(NbdError::Perm)
        );
    }
    assert!(outcome_on(&session(facts), &header(Read, CommandFlags::empty(), 0, 512)).is_ok());
}

#[test]
fn what_is_not_offered_is_invalid() {
    let mut facts = facts();
    facts.flags -= TransmissionFlags::SEND_TRIM;
    assert_eq!(
        outcome_on(&session(facts), &header(Trim, CommandFlags::empty(), 0, 512)),
        Err(NbdError::Inval)
    );
    for kind in [5, 7, 8, 0xffff] {
        let header = CommandHeader {
            kind,
            ..header(Read, CommandFlags::empty(), 0, 512)
        };
        assert_eq!(outcome(header), Err(NbdError::Inval));
    }
}

#[test]
fn what_was_negotiated_is_served() {
    let flags = |kind, flags| outcome_on(&rich(), &header(kind, flags, 0, 512));
    let zeros = |flagged| flags(Read, flagged).map(|command| command.zeros);
    assert_eq!(zeros(CommandFlags::empty()), Ok(Zeros::LeftOut));
    assert_eq!(zeros(CommandFlags::DF), Ok(Zeros::AllOrNone));
    assert_eq!(
        flags(Write, CommandFlags::empty()).map(|command| command.zeros),
        Ok(Zeros::Sent)
    );
    assert_eq!(flags(Write, CommandFlags::DF), Err(NbdError::Inval));
    let fast = flags(WriteZeroes, CommandFlags::FAST_ZERO).map(|command| command.flags);
    assert_eq!(fast, Ok(RequestFlags::FAST_ZERO));
    assert_eq!(
        flags(Cache, CommandFlags::empty()).map(|command| command.op),
        Ok(Operation::Prefetch)
    );
    assert_eq!(flags(Cache, CommandFlags::FAST_ZERO), Err(NbdError::Inval));
    let whole = header(Cache, CommandFlags::empty(), 0, u32::try_from(SIZE).unwrap());
    assert!(outcome_on(&rich(), &whole).is_ok(), "it carries no payload");
}

#[test]
fn block_status_needs_a_context() {
    let ask = |session: &Session, flags, len| match check(&header(BlockStatus, flags, 512, len), session) {
        Event::Status(query) => Ok((query.range.offset_bytes(), query.range.len_bytes(), query.one)),
        Event::Refused(refusal) => Err(refusal.failure.error),
        event => panic!("{event:?}"),
    };
    let none = CommandFlags::empty();
    assert_eq!(ask(&rich(), none, 1 << 29), Ok((512, 1 << 29, false)));
    assert_eq!(ask(&rich(), CommandFlags::REQ_ONE, 512), Ok((512, 512, true)));
    assert_eq!(ask(&rich(), CommandFlags::DF, 512), Err(NbdError::Inval));
    assert_eq!(ask(&rich(), none, 0), Err(NbdError::Inval));
    assert_eq!(ask(&rich(), none, 1 << 30), Err(NbdError::Inval), "beyond the end");
    assert_eq!(ask(&session(facts()), none, 512), Err(NbdError::Inval));
}

#[test]
fn refusals_name_the_first_byte_that_is_not_there() {
    let place = |offset, len| match check(&header(Read, CommandFlags::empty(), offset, len), &rich()) {
        Event::Refused(refusal) => refusal.failure.offset,
        event => panic!("{event:?}"),
    };
    assert_eq!(place(SIZE - 512, 1024), Some(SIZE));
    assert_eq!(place(SIZE + 512, 1024), Some(SIZE + 512));
    assert_eq!(place(1, 512), None);
}

/// All that a stream means, with payloads put together again.
#[derive(Debug, Default, PartialEq)]
struct Trace {
    events: Vec<Event>,
    payload: Vec<u8>,
    taken: usize,
    end: Option<Violation>,
}

fn trace<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Trace {
    let (mut machine, mut held, mut out) = (Transmission::new(session(facts())), Vec::new(), Trace::default());
    for piece in pieces {
        held.extend_from_slice(piece);
        loop {
            let (taken, event) = match machine.handle_bytes(&held) {
                Ok(step) => step,
                Err(violation) => {
                    out.end = Some(violation);
                    return out;
                }
            };
            match event {
                Some(Event::Payload(len)) => out.payload.extend_from_slice(&held[..len]),
                Some(event) => out.events.push(event),
                None => {}
            }
            held.drain(..taken);
            out.taken += taken;
            if taken == 0 {
                break;
            }
        }
    }
    out
}

#[test]
fn a_stream_in_words() {
    let mut input = Vec::new();
    let mut push = |kind, flags, offset, len, payload: &[u8]| {
        input.extend_from_slice(&header(kind, flags, offset, len).emit());
        input.extend_from_slice(payload);
    };
    let none = CommandFlags::empty();
    push(Write, CommandFlags::FUA, 1024, 512, &[7; 512]);
    push(Write, none, SIZE, 512, &[8; 512]);
    push(Read, none, 512, 4096, &[]);
    push(WriteZeroes, CommandFlags::NO_HOLE, 0, 1 << 29, &[]);
    push(Flush, none, 0, 0, &[]);
    push(Disc, none, 0, 0, b"never looked at");
    let trace = trace([&input[..]]);
    assert_eq!(
        (trace.payload, trace.end, trace.taken),
        (vec![7; 512], None, input.len() - 15)
    );
    let lines: Vec<_> = trace.events.iter().map(|event| format!("{event:?}")).collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    Command(Command { cookie: 9, op: Write, flags: RequestFlags(FUA), range: SectorRange { start: Sector(2), count: SectorCount(1) }, zeros: Sent })
    Refused(Refusal { cookie: 9, failure: Failure { error: NoSpc, text: "that is beyond the end of the export", offset: Some(1073741824) } })
    Command(Command { cookie: 9, op: Read, flags: RequestFlags(0x0), range: SectorRange { start: Sector(1), count: SectorCount(8) }, zeros: Sent })
    Command(Command { cookie: 9, op: WriteZeroes, flags: RequestFlags(NO_UNMAP), range: SectorRange { start: Sector(0), count: SectorCount(1048576) }, zeros: Sent })
    Command(Command { cookie: 9, op: Flush, flags: RequestFlags(0x0), range: SectorRange { start: Sector(0), count: SectorCount(0) }, zeros: Sent })
    Disconnect
    "#);
}

#[test]
fn a_wrong_magic_drops_the_connection() {
    assert_eq!(trace([&[0; 28][..]]).end, Some(Violation::CommandMagic(0)));
    assert_eq!(trace([&[0; 27][..]]).end, None);
}

#[test]
fn payload_may_go_straight_to_its_place() {
    let mut machine = Transmission::new(session(facts()));
    machine
        .handle_bytes(&header(Write, CommandFlags::empty(), 0, 1024).emit())
        .unwrap();
    assert_eq!(machine.handle_bytes(&[1; 24]), Ok((24, Some(Event::Payload(24)))));
    machine.handle_payload(1000);
    assert!(machine.at_header());
}

fn a_command() -> impl Strategy<Value = Vec<u8>> {
    let flags = prop_oneof![4 => Just(0u16), 1 => any::<u16>()];
    let offset = prop_oneof![
        (0u64..64).prop_map(|sector| sector * 512),
        (SIZE - 2048)..(SIZE + 512),
        any::<u64>()
    ];
    let len = prop_oneof![(0u32..8).prop_map(|count| count * 512), 0u32..2048];
    (flags, 0u16..9, any::<u64>(), offset, len).prop_map(|(flags, kind, cookie, offset, len)| {
        let header = CommandHeader {
            flags: CommandFlags::from_bits_retain(flags),
            kind,
            cookie,
            offset,
            len,
        };
        [&header.emit()[..], &vec![0xa5; header.payload_len() as usize]].concat()
    })
}

proptest! {
    #[test]
    fn the_cut_of_the_stream_changes_nothing(
        commands in proptest::collection::vec(a_command(), 0..12),
        noise in proptest::collection::vec(any::<u8>(), 0..40),
        cuts in proptest::collection::vec(0usize..3000, 0..40),
    ) {
        let input = [commands.concat(), noise].concat();
        let mut rest = &input[..];
        let mut pieces = Vec::new();
        for cut in cuts {
            let (piece, tail) = rest.split_at(rest.len().min(cut));
            pieces.push(piece);
            rest = tail;
        }
        pieces.push(rest);
        prop_assert_eq!(trace(pieces), trace([&input[..]]));
    }

    #[test]
    fn what_passes_lies_inside_the_export(kind in 0u16..9, flags: u16, offset: u64, len: u32, is_rich: bool) {
        let flags = CommandFlags::from_bits_retain(flags);
        let session = if is_rich { rich() } else { session(facts()) };
        match check(&CommandHeader { flags, kind, cookie: 0, offset, len }, &session) {
            Event::Command(command) => {
                prop_assert!(command.range.fits(SectorCount(SIZE / 512)));
                prop_assert!(command.data_len() <= MAX);
            }
            Event::Status(query) => prop_assert!(query.range.fits(SectorCount(SIZE / 512))),
            Event::Refused(refusal) => {
                let inside = |at| offset <= at && at - offset < u64::from(len);
                prop_assert!(refusal.failure.offset.is_none_or(inside));
            }
            event => prop_assert_eq!(event, Event::Disconnect),
        }
    }
}
