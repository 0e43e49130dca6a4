//! The protocol core, talked to without a socket, and checked while it talks.
//!
//! [`check`] is what the property tests and the fuzzer run: whatever the bytes and however they are cut, the core must say
//! what a naive model says, never panic, and never let anything grow or leave the export.

use iomgr_core::{BlockStatus, Limits, SECTOR_BYTES, SectorCount, SectorRange};

use super::model;
use crate::proto::{
    Catalog, Chunk, ChunkHeader, Event, ExportFacts, ExportId, Handshake, HandshakeOutcome, NAME_BYTES_MAX, Session,
    SimpleReply, SparseRead, StatusQuery, Transmission, TransmissionFlags, Violation,
};

/// The exports of these conversations: `disk` has everything and is the default, `ro` is read-only in blocks of 4096 bytes,
/// `bare` offers nothing, and the last has the longest name and description.
#[derive(Debug)]
pub struct Shelf {
    long: String,
}

impl Default for Shelf {
    fn default() -> Self {
        Self {
            long: "n".repeat(NAME_BYTES_MAX),
        }
    }
}

/// The largest payload on these exports.
pub(super) const PAYLOAD_MAX: u32 = 1 << 20;

/// Options that a client of these exports has: 64, and 4 for each of them.
pub const OPTIONS_MAX: usize = 64 + 4 * 4;

impl Catalog for Shelf {
    fn count(&self) -> usize {
        4
    }

    fn next(&self, from: ExportId) -> Option<ExportId> {
        (from.0 < self.count()).then_some(from)
    }

    fn name(&self, id: ExportId) -> Option<&str> {
        ["disk", "ro", "bare", &self.long].get(id.0).copied()
    }

    fn description(&self, id: ExportId) -> Option<&str> {
        ["the default export", "", "", &self.long].get(id.0).copied()
    }

    fn facts(&self, id: ExportId) -> Option<ExportFacts> {
        self.name(id)?;
        let limits = Limits {
            size: SectorCount(2048 << id.0),
            logical_block_bytes: if id.0 == 1 { 4096 } else { 512 },
            physical_block_bytes: 4096,
            optimal_io_bytes: 0,
            discard_granularity_bytes: 512,
            read_only: id.0 == 1,
            volatile_cache: true,
            needs_bytes: false,
            rotational: id.0 == 3,
        };
        let mut facts = ExportFacts::of_device(&limits, PAYLOAD_MAX);
        if id.0 == 2 {
            facts.flags = TransmissionFlags::HAS_FLAGS;
        }
        Some(facts)
    }
}

/// All that a conversation came to.
#[derive(Debug, Default, PartialEq)]
pub struct Conversation {
    /// What the server said in the handshake.
    pub said: Vec<u8>,
    /// What the handshake came to.
    pub outcome: Option<HandshakeOutcome>,
    /// Everything but payloads.
    pub events: Vec<Event>,
    /// The payloads of all writes that were taken.
    pub payload: Vec<u8>,
    /// Bytes taken.
    pub taken: usize,
    /// Why the connection would be dropped.
    pub violation: Option<Violation>,
}

impl Conversation {
    /// Feeds `pieces` one after the other, as a socket would yield them.
    pub fn of<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let (mut talk, mut held, shelf) = (Self::default(), Vec::new(), Shelf::default());
        let mut phase = Phase::Handshake(Handshake::new());
        // The server speaks first.
        for piece in std::iter::once(&[][..]).chain(pieces) {
            held.extend_from_slice(piece);
            while talk.violation.is_none() && talk.step(&mut phase, &mut held, &shelf) {}
        }
        talk
    }

    /// The session, if there came one of it.
    pub fn session(&self) -> Option<Session> {
        match self.outcome {
            Some(HandshakeOutcome::Go(session)) => Some(session),
            _ => None,
        }
    }

    /// One step; false when nothing can be done without more bytes.
    fn step(&mut self, phase: &mut Phase, held: &mut Vec<u8>, shelf: &Shelf) -> bool {
        let spoke = self.speak(phase, shelf);
        match self.listen(phase, held, shelf) {
            Ok(taken) => {
                held.drain(..taken);
                self.taken += taken;
                let goes_on = spoke || taken > 0;
                // What is not taken is bounded, or nobody looks at it any more.
                assert!(goes_on || self.is_over() || held.len() <= Handshake::INPUT_BYTES);
                goes_on
            }
            Err(violation) => {
                self.violation = Some(violation);
                false
            }
        }
    }

    /// What the handshake has to say. True if it said something, or came to its end.
    fn speak(&mut self, phase: &mut Phase, shelf: &Shelf) -> bool {
        let Phase::Handshake(machine) = phase else { return false };
        let mut out = vec![0; Handshake::OUTPUT_BYTES];
        let len = machine.poll_transmit(&mut out, shelf);
        self.said.extend_from_slice(&out[..len]);
        self.outcome = machine.poll_outcome();
        if let Some(session) = self.session() {
            *phase = Phase::Transmission(Transmission::new(session));
        }
        len > 0 || self.session().is_some()
    }

    /// Takes an element; how long it is.
    fn listen(&mut self, phase: &mut Phase, held: &[u8], shelf: &Shelf) -> Result<usize, Violation> {
        match phase {
            Phase::Handshake(machine) => machine.handle_bytes(held, shelf),
            Phase::Transmission(machine) => {
                let (taken, event) = machine.handle_bytes(held)?;
                match event {
                    Some(Event::Payload(len)) => self.payload.extend_from_slice(&held[..len]),
                    event => self.events.extend(event),
                }
                Ok(taken)
            }
        }
    }

    /// Has the client said its last?
    fn is_over(&self) -> bool {
        self.outcome == Some(HandshakeOutcome::Abort) || self.events.last() == Some(&Event::Disconnect)
    }
}

enum Phase {
    Handshake(Handshake),
    Transmission(Transmission),
}

/// Checks one conversation: `cuts` says how long the pieces are, in turn; empty for one piece.
///
/// # Panics
/// If the core does anything that it must not do.
pub fn check(input: &[u8], cuts: &[u8]) {
    let whole = Conversation::of([input]);
    assert_eq!(Conversation::of(pieces(input, cuts)), whole, "a cut changes nothing");
    model::Conversation::of(input).assert_same(&whole);
    assert!(
        whole.said.len() <= 18 + OPTIONS_MAX * 5 * Handshake::OUTPUT_BYTES,
        "output is bounded"
    );
    if let Some(session) = whole.session() {
        whole.events.iter().for_each(|event| check_replies(event, &session));
    }
}

/// As [`check`], with the cuts taken from the front of `data`: what a fuzzer calls.
pub fn check_fuzzed(data: &[u8]) {
    match data.split_first_chunk::<CUTS>() {
        Some((cuts, input)) => check(input, cuts),
        None => check(data, &[]),
    }
}

/// How many cuts stand before a fuzzer's input.
pub const CUTS: usize = 4;

/// Cuts `input` into pieces of these lengths, in turn; a length of 0 is 256.
fn pieces<'a>(input: &'a [u8], cuts: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
    let mut lens = cuts.iter().cycle().map(|len| usize::from(len.wrapping_sub(1)) + 1);
    let mut rest = input;
    std::iter::from_fn(move || {
        let len = lens.next().unwrap_or(usize::MAX).min(rest.len());
        let (piece, tail) = rest.split_at(len);
        rest = tail;
        (len > 0).then_some(piece)
    })
}

/// A device on which every third run of eight sectors is a hole.
fn striped(range: SectorRange) -> BlockStatus {
    let left = SectorCount((8 - range.start().0 % 8).min(range.count().0));
    if (range.start().0 / 8).is_multiple_of(3) {
        BlockStatus::hole(left)
    } else {
        BlockStatus::data(left)
    }
}

/// What would be replied: it lies inside the request, and is as long as it says.
fn check_replies(event: &Event, session: &Session) {
    let size = SectorCount::from_bytes_floor(session.facts.size_bytes);
    match event {
        Event::Command(command) => {
            assert!(command.range.fits(size) && command.data_len() <= PAYLOAD_MAX);
            check_pieces(command.range);
        }
        Event::Status(query) => {
            assert!(query.range.fits(size) && session.allocation && session.structured);
            check_status(query);
        }
        Event::Refused(refusal) => {
            let mut out = [0; Chunk::BYTES_MAX];
            let len = Chunk::Failed(refusal.failure).emit(refusal.cookie, true, &mut out);
            let header = ChunkHeader::parse(out.first_chunk().expect("longer than a header"));
            let header = header.expect("a chunk begins with its magic");
            assert_eq!(header.len as usize + ChunkHeader::BYTES, len);
            let result = Err(refusal.failure.error);
            let cookie = refusal.cookie;
            assert_ne!(SimpleReply { cookie, result }.emit()[4..8], [0; 4]);
        }
        Event::Payload(_) => panic!("payloads are kept elsewhere"),
        Event::Disconnect => {}
    }
}

fn check_pieces(range: SectorRange) {
    let mut at = range.start();
    for piece in SparseRead::new(range, SectorCount(1), striped) {
        assert!(piece.range.start() == at && !piece.range.is_empty());
        at = piece.range.end();
        assert_eq!(piece.is_last, at == range.end());
    }
    assert_eq!(at, range.end());
}

fn check_status(query: &StatusQuery) {
    let mut out = vec![0; StatusQuery::ANSWER_BYTES_MAX];
    let len = query.answer(striped, &mut out);
    let extents = out[ChunkHeader::BYTES + 4..len].chunks(8);
    let word = |bytes: &[u8]| u64::from(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    let lens = extents.map(word);
    let total: u64 = lens.clone().sum();
    assert!(total > 0 && total <= query.range.len_bytes());
    assert!(!query.one || lens.clone().count() == 1);
    let block = query.block.0 * SECTOR_BYTES;
    assert!(lens.clone().all(|len| len > 0 && len.is_multiple_of(block)));
}
