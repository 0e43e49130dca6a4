//! Runs a script on a queue, and holds it to the contract: each op ends exactly once, as the model allows; what comes back full
//! is full; what is cancelled in time never started; no memory changes that no op was to change.

use std::collections::{BTreeMap, HashMap};

use iomgr_core::{Action, Errno, FileHandle, FileSlot, Full, Lease, Op, OpError, OpQueue, Owner, Token};
use tqueue::{Completion, Queue};

use crate::fuzzy::Fuzzy;
use crate::model::{Fate, Model};
use crate::script::{Kind, MARGIN, Script, Spec, Step, lay_out};

/// What memory holds that nothing has written to.
const CANARY: u8 = 0xA5;

/// What a run is held to, besides.
pub(crate) trait Place {
    /// Is that an error which an op may end with here?
    fn excuses(&mut self, spec: &Spec, error: OpError) -> bool;

    /// Nothing ended though ops are outstanding. Puts that right, or panics.
    fn unstick(&mut self, queue: &Queue);
}

/// How an op ended, by its id.
pub(crate) type Results = BTreeMap<u64, Result<(), OpError>>;

/// See the module.
pub(crate) struct Driver<'a, P> {
    pub(crate) queue: Queue,
    pub(crate) place: P,
    pub(crate) models: Vec<Model>,
    pub(crate) results: Results,
    script: &'a Script,
    handles: Vec<FileHandle>,
    slots: Vec<FileSlot>,
    /// Outstanding.
    flights: HashMap<u64, Flight>,
    groups: HashMap<u64, Group>,
    tally: Tally,
}

/// An op that was pushed and not delivered.
#[derive(Clone, Copy, Debug)]
struct Flight {
    spec: Spec,
    group: u64,
    given_up: GivenUp,
}

/// What came of giving an op up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GivenUp {
    No,
    /// It is to end as never started.
    Never,
    /// It is to end as cancelled.
    Ending,
    /// It may end as either, or as if nothing had been said.
    Detached,
}

impl GivenUp {
    fn allows(self, result: Result<u32, OpError>) -> bool {
        let never = result == Err(OpError::NeverStarted);
        let cancelled = result == Err(OpError::Os(Errno::CANCELED));
        match self {
            Self::No => !never && !cancelled,
            Self::Never => never,
            Self::Ending => cancelled,
            Self::Detached => true,
        }
    }
}

/// Ops that share a lease.
struct Group {
    lease: Option<Lease>,
    ops: Vec<Spec>,
    /// Not ended yet.
    left: usize,
    /// What is to be in the memory of each read in the end; `None` where nobody knows.
    reads: HashMap<u64, Option<Fuzzy>>,
}

/// What the queue is to have counted.
#[derive(Debug, Default)]
struct Tally {
    pushed: u64,
    completed: u64,
    handed_back: u64,
    never_started: u64,
    /// Ops of which the queue said at once that they never started.
    promised: u64,
}

impl<'a, P: Place> Driver<'a, P> {
    /// Knows `handles`; each has its model.
    pub(crate) fn new(
        script: &'a Script,
        mut queue: Queue,
        handles: Vec<FileHandle>,
        models: Vec<Model>,
        place: P,
    ) -> Self {
        let slots = handles.iter().map(|handle| queue.add_file(handle).unwrap()).collect();
        Self {
            queue,
            place,
            models,
            results: Results::new(),
            script,
            handles,
            slots,
            flights: HashMap::new(),
            groups: HashMap::new(),
            tally: Tally::default(),
        }
    }

    /// Does one step of the script.
    pub(crate) fn step(&mut self, step: &Step) {
        match step {
            Step::Push { ops, free_early } => self.push_group(ops.clone(), *free_early),
            Step::Submit => self.queue.submit().unwrap(),
            Step::Turn(most) => self.turn(*most),
            Step::Cancel(back) => {
                let newest = self.flights.keys().max().copied().unwrap_or(0);
                self.cancel(newest.saturating_sub(*back));
            }
            Step::CancelAll => self.cancel_all(),
            Step::Reopen(file) => self.reopen(*file),
            Step::Drain => self.drain(),
        }
    }

    /// Runs everything to its end.
    pub(crate) fn drain(&mut self) {
        while !self.flights.is_empty() {
            self.turn(usize::MAX);
        }
        assert!(self.queue.is_idle(), "{}", self.queue.dump());
        assert!(self.groups.is_empty());
    }

    /// Waits, and delivers at most `most` completions.
    fn turn(&mut self, most: usize) {
        if self.flights.is_empty() {
            return;
        }
        self.queue.submit_and_wait(None).unwrap();
        let mut delivered = 0;
        while delivered < most {
            let Some(completion) = self.queue.next_completion() else {
                break;
            };
            self.ended(completion);
            delivered += 1;
        }
        if delivered == 0 {
            self.place.unstick(&self.queue);
        }
        assert_eq!(self.queue.is_idle(), self.flights.is_empty());
    }

    fn push_group(&mut self, mut ops: Vec<Spec>, free_early: bool) {
        let len = lay_out(&mut ops);
        let lease = self.lease(len);
        let bytes = self.queue.bytes_mut(lease.data()).expect("a new lease");
        bytes.fill(CANARY);
        for op in ops.iter().filter(|op| op.kind.is_write()) {
            let content = (op.offset..op.end()).map(|offset| op.byte(offset));
            bytes[op.memory()]
                .iter_mut()
                .zip(content)
                .for_each(|(to, byte)| *to = byte);
        }
        let (group, data) = (ops[0].id, lease.data());
        self.groups.insert(
            group,
            Group {
                lease: Some(lease),
                left: ops.len(),
                ops: ops.clone(),
                reads: HashMap::new(),
            },
        );
        for spec in ops {
            while !self.script.races && self.models[spec.file].conflicts(&spec) {
                self.turn(usize::MAX);
            }
            let file = self.slots[spec.file];
            let data = data.slice(spec.at, if spec.transfers() { spec.len } else { 0 });
            self.push(
                Flight {
                    spec,
                    group,
                    given_up: GivenUp::No,
                },
                Op {
                    token: Token::new(Owner(7), spec.id),
                    file,
                    action: action(&spec, data),
                },
            );
        }
        // The last may have ended already: the group is gone then.
        if let Some(group) = self.groups.get_mut(&group).filter(|_| free_early) {
            self.queue.free(group.lease.take().expect("freed once"));
        }
    }

    fn push(&mut self, flight: Flight, op: Op) {
        while let Err(Full(back)) = self.queue.push(op) {
            assert_eq!(back, op, "an op comes back as it was");
            assert_eq!(
                self.flights.len(),
                self.script.max_ops as usize,
                "it is full when it is"
            );
            self.tally.handed_back += 1;
            self.turn(usize::MAX);
        }
        assert!(self.flights.len() < self.script.max_ops as usize, "more than max_ops");
        self.tally.pushed += 1;
        self.models[flight.spec.file].begin(&flight.spec);
        self.flights.insert(flight.spec.id, flight);
    }

    fn lease(&mut self, len: u32) -> Lease {
        loop {
            if let Some(lease) = self.queue.alloc(len) {
                return lease;
            }
            assert!(
                !self.flights.is_empty(),
                "no memory for {len} bytes, and nothing uses any"
            );
            self.turn(usize::MAX);
        }
    }

    fn cancel(&mut self, id: u64) {
        let cancelled = self.queue.cancel(Token::new(Owner(7), id));
        let given_up = match (cancelled.never_started, cancelled.ending, cancelled.detached) {
            // It has ended, and is still to be delivered.
            (0, 0, 0) => return,
            (1, 0, 0) => GivenUp::Never,
            (0, 1, 0) => GivenUp::Ending,
            (0, 0, 1) => GivenUp::Detached,
            _ => panic!("op {id} was given up more than once: {cancelled:?}"),
        };
        self.tally.promised += cancelled.never_started as u64;
        let flight = self.flights.get_mut(&id).expect("what is over cannot be given up");
        assert_eq!(flight.given_up, GivenUp::No, "{flight:?} was given up before");
        flight.given_up = given_up;
    }

    fn cancel_all(&mut self) {
        let cancelled = self.queue.cancel_all();
        let not_yet = self.flights.values().filter(|flight| flight.given_up == GivenUp::No);
        let count = cancelled.never_started + cancelled.ending + cancelled.detached;
        assert!(count <= not_yet.count(), "{cancelled:?}");
        self.tally.promised += cancelled.never_started as u64;
        for flight in self
            .flights
            .values_mut()
            .filter(|flight| flight.given_up == GivenUp::No)
        {
            flight.given_up = GivenUp::Detached;
        }
    }

    /// Ops that use the file go on; the queue may have no place for it until they have ended.
    fn reopen(&mut self, file: usize) {
        self.queue.remove_file(self.slots[file]);
        self.slots[file] = loop {
            match self.queue.add_file(&self.handles[file]) {
                Ok(slot) => break slot,
                Err(errno) => assert_eq!(errno, Errno::NFILE),
            }
            assert!(!self.flights.is_empty(), "no file is in use, and yet the table is full");
            self.turn(usize::MAX);
        };
    }

    fn ended(&mut self, completion: Completion) {
        let id = completion.token.value();
        let flight = self.flights.remove(&id).expect("each op ends once");
        let Flight { spec, group, given_up } = flight;
        self.tally.completed += 1;
        let result = completion.result;
        assert!(given_up.allows(result), "{flight:?} ended as {result:?}");
        if let (Ok(moved), true) = (result, spec.transfers()) {
            assert_eq!(moved, spec.len, "{spec:?}");
        }
        let fate = self.fate(&spec, result);
        let read = self.models[spec.file].end(&spec, fate);
        self.results.insert(id, result.map(drop));
        self.leave(group, &spec, fate, read);
    }

    fn fate(&mut self, spec: &Spec, result: Result<u32, OpError>) -> Fate {
        match result {
            Ok(_) => Fate::Done,
            Err(OpError::NeverStarted) => {
                self.tally.never_started += 1;
                Fate::Never
            }
            // Only where it was given up. Some of it may have happened.
            Err(OpError::Os(Errno::CANCELED)) => Fate::Failed,
            Err(OpError::EndOfFile) => Fate::End,
            Err(OpError::Os(Errno::NOTSUP)) if matches!(spec.kind, Kind::Zero { fast: true, .. }) => Fate::Never,
            Err(error) => {
                assert!(self.place.excuses(spec, error), "{spec:?} ended as {error:?}");
                Fate::Failed
            }
        }
    }

    /// Notes what an op has left in its memory; the last of a group looks.
    fn leave(&mut self, id: u64, spec: &Spec, fate: Fate, read: Option<Fuzzy>) {
        let group = self.groups.get_mut(&id).expect("its ops are outstanding");
        if spec.kind == Kind::Read && fate != Fate::Never {
            group.reads.insert(spec.id, read);
        }
        group.left -= 1;
        if group.left > 0 {
            return;
        }
        let group = self.groups.remove(&id).expect("it was there");
        if let Some(lease) = group.lease.as_ref() {
            let bytes = self.queue.bytes(lease.data()).expect("no op uses it any more");
            group.check(bytes);
        }
        group.lease.into_iter().for_each(|lease| self.queue.free(lease));
    }

    /// Has the queue counted what was done with it?
    pub(crate) fn check_counters(&self) {
        let counters = self.queue.counters();
        let counted = Tally {
            pushed: counters.pushed,
            completed: counters.completed,
            handed_back: counters.handed_back,
            never_started: counters.never_started,
            promised: self.tally.promised,
        };
        assert_eq!(format!("{counted:?}"), format!("{:?}", self.tally));
        assert!(self.tally.promised <= self.tally.never_started, "{:?}", self.tally);
        assert!(counters.max_in_kernel <= u64::from(self.script.size), "{counters:?}");
    }
}

impl Group {
    /// Reads have left what was in the file, and nobody anything else.
    fn check(&self, bytes: &[u8]) {
        let mut canary = vec![true; bytes.len()];
        for op in self.ops.iter().filter(|op| op.transfers()) {
            let part = &bytes[op.memory()];
            match self.reads.get(&op.id) {
                _ if op.kind.is_write() => {
                    let whole = (op.offset..op.end()).zip(part).all(|(at, byte)| op.byte(at) == *byte);
                    assert!(whole, "{op:?}: a write changed its memory");
                }
                Some(Some(known)) => {
                    assert_eq!(known.first_wrong(part), None, "{op:?} (at, found, possible)");
                }
                // Whatever it has read is of no use.
                Some(None) => {}
                None => continue,
            }
            canary[op.memory()].fill(false);
        }
        let changed = canary
            .iter()
            .zip(bytes)
            .position(|(canary, byte)| *canary && *byte != CANARY);
        assert_eq!(
            changed, None,
            "a byte that belongs to no op was changed; {MARGIN} bytes lie before the first"
        );
    }
}

fn action(spec: &Spec, data: iomgr_core::Data) -> Action {
    let (offset, len) = (spec.offset, u64::from(spec.len));
    match spec.kind {
        Kind::Read => Action::Read { offset, data },
        Kind::Write { durable } => Action::Write { offset, data, durable },
        Kind::Zero { unmap, fast } => Action::WriteZeroes {
            offset,
            len,
            unmap,
            fast,
        },
        Kind::Discard => Action::Discard { offset, len },
        Kind::Flush => Action::Flush,
        Kind::Prefetch => Action::Prefetch { offset, len },
    }
}
