//! What a run does: how the queue is made, and which steps follow, all from one seed and the same on every engine.

use std::ops::Range;

use fastrand::Rng;
use tqueue::{Config, PlanLimits};

/// Bytes of a file at most.
pub(crate) const SPACE: u64 = 192 << 10;
/// Bytes before and behind all that ops use of a lease: nothing may change them.
pub(crate) const MARGIN: u32 = 16;

/// What an op does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write { durable: bool },
    Zero { unmap: bool, fast: bool },
    Discard,
    Flush,
    Prefetch,
}

impl Kind {
    /// May it change bytes?
    pub(crate) fn changes(self) -> bool {
        matches!(self, Self::Write { .. } | Self::Zero { .. } | Self::Discard)
    }

    pub(crate) fn is_write(self) -> bool {
        matches!(self, Self::Write { .. })
    }
}

/// An op.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spec {
    /// Its token, and what its bytes are made from.
    pub(crate) id: u64,
    pub(crate) file: usize,
    pub(crate) kind: Kind,
    pub(crate) offset: u64,
    pub(crate) len: u32,
    /// Its first byte in the lease.
    pub(crate) at: u32,
}

impl Spec {
    pub(crate) fn end(&self) -> u64 {
        self.offset + u64::from(self.len)
    }

    /// Has it memory?
    pub(crate) fn transfers(&self) -> bool {
        self.kind == Kind::Read || self.kind.is_write()
    }

    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.file == other.file && self.offset < other.end() && other.offset < self.end()
    }

    /// Where in the lease.
    pub(crate) fn memory(&self) -> Range<usize> {
        self.at as usize..self.at as usize + self.len as usize
    }

    /// The byte that the op makes of the file's byte at `offset`; none that another op makes of another place.
    pub(crate) fn byte(&self, offset: u64) -> u8 {
        if !self.kind.is_write() {
            return 0;
        }
        let mixed = (self.id << 32 | offset).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        mixed.to_be_bytes()[0]
    }
}

/// What is done next.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Push these, in this order; they share a lease.
    Push {
        ops: Vec<Spec>,
        free_early: bool,
    },
    Submit,
    /// Wait, then deliver at most so many.
    Turn(usize),
    /// Cancel the op that was pushed so many ops ago.
    Cancel(u64),
    CancelAll,
    /// Make the queue forget a file while ops use it, and know it anew.
    Reopen(usize),
    /// Run everything to its end.
    Drain,
}

/// How often what happens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    /// One op in so many is a flush; one write in so many is durable.
    pub(crate) flush_every: u32,
    /// Ops of a script, at most.
    pub(crate) ops_max: u64,
    /// The first op's token; the bytes of an op depend on it.
    pub(crate) first_id: u64,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) size: u32,
    pub(crate) max_ops: u32,
    pub(crate) plan: PlanLimits,
    pub(crate) files: usize,
    /// Ops that overlap may be outstanding together.
    pub(crate) races: bool,
    pub(crate) cancels: bool,
    pub(crate) steps: Vec<Step>,
}

impl Script {
    pub(crate) fn random(rng: &mut Rng, style: Style) -> Self {
        let size = 1 << rng.u32(..=10);
        let size = rng.u32(size / 2 + 1..=size);
        let max_ops = (size + rng.u32(..=size * 3)).min(2048);
        let plan = PlanLimits {
            max_bytes: [512, 4096, 10_000, 1 << 16, 1 << 20][rng.usize(..5)],
            max_segments: [1, 2, 3, 16, 64, 1024][rng.usize(..6)],
        };
        let (files, races, cancels) = (rng.usize(1..4), rng.u8(..4) == 0, rng.bool());
        let mut steps = Steps {
            rng,
            files,
            cancels,
            style,
            grain: 1,
            burst: 1,
            next: style.first_id,
            steps: Vec::new(),
        };
        steps.fill();
        let steps = steps.steps;
        Self {
            size,
            max_ops,
            plan,
            files,
            races,
            cancels,
            steps,
        }
    }

    pub(crate) fn config(&self) -> Config {
        Config {
            size: self.size,
            max_ops: self.max_ops,
            plan: self.plan,
            net_ops: 4,
            sends: 1,
            arena_bytes: 16 << 20,
            files: 4,
            ..Config::default()
        }
    }

    /// Do all engines come to the same results?
    pub(crate) fn is_certain(&self) -> bool {
        !self.races && !self.cancels
    }

    pub(crate) fn ops(&self) -> u64 {
        let pushes = self.steps.iter().map(|step| match step {
            Step::Push { ops, .. } => ops.len() as u64,
            _ => 0,
        });
        pushes.sum()
    }
}

/// A script in the making.
struct Steps<'a> {
    rng: &'a mut Rng,
    files: usize,
    cancels: bool,
    style: Style,
    /// Offsets and lengths are multiples of this.
    grain: u64,
    /// Pushes between submits, about.
    burst: u32,
    next: u64,
    steps: Vec<Step>,
}

impl Steps<'_> {
    fn fill(&mut self) {
        let end = self.next + (1 << self.rng.u32(4..=self.style.ops_max.ilog2()));
        while self.next < end {
            if self.rng.u8(..16) == 0 || self.steps.is_empty() {
                self.grain = [1, 512, 4096][self.rng.usize(..3)];
                self.burst = [1, 4, 30, 300][self.rng.usize(..4)];
            }
            self.push();
            if self.rng.u32(..self.burst) == 0 {
                self.pause();
            }
        }
    }

    fn push(&mut self) {
        let ops = match self.rng.u8(..8) {
            0..4 => vec![self.scattered()],
            4..7 => self.run(),
            _ => (0..self.rng.usize(2..8)).map(|_| self.scattered()).collect(),
        };
        let free_early = ops.iter().all(|op| op.kind.is_write()) && self.rng.u8(..3) == 0;
        self.steps.push(Step::Push { ops, free_early });
    }

    fn pause(&mut self) {
        let most = self.rng.usize(1..64);
        let back = self.rng.u64(1..40);
        let file = self.rng.usize(..self.files);
        self.steps.push(match self.rng.u8(..32) {
            0..10 => Step::Submit,
            10..20 => Step::Turn(most),
            20..28 if self.cancels => Step::Cancel(back),
            28 if self.cancels => Step::CancelAll,
            29 => Step::Reopen(file),
            _ => Step::Drain,
        });
    }

    /// An op anywhere.
    fn scattered(&mut self) -> Spec {
        let (kind, file) = (self.kind(), self.rng.usize(..self.files));
        let len = self.len();
        let offset = self.offset(len.into());
        self.spec(file, kind, offset, len)
    }

    /// Neighbours of one kind, in some order; sometimes one overlaps the next, or leaves a gap.
    fn run(&mut self) -> Vec<Spec> {
        let (kind, file) = (self.kind(), self.rng.usize(..self.files));
        let count = 2 << self.rng.u32(..6);
        let mut len = self.len().min(u32::try_from(SPACE / count / 2).expect("small"));
        let mut offset = self.offset(u64::from(len) * count);
        let mut ops = Vec::new();
        for _ in 0..count {
            if self.rng.u8(..8) == 0 {
                len = (len / 2)
                    .max(1)
                    .next_multiple_of(u32::try_from(self.grain).expect("small"));
            }
            ops.push(self.spec(file, kind, offset.min(SPACE - u64::from(len)), len));
            offset += u64::from(len);
            match self.rng.u8(..32) {
                0 => offset += self.grain,
                1 => offset -= u64::from(len / 2),
                _ => {}
            }
        }
        match self.rng.u8(..4) {
            0 => self.rng.shuffle(&mut ops),
            1 => ops.reverse(),
            _ => {}
        }
        ops
    }

    fn spec(&mut self, file: usize, kind: Kind, offset: u64, len: u32) -> Spec {
        self.next += 1;
        Spec {
            id: self.next - 1,
            file,
            kind,
            offset,
            len,
            at: 0,
        }
    }

    fn kind(&mut self) -> Kind {
        if self.rng.u32(..self.style.flush_every) == 0 {
            return Kind::Flush;
        }
        match self.rng.u8(..32) {
            0..13 => Kind::Read,
            13..27 => Kind::Write {
                durable: self.rng.u32(..self.style.flush_every) == 0,
            },
            27..29 => Kind::Zero {
                unmap: self.rng.bool(),
                fast: self.rng.bool(),
            },
            29..31 => Kind::Discard,
            _ => Kind::Prefetch,
        }
    }

    /// Short ones are more frequent, and sometimes there is nothing to do at all.
    fn len(&mut self) -> u32 {
        let most = 1 << self.rng.u32(..=16);
        let len = self.rng.u64(..=most).next_multiple_of(self.grain);
        u32::try_from(len).expect("small")
    }

    /// Where `len` bytes have room.
    fn offset(&mut self, len: u64) -> u64 {
        // Files begin empty; what ops meet most of the time are the first bytes.
        let space = if self.rng.bool() { SPACE } else { SPACE / 8 };
        self.rng.u64(..=space.saturating_sub(len)) / self.grain * self.grain
    }
}

/// Gives each op its place in a common lease; says how long that is.
pub(crate) fn lay_out(ops: &mut [Spec]) -> u32 {
    let mut at = MARGIN;
    for op in ops.iter_mut().filter(|op| op.transfers()) {
        // Neighbours in the file are neighbours in memory, or are not.
        op.at = at + u32::from(op.id % 3 == 0) * MARGIN;
        at = op.at + op.len;
    }
    at + MARGIN
}
