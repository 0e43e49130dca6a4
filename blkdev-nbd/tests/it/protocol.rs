//! The protocol core against its model: valid bytes, mutated bytes and noise, cut anywhere.

#![allow(clippy::print_stdout, reason = "a test that is skipped says so")]

use std::path::{Path, PathBuf};

use blkdev_nbd::proto::{CommandFlags, CommandHeader, CommandType, OptionCode};
use blkdev_nbd::test_utils::conversation::{CUTS, Conversation, OPTIONS_MAX, check, check_fuzzed};
use blkdev_nbd::test_utils::script::{Script, seeds};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

#[test]
fn scripts_reach_what_they_are_for() {
    for (name, script) in seeds() {
        check(script.bytes(), &[]);
        let talk = Conversation::of([script.bytes()]);
        assert_eq!(talk.violation, None, "{name}");
        let events = talk.events.len();
        match name {
            "structured" => assert_eq!(events, 13),
            "contexts" => assert_eq!(events, 1),
            "list" => assert!(talk.outcome.is_some() && talk.session().is_none()),
            _ => {}
        }
    }
}

#[test]
fn one_option_too_many_is_not_answered() {
    for last in [&b""[..], &[0; 9000]] {
        let script = (0..OPTIONS_MAX).fold(Script::new(3), |script, _| script.option(99, b""));
        let script = script.option(99, last);
        check(script.bytes(), &[]);
        assert!(Conversation::of([script.bytes()]).violation.is_some());
    }
}

/// The fuzzer's folder, if the crate lies in its workspace.
fn corpus() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/nbd_server");
    if !folder.is_dir() {
        println!("skipped: {} is not here", folder.display());
        return None;
    }
    Some(folder)
}

/// Seeds and regressions alike. `IOMGR_UPDATE_SEEDS=1` writes the seeds anew.
#[test]
fn the_fuzzers_corpus_passes_and_holds_the_seeds() {
    let Some(folder) = corpus() else { return };
    for (name, script) in seeds() {
        let (file, bytes) = (
            folder.join(format!("seed_{name}")),
            [&[0; CUTS], script.bytes()].concat(),
        );
        if std::env::var_os("IOMGR_UPDATE_SEEDS").is_some() {
            std::fs::write(&file, &bytes).unwrap();
        }
        let there = std::fs::read(&file).ok();
        assert!(
            there == Some(bytes),
            "{}: run again with IOMGR_UPDATE_SEEDS=1",
            file.display()
        );
    }
    for entry in std::fs::read_dir(folder).unwrap() {
        check_fuzzed(&std::fs::read(entry.unwrap().path()).unwrap());
    }
}

fn name() -> impl Strategy<Value = &'static str> {
    prop_oneof![4 => Just("disk"), 1 => Just(""), 1 => Just("ro"), 1 => Just("bare"), 1 => Just("none")]
}

/// A message of a client; appended to what it said before.
#[derive(Clone, Debug)]
enum Message {
    Option(u32, Vec<u8>),
    Info(OptionCode, &'static str, Vec<u16>),
    Meta(OptionCode, &'static str, Vec<&'static str>),
    Command(u16, u16, u64, u32),
}

impl Message {
    fn say(&self, script: Script) -> Script {
        match self {
            Self::Option(option, data) => script.option(*option, data),
            Self::Info(code, name, wanted) => script.info(*code, name, wanted),
            Self::Meta(code, name, queries) => script.meta(*code, name, queries),
            Self::Command(kind, flags, offset, len) => {
                let header = CommandHeader {
                    flags: CommandFlags::from_bits_retain(*flags),
                    kind: *kind,
                    cookie: 1,
                    offset: *offset,
                    len: *len,
                };
                let payload = vec![0x5a; header.payload_len() as usize];
                script.raw(&header.emit()).raw(&payload)
            }
        }
    }
}

fn option_message() -> impl Strategy<Value = Message> {
    let query = prop_oneof![Just("base:allocation"), Just("base:"), Just("qemu:x"), Just("")];
    let meta = prop_oneof![Just(OptionCode::ListMetaContext), Just(OptionCode::SetMetaContext)];
    let data = prop_oneof![4 => vec(any::<u8>(), 0..20), 1 => (8000usize..9000).prop_map(|len| vec![0; len])];
    prop_oneof![
        2 => Just(Message::Option(8, vec![])),
        1 => Just(Message::Option(3, vec![])),
        1 => (4u32..20, data).prop_map(|(option, data)| Message::Option(option, data)),
        1 => (name(), vec(0u16..6, 0..6)).prop_map(|(name, wanted)| Message::Info(OptionCode::Info, name, wanted)),
        3 => (meta, name(), vec(query, 0..4)).prop_map(|(code, name, queries)| Message::Meta(code, name, queries)),
    ]
}

fn command_message() -> impl Strategy<Value = Message> {
    let kind = prop_oneof![8 => (0u16..8).prop_filter("the end", |kind| *kind != 2), 1 => any::<u16>()];
    let flags = prop_oneof![4 => Just(0u16), 2 => (0u16..5).prop_map(|bit| 1 << bit), 1 => any::<u16>()];
    // The exports have 1, 2, 4 and 8 MiB; their ends are where mistakes are made.
    let near_an_end = (20u32..24, 0u64..16).prop_map(|(shift, n)| (1 << shift) - n * 512);
    let offset = prop_oneof![
        4 => (0u64..300).prop_map(|n| n * 4096),
        1 => (0u64..3000).prop_map(|n| n * 512),
        4 => near_an_end,
        1 => any::<u64>(),
    ];
    let len = prop_oneof![4 => (0u32..8).prop_map(|n| n * 4096), 1 => (0u32..8).prop_map(|n| n * 512), 1 => 0u32..5000];
    (kind, flags, offset, len).prop_map(|(kind, flags, offset, len)| Message::Command(kind, flags, offset, len))
}

/// A client that keeps to the rules, mostly.
fn a_client() -> impl Strategy<Value = Vec<u8>> {
    let flags = prop_oneof![8 => Just(3u32), 1 => 0u32..5];
    let end = prop_oneof![4 => name().prop_map(|name| Some(Message::Info(OptionCode::Go, name, vec![1]))),
        1 => Just(Some(Message::Option(1, b"disk".to_vec()))), 1 => Just(None)];
    (
        flags,
        vec(option_message(), 0..8),
        end,
        vec(command_message(), 0..12),
        any::<bool>(),
    )
        .prop_map(|(flags, options, end, commands, leaves)| {
            let messages = options.into_iter().chain(end).chain(commands);
            let script = messages.fold(Script::new(flags), |script, message| message.say(script));
            let none = CommandFlags::empty();
            let script = if leaves {
                script.command(CommandType::Disc, none, 0, 0)
            } else {
                script
            };
            script.bytes().to_vec()
        })
}

/// What goes wrong with bytes.
#[derive(Clone, Debug)]
enum Mutation {
    Flip(Index, u8),
    Set(Index, u32),
    Remove(Index, usize),
    Insert(Index, Vec<u8>),
    Repeat(Index, usize),
}

impl Mutation {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let at = |index: &Index| index.index(bytes.len() + 1);
        match self {
            Self::Flip(index, bit) => {
                let at = at(index);
                bytes
                    .iter_mut()
                    .skip(at)
                    .take(1)
                    .for_each(|byte| *byte ^= 1 << (bit % 8));
            }
            Self::Set(index, value) => {
                let at = at(index);
                bytes
                    .iter_mut()
                    .skip(at)
                    .zip(value.to_be_bytes())
                    .for_each(|(byte, new)| *byte = new);
            }
            Self::Remove(index, len) => {
                let at = at(index);
                bytes.drain(at..(at + len).min(bytes.len()));
            }
            Self::Insert(index, new) => {
                let at = at(index);
                bytes.splice(at..at, new.iter().copied());
            }
            Self::Repeat(index, len) => {
                let at = at(index);
                let run = bytes[at..(at + len).min(bytes.len())].to_vec();
                bytes.splice(at..at, run);
            }
        }
    }
}

fn a_mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<Index>;
    let number = prop_oneof![Just(0u32), Just(u32::MAX), 0u32..10_000, any::<u32>()];
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        (at(), number).prop_map(|(at, value)| Mutation::Set(at, value)),
        (at(), 1usize..40).prop_map(|(at, len)| Mutation::Remove(at, len)),
        (at(), vec(any::<u8>(), 1..20)).prop_map(|(at, new)| Mutation::Insert(at, new)),
        (at(), 1usize..60).prop_map(|(at, len)| Mutation::Repeat(at, len)),
    ]
}

fn cuts() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![Just(vec![1]), vec(any::<u8>(), 0..8)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn valid_clients_get_what_the_model_says(input in a_client(), cuts in cuts()) {
        check(&input, &cuts);
    }

    #[test]
    fn mutated_clients_get_what_the_model_says(
        input in a_client(),
        mutations in vec(a_mutation(), 1..6),
        cuts in cuts(),
    ) {
        let mut input = input;
        mutations.iter().for_each(|mutation| mutation.apply(&mut input));
        check(&input, &cuts);
    }

    #[test]
    fn noise_gets_what_the_model_says(input in vec(any::<u8>(), 0..400), cuts in cuts()) {
        check(&input, &cuts);
        check(&[Script::structured("disk").bytes(), &input].concat(), &cuts);
    }
}
