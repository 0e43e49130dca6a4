//! The naive model of a file: what its bytes may be now and after a power cut, given which ops were pushed and how they ended.
//!
//! Ops that overlap and were outstanding together have no order: what they touch may be what any of them made of it, or what
//! it was before. What failed may have happened, in part or not at all.
//!
//! ```text
//!  begin ──► outstanding ──► end: done     the bytes are this
//!                            end: failed   the bytes may be this
//!                            end: never    nothing
//! ```

use std::collections::BTreeMap;

use crate::fuzzy::Fuzzy;
use crate::script::{Kind, SPACE, Spec};

/// How an op ended, for the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Done,
    /// It may have happened.
    Failed,
    /// It has not happened.
    Never,
    /// A read met the end of the file.
    End,
}

/// An op that is outstanding.
#[derive(Clone, Debug)]
struct Flight {
    spec: Spec,
    begun: u64,
    /// Changes that overlap, and were outstanding when it was.
    raced: Vec<Spec>,
    /// What a read that races may have seen when that began.
    seen: Option<Fuzzy>,
    /// The least length of the file since it began.
    len: u64,
    /// A flush has failed since it began, and may have lost what was moved of it by then.
    is_torn: bool,
}

/// What a byte's last change was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Changed {
    At(u64),
    /// A flush of it failed, and no other will make it good.
    Lost,
}

/// One file.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    now: Fuzzy,
    /// What a power cut may leave, but for what is outstanding.
    safe: Fuzzy,
    changed: Vec<Changed>,
    moment: u64,
    /// It is at least so long,
    len: u64,
    /// and by writes that failed at most so.
    len_max: u64,
    safe_len: u64,
    /// Lengths up to here are lost, as their flush failed.
    lost_len: u64,
    /// A block device.
    fixed: bool,
    /// A discard is known to make zeros.
    discards: bool,
    flights: BTreeMap<u64, Flight>,
}

impl Model {
    /// An empty file, or a block device of zeros. Do discards make zeros for certain?
    pub(crate) fn new(device_len: Option<u64>, discards: bool) -> Self {
        let space = usize::try_from(SPACE).expect("small");
        let len = device_len.unwrap_or(0);
        Self {
            now: Fuzzy::new(space),
            safe: Fuzzy::new(space),
            changed: vec![Changed::At(0); space],
            moment: 0,
            len,
            len_max: len,
            safe_len: len,
            lost_len: 0,
            fixed: device_len.is_some(),
            discards,
            flights: BTreeMap::new(),
        }
    }

    /// Must `spec` wait until something has ended, if results are to be certain?
    pub(crate) fn conflicts(&self, spec: &Spec) -> bool {
        self.flights.values().any(|other| self.clash(spec, &other.spec))
    }

    fn clash(&self, a: &Spec, b: &Spec) -> bool {
        let grows = |op: &Spec| op.kind.is_write() && op.end() > self.len;
        let looks_behind = |op: &Spec| op.kind == Kind::Read && op.end() > self.len;
        races(a, b) || (grows(a) && looks_behind(b)) || (grows(b) && looks_behind(a))
    }

    /// An op is pushed.
    pub(crate) fn begin(&mut self, spec: &Spec) {
        let mut flight = Flight {
            spec: *spec,
            begun: self.moment,
            raced: Vec::new(),
            seen: None,
            len: self.len,
            is_torn: false,
        };
        for other in self.flights.values_mut().filter(|other| races(spec, &other.spec)) {
            flight.race(&other.spec, &self.now);
            other.race(spec, &self.now);
        }
        self.flights.insert(spec.id, flight);
    }

    /// An op has ended. For a read that was done: what it may have read.
    pub(crate) fn end(&mut self, spec: &Spec, fate: Fate) -> Option<Fuzzy> {
        let longest = self.longest();
        let flight = self.flights.remove(&spec.id).expect("it was begun");
        self.moment += 1;
        match (spec.kind, fate) {
            (Kind::Read, Fate::Done) => {
                assert!(
                    spec.len == 0 || spec.end() <= longest,
                    "{spec:?} read behind the end at {longest}"
                );
                return Some(flight.readable(&self.now));
            }
            (Kind::Read, Fate::End) => {
                assert!(spec.end() > flight.len, "{spec:?} met an end before {}", flight.len);
            }
            // Another flush may have failed already, and taken from this one what it was to make durable.
            (Kind::Flush, Fate::Done) if self.flights.values().any(|other| other.spec.kind == Kind::Flush) => {}
            (Kind::Flush, Fate::Done) => self.flushed(&flight),
            (Kind::Flush, Fate::Failed) => self.flush_failed(),
            (kind, Fate::Done | Fate::Failed) if kind.changes() => self.change(&flight, fate == Fate::Done),
            _ => assert_ne!(fate, Fate::End, "{spec:?} is no read"),
        }
        None
    }

    fn change(&mut self, flight: &Flight, done: bool) {
        let spec = &flight.spec;
        let certain = done && flight.raced.is_empty() && (spec.kind != Kind::Discard || self.discards);
        let durable = certain && spec.kind == Kind::Write { durable: true };
        let changed = if flight.is_torn {
            Changed::Lost
        } else {
            Changed::At(self.moment)
        };
        for offset in spec.offset..spec.end() {
            let (at, byte) = (usize::try_from(offset).expect("small"), spec.byte(offset));
            if certain {
                self.now.set(at, byte);
                self.changed[at] = changed;
            } else {
                self.now.may(at, byte);
                self.changed[at] = self.changed[at].max(changed);
            }
            if durable {
                self.safe.set(at, byte);
            } else {
                self.safe.may(at, byte);
            }
        }
        if spec.kind.is_write() && spec.len > 0 && !self.fixed {
            self.len_max = self.len_max.max(spec.end());
            if done {
                self.len = self.len.max(spec.end());
            }
            if done && spec.kind == (Kind::Write { durable: true }) {
                self.safe_len = self.safe_len.max(spec.end());
            }
        }
    }

    /// What had ended before the flush was pushed is durable.
    fn flushed(&mut self, flight: &Flight) {
        for (at, &changed) in self.changed.iter().enumerate() {
            if changed <= Changed::At(flight.begun) {
                self.safe.take(at, &self.now);
            }
        }
        if flight.len > self.lost_len {
            self.safe_len = self.safe_len.max(flight.len);
        }
    }

    /// What was not durable may have become so, or be lost for good.
    fn flush_failed(&mut self) {
        for (at, changed) in self.changed.iter_mut().enumerate() {
            if !self.safe.is_known(at) {
                *changed = Changed::Lost;
            }
        }
        self.lost_len = self.longest();
        self.flights.values_mut().for_each(|flight| flight.is_torn = true);
    }

    /// The length that the file may have at most.
    fn longest(&self) -> u64 {
        let writes = self.flights.values().filter(|flight| flight.spec.kind.is_write());
        let ends = writes.map(|flight| flight.spec.end());
        if self.fixed {
            self.len
        } else {
            ends.fold(self.len_max, u64::max)
        }
    }

    /// Compares with the whole file, while nothing is outstanding.
    pub(crate) fn check(&self, content: &[u8]) {
        assert!(self.flights.is_empty());
        self.compare(&self.now, content, self.len);
    }

    /// Compares with what a power cut has left, and goes on from there.
    pub(crate) fn cut(&mut self, content: &[u8]) {
        let mut safe = self.safe.clone();
        self.each_outstanding(|at, byte| safe.may(at, byte));
        self.compare(&safe, content, self.safe_len);
        *self = Self {
            now: Fuzzy::of(content, self.changed.len()),
            safe: Fuzzy::of(content, self.changed.len()),
            len: content.len() as u64,
            len_max: content.len() as u64,
            safe_len: content.len() as u64,
            fixed: self.fixed,
            ..Self::new(None, self.discards)
        };
    }

    /// Compares with what a killed process has left, and goes on from there: a power cut may still take it away.
    pub(crate) fn kill(&mut self, content: &[u8]) {
        let mut now = self.now.clone();
        self.each_outstanding(|at, byte| now.may(at, byte));
        self.compare(&now, content, self.len);
        let mut safe = self.safe.clone();
        self.moment += 1;
        let (mut changed, moment) = (self.changed.clone(), Changed::At(self.moment));
        self.each_outstanding(|at, byte| {
            safe.may(at, byte);
            changed[at] = changed[at].max(moment);
        });
        (self.safe, self.changed) = (safe, changed);
        self.now = Fuzzy::of(content, self.changed.len());
        (self.len, self.len_max) = (content.len() as u64, content.len() as u64);
        self.flights.clear();
    }

    fn compare(&self, allowed: &Fuzzy, content: &[u8], len_min: u64) {
        let (len, len_max) = (content.len() as u64, self.longest());
        assert!(
            (len_min..=len_max).contains(&len),
            "{len} bytes, not {len_min} to {len_max}"
        );
        let wrong = allowed.part(0..content.len()).first_wrong(content);
        assert_eq!(wrong, None, "(at, found, possible)");
    }

    /// What the changes that are outstanding would make of which bytes.
    fn each_outstanding(&self, mut each: impl FnMut(usize, u8)) {
        for spec in self
            .flights
            .values()
            .map(|flight| flight.spec)
            .filter(|spec| spec.kind.changes())
        {
            bytes(&spec)
                .zip(spec.offset..)
                .for_each(|(at, offset)| each(at, spec.byte(offset)));
        }
    }
}

impl Flight {
    fn race(&mut self, other: &Spec, now: &Fuzzy) {
        if !other.kind.changes() {
            return;
        }
        if self.spec.kind == Kind::Read && self.seen.is_none() {
            self.seen = Some(now.part(bytes(&self.spec)));
        }
        self.raced.push(*other);
    }

    /// What the read may have seen, if that is what the file holds now.
    fn readable(&self, now: &Fuzzy) -> Fuzzy {
        let mut part = now.part(bytes(&self.spec));
        if let Some(seen) = &self.seen {
            part.join(seen);
        }
        for other in &self.raced {
            let (from, to) = (self.spec.offset.max(other.offset), self.spec.end().min(other.end()));
            for offset in from..to {
                let at = usize::try_from(offset - self.spec.offset).expect("small");
                part.may(at, other.byte(offset));
            }
        }
        part
    }
}

fn bytes(spec: &Spec) -> std::ops::Range<usize> {
    let at = |offset: u64| usize::try_from(offset).expect("small");
    at(spec.offset)..at(spec.end())
}

/// Do they overlap, and does one of them change what the other sees or changes?
fn races(a: &Spec, b: &Spec) -> bool {
    let touches = |op: &Spec| op.kind.changes() || op.kind == Kind::Read;
    a.overlaps(b) && touches(a) && touches(b) && (a.kind.changes() || b.kind.changes())
}
