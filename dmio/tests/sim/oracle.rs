//! What the sectors of disks may hold.
//!
//! Each sector that is written carries the number of its write, and its place in it. What a sector holds must come from that place of
//! a write that has started, and that no other write has certainly overwritten: one that started when the first was answered, and that
//! ended well. After a power cut only writes count as such that are durable. A discard may leave zeros, or what was there: it explains
//! zeros, and overwrites nothing for certain.

use std::collections::HashMap;
use std::ops::Range;

/// The content of sectors that nobody has written yet, or that were zeroed.
pub(crate) const ZEROS: u64 = 0;
/// Fills memory of the caller's that came back.
pub(crate) const CANARY: u8 = 0xca;
pub(crate) const SECTOR: usize = 512;
/// Bits of a word that say which sector of its write it is in.
const PLACE_BITS: u32 = 16;

/// One write to one disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct WriteId(usize);

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It has sectors new, or old, or will have.
    Maybe,
    Written,
    NeverStarted,
}

#[derive(Clone, Debug)]
struct Write {
    content: u64,
    sectors: Range<u64>,
    started: u64,
    /// When the device had answered for certain.
    answered: Option<u64>,
    fate: Fate,
    /// If it ended well, it survives a power cut.
    is_durable: bool,
}

impl Write {
    /// What it writes to one of its sectors.
    fn puts(&self, sector: u64) -> Held {
        let place = match self.content {
            ZEROS => 0,
            _ => sector - self.sectors.start,
        };
        let content = self.content;
        Held { content, place }
    }
}

/// What a sector holds: a write's number, and which of its sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    content: u64,
    place: u64,
}

/// A disk that was read: when, from and to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    pub(crate) started: u64,
    pub(crate) ended: u64,
    pub(crate) after_cut: bool,
}

/// All that was ever written.
#[derive(Debug, Default)]
pub(crate) struct Oracle {
    /// The order of what the caller did and heard.
    time: u64,
    writes: Vec<Write>,
    by_disk: HashMap<usize, Vec<usize>>,
    contents: u64,
}

impl Oracle {
    /// A moment after all others.
    pub(crate) fn tick(&mut self) -> u64 {
        self.time += 1;
        self.time
    }

    /// A number for what is about to be written.
    pub(crate) fn content(&mut self) -> u64 {
        self.contents += 1;
        self.contents
    }

    pub(crate) fn start(&mut self, disk: usize, sectors: Range<u64>, content: u64) -> WriteId {
        let started = self.tick();
        self.writes.push(Write {
            content,
            sectors,
            started,
            answered: None,
            fate: Fate::Maybe,
            is_durable: false,
        });
        let id = self.writes.len() - 1;
        self.by_disk.entry(disk).or_default().push(id);
        WriteId(id)
    }

    pub(crate) fn end(&mut self, WriteId(id): WriteId, fate: Fate, is_answered: bool) {
        let now = self.tick();
        let write = &mut self.writes[id];
        write.fate = fate;
        write.answered = write.answered.or(is_answered.then_some(now));
    }

    /// The write survives a power cut.
    pub(crate) fn persist(&mut self, WriteId(id): WriteId) {
        self.writes[id].is_durable = true;
    }

    /// A flush ended well that was asked for at that time: what was answered before survives a power cut.
    pub(crate) fn flush(&mut self, disk: usize, started: u64) {
        for &id in self.by_disk.get(&disk).into_iter().flatten() {
            let write = &mut self.writes[id];
            write.is_durable |= write.answered.is_some_and(|answered| answered < started);
        }
    }

    /// Checks what was read from a disk.
    pub(crate) fn check(&self, disk: usize, first: u64, bytes: &[u8], look: Look) {
        for (sector, bytes) in (first..).zip(bytes.chunks(SECTOR)) {
            let held = parse(bytes).unwrap_or_else(|| panic!("disk {disk}, sector {sector}: {bytes:?}"));
            self.check_sector(disk, sector, held, look);
        }
    }

    /// Checks a whole disk after all has ended; `after_cut`: and after a power cut.
    pub(crate) fn check_at_end(&mut self, disk: usize, bytes: &[u8], after_cut: bool) {
        let now = self.tick();
        let look = Look {
            started: now,
            ended: now,
            after_cut,
        };
        self.check(disk, 0, bytes, look);
    }

    fn check_sector(&self, disk: usize, sector: u64, held: Held, look: Look) {
        let writes = || {
            let ids = self.by_disk.get(&disk).into_iter().flatten();
            ids.map(|&id| &self.writes[id])
                .filter(move |write| write.sectors.contains(&sector))
        };
        // Has something that was answered at that time been overwritten?
        let is_gone = |answered: u64| {
            writes().any(|next| {
                next.fate == Fate::Written
                    && (next.is_durable || !look.after_cut)
                    && next.started > answered
                    && next.answered.is_some_and(|answered| answered < look.started)
            })
        };
        let explains = |write: &Write| {
            write.puts(sector) == held
                && write.fate != Fate::NeverStarted
                && write.started < look.ended
                && write.answered.is_none_or(|answered| !is_gone(answered))
        };
        let is_untouched = held.content == ZEROS && !is_gone(0);
        let history: Vec<_> = writes().collect();
        assert!(
            is_untouched || writes().any(explains),
            "disk {disk}, sector {sector} holds {held:?} at {look:?}; its writes: {history:#?}"
        );
    }
}

/// The bytes of a write, sector by sector.
pub(crate) fn pattern(content: u64, first: u64, count: u64) -> Vec<u8> {
    let sector = |sector: u64| match content {
        ZEROS => [0; SECTOR].to_vec(),
        _ => (content << PLACE_BITS | (sector - first))
            .to_le_bytes()
            .repeat(SECTOR / 8),
    };
    (first..first + count).flat_map(sector).collect()
}

/// What a sector holds; `None` if no write's as a whole.
fn parse(bytes: &[u8]) -> Option<Held> {
    let words: Vec<u64> = bytes
        .chunks(8)
        .map(|word| u64::from_le_bytes(word.try_into().unwrap()))
        .collect();
    let held = Held {
        content: words[0] >> PLACE_BITS,
        place: words[0] & ((1 << PLACE_BITS) - 1),
    };
    words.iter().all(|word| *word == words[0]).then_some(held)
}
