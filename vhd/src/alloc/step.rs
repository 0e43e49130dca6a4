//! Steps: what the allocator asks its caller to do, and the table of those under way.

use iomgr_core::Errno;

/// The name of a step under way. Below [`Allocator::STEPS_MAX`](super::Allocator::STEPS_MAX); reused after its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StepId(pub u32);

/// One piece of I/O that the allocator needs done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// To be given back with [`step_done`](super::Allocator::step_done), once.
    pub id: StepId,
    /// What to do.
    pub action: StepAction,
}

/// What to do. Offsets and lengths are in bytes of the image file, and whole sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepAction {
    /// Write; the bytes come from [`fill`](super::Allocator::fill). 64 KiB at most.
    Write {
        /// Where.
        offset: u64,
        /// How much.
        len: usize,
    },
    /// Read, and hand the bytes to [`read_done`](super::Allocator::read_done) before `step_done`. 64 KiB at most.
    Read {
        /// Where.
        offset: u64,
        /// How much.
        len: usize,
    },
    /// Make the range read as zeros. Never past the file's end.
    Zero {
        /// Where.
        offset: u64,
        /// How much.
        len: u64,
        /// May its space be given back? Else it should stay allocated.
        unmap: bool,
    },
    /// Make all writes that were completed before it durable (`fdatasync`).
    Flush,
}

/// A request's outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The caller's name for it.
    pub cookie: u64,
    /// How it ended.
    pub result: Result<(), Errno>,
}

/// What a step under way is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Job {
    BatmapClear,
    BatmapHeader,
    Bat {
        unit: u64,
    },
    FillRead {
        fill: usize,
    },
    FillZero {
        fill: usize,
    },
    FillWrite {
        fill: usize,
    },
    /// Of a reservation; see there.
    ReserveFooter,
    ReserveZero,
    ReserveHead,
    Punch {
        entry: u32,
    },
    Flush {
        ticket: u64,
    },
}

/// The steps under way.
#[derive(Debug)]
pub(super) struct Steps {
    jobs: Box<[Option<Job>]>,
    in_flight: usize,
}

impl Steps {
    pub(super) fn new(max: usize) -> Self {
        Self {
            jobs: vec![None; max].into(),
            in_flight: 0,
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(super) fn is_full(&self) -> bool {
        self.in_flight == self.jobs.len()
    }

    /// Names a new step. There is room: the caller looked.
    pub(super) fn begin(&mut self, job: Job, action: StepAction) -> Step {
        let place = self
            .jobs
            .iter()
            .position(Option::is_none)
            .expect("the table was seen not to be full");
        self.jobs[place] = Some(job);
        self.in_flight += 1;
        Step {
            id: StepId(u32::try_from(place).expect("a small table")),
            action,
        }
    }

    pub(super) fn job(&self, id: StepId) -> Job {
        self.jobs[id.0 as usize].expect("the step is under way")
    }

    pub(super) fn end(&mut self, id: StepId) -> Job {
        self.in_flight -= 1;
        self.jobs[id.0 as usize].take().expect("a step ends once")
    }

    pub(super) fn any(&self, what: impl Fn(Job) -> bool) -> bool {
        self.jobs.iter().flatten().any(|&job| what(job))
    }
}
