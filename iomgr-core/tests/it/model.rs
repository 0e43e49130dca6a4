//! An intake under random managers, swaps, aborts and times, against a naive model of the same contract.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use iomgr_core::manager::test_utils::{Ask, CountingManager};
use iomgr_core::manager::{DeviceId, Grant, Head, Intake, ManagedDevice, Registry, Ticket, Verdict, Wait};
use iomgr_core::{Class, Operation, Tag, Timestamp, Waker};
use proptest::prelude::*;

use crate::support::*;

const DEPTH: u32 = 4;
const TICK: Duration = Duration::from_millis(1);

/// What a random manager says.
#[derive(Clone, Copy, Debug)]
enum Policy {
    Go,
    Limit(u64),
    /// No to one class in every other period.
    Gate(Class, u64),
    /// No to one class until an instant, whether it has passed or not, once too much is in flight.
    Late(Class, Timestamp),
    /// A limit that is looked at again after a while, whether it has passed or not, if nothing is freed before.
    Patient(u64, Timestamp),
    /// One class waits for the others to move, with such an end as well.
    Polite(Class, Timestamp),
}

impl Policy {
    fn judge(self, ask: &Ask) -> Verdict {
        let ms = ask.now.as_nanos() / 1_000_000;
        match self {
            Self::Limit(max) if ask.in_flight >= max => Verdict::No(Wait::Freed),
            Self::Patient(max, or) if ask.in_flight >= max => Verdict::No(Wait::FreedOr(or)),
            Self::Polite(class, or) if ask.head.class == class && ask.in_flight % 3 != 2 => {
                Verdict::No(Wait::FreedOr(or))
            }
            Self::Gate(class, period) if ask.head.class == class && (ms / period) % 2 == 1 => {
                Verdict::No(Wait::Until(at((ms / period + 1) * period)))
            }
            Self::Late(class, until) if ask.head.class == class && ask.in_flight > 1 => Verdict::No(Wait::Until(until)),
            _ => Verdict::Go,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A request of this class, received at this time.
    Push(Operation, u64),
    /// A new pass, this much later.
    Pass(u64),
    /// Grants one request, if one may go.
    Grant,
    /// Starts, or gives back, one of those granted.
    Alloc(prop::sample::Index),
    Abort(prop::sample::Index),
    /// Ends one of those that started.
    Free(prop::sample::Index),
    Swap(Policy),
    Unregister,
}

fn policies() -> impl Strategy<Value = Policy> {
    let class = || prop::sample::select(&Class::ALL[..]);
    prop_oneof![
        Just(Policy::Go),
        (1..4u64).prop_map(Policy::Limit),
        (class(), 1..20u64).prop_map(|(class, period)| Policy::Gate(class, period)),
        (class(), 0..200u64).prop_map(|(class, ms)| Policy::Late(class, at(ms))),
        (0..4u64, 0..200u64).prop_map(|(max, ms)| Policy::Patient(max, at(ms))),
        (class(), 0..200u64).prop_map(|(class, ms)| Policy::Polite(class, at(ms))),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let ops = [
        Operation::Read,
        Operation::Write,
        Operation::Discard,
        Operation::WriteZeroes,
        Operation::Flush,
    ];
    let step = prop_oneof![
        4 => (prop::sample::select(ops.to_vec()), 0..100u64).prop_map(|(op, ms)| Step::Push(op, ms)),
        3 => (0..10u64).prop_map(Step::Pass),
        4 => Just(Step::Grant),
        3 => any::<prop::sample::Index>().prop_map(Step::Alloc),
        1 => any::<prop::sample::Index>().prop_map(Step::Abort),
        3 => any::<prop::sample::Index>().prop_map(Step::Free),
        1 => policies().prop_map(Step::Swap),
        1 => Just(Step::Unregister),
    ];
    prop::collection::vec(step, 1..150)
}

/// A request in the model.
#[derive(Clone, Copy, Debug)]
struct Known {
    head: Head,
    tag: Tag,
    /// Order of pushing.
    place: usize,
    reign: usize,
}

/// The contract, written down without a thought for speed.
#[derive(Default)]
struct Model {
    queues: [VecDeque<Known>; 3],
    holds: [Option<Wait>; 3],
    granted: Vec<Known>,
    started: Vec<Known>,
    /// Every manager so far; the first is "none".
    reigns: Vec<Policy>,
    /// Which of them the intake is under; it follows the last at its next pass.
    reign: usize,
    pushed: usize,
    /// A free of its own ended a wait, and nobody has asked since.
    look_again: bool,
    /// In this pass something was granted while a class waited for a free or an instant, whichever is first.
    moved: bool,
}

impl Model {
    fn push(&mut self, head: Head, tag: Tag) -> bool {
        let granted = self
            .granted
            .iter()
            .filter(|known| known.head.class == head.class)
            .count();
        let queue = &mut self.queues[head.class.index()];
        let fits =
            queue.len() + granted < DEPTH as usize && queue_total(&self.queues) + self.out() < 4 * DEPTH as usize;
        if fits {
            self.pushed += 1;
            let known = Known {
                head,
                tag,
                place: self.pushed,
                reign: 0,
            };
            self.queues[head.class.index()].push_back(known);
        }
        fits
    }

    fn begin_pass(&mut self, now: Timestamp) {
        self.look_again = false;
        self.moved = false;
        self.holds
            .iter_mut()
            .for_each(|hold| *hold = hold.filter(|wait| ends(*wait).is_none_or(|at| at > now)));
        if self.reign != self.reigns.len() - 1 {
            self.reign = self.reigns.len() - 1;
            self.holds = [None; 3];
        }
    }

    /// When a pass is due for the sake of what waits.
    fn wake_at(&self) -> Option<Timestamp> {
        let queued = Class::ALL
            .into_iter()
            .filter(|class| !self.queues[class.index()].is_empty());
        let until = |class: Class| self.holds[class.index()].and_then(ends);
        match self.look_again && queued.clone().next().is_some() {
            true => Some(Timestamp::ZERO),
            false => queued.filter_map(until).min(),
        }
    }

    fn next(&mut self, now: Timestamp) -> Option<Tag> {
        self.look_again = false;
        let expects = |hold: &Option<Wait>| matches!(hold, Some(Wait::FreedOr(_)));
        let tag = self.try_classes(now);
        if tag.is_none() && std::mem::take(&mut self.moved) {
            self.holds
                .iter_mut()
                .filter(|hold| expects(hold))
                .for_each(|hold| *hold = None);
            return self.try_classes(now);
        }
        self.moved |= tag.is_some() && self.holds.iter().any(expects);
        tag
    }

    fn try_classes(&mut self, now: Timestamp) -> Option<Tag> {
        let mut order = [Class::Read, Class::Write];
        let oldest = |class: &Class| {
            self.queues[class.index()]
                .front()
                .map(|known| (known.head.arrival, known.place))
        };
        order.sort_by_key(|class| oldest(class).unwrap_or((Timestamp::from_nanos(u64::MAX), 0)));
        [Class::Other, order[0], order[1]]
            .into_iter()
            .find_map(|class| self.try_class(class, now))
    }

    fn try_class(&mut self, class: Class, now: Timestamp) -> Option<Tag> {
        let mut known = *self.queues[class.index()].front()?;
        match self.holds[class.index()] {
            Some(wait) if ends(wait).is_none_or(|at| at > now) => return None,
            _ => {}
        }
        let mine = |known: &&Known| known.reign == self.reign;
        let in_flight = self.granted.iter().chain(&self.started).filter(mine).count() as u64;
        let ask = Ask {
            device: DeviceId(0),
            head: known.head,
            now,
            in_flight,
        };
        self.holds[class.index()] = match self.reigns[self.reign].judge(&ask) {
            Verdict::Go => None,
            Verdict::No(Wait::Until(until)) if until <= now => Some(Wait::Until(now + TICK)),
            Verdict::No(Wait::FreedOr(or)) if or <= now => Some(Wait::FreedOr(now + TICK)),
            Verdict::No(wait) => Some(wait),
        };
        if self.holds[class.index()].is_some() {
            return None;
        }
        known.reign = self.reign;
        self.queues[class.index()].pop_front();
        self.granted.push(known);
        Some(known.tag)
    }

    fn abort(&mut self, index: usize) {
        let known = self.granted.remove(index);
        let queue = &mut self.queues[known.head.class.index()];
        queue.push_back(known);
        queue.make_contiguous().sort_by_key(|known| known.place);
        self.freed(known.reign);
    }

    fn free(&mut self, index: usize) {
        let known = self.started.remove(index);
        self.freed(known.reign);
    }

    fn freed(&mut self, reign: usize) {
        if reign == self.reign {
            self.look_again |= self.holds.iter().flatten().any(is_for_free);
            self.holds
                .iter_mut()
                .for_each(|hold| *hold = hold.filter(|wait| !is_for_free(wait)));
        }
    }

    fn out(&self) -> usize {
        self.granted.len() + self.started.len()
    }
}

fn ends(wait: Wait) -> Option<Timestamp> {
    match wait {
        Wait::Until(at) | Wait::FreedOr(at) => Some(at),
        _ => None,
    }
}

fn is_for_free(wait: &Wait) -> bool {
    matches!(wait, Wait::Freed | Wait::FreedOr(_))
}

fn queue_total(queues: &[VecDeque<Known>; 3]) -> usize {
    queues.iter().map(VecDeque::len).sum()
}

/// The real thing, driven by the same steps.
struct Real {
    registry: Registry,
    device: Arc<ManagedDevice>,
    intake: Intake,
    granted: Vec<(Tag, Grant)>,
    started: Vec<Ticket>,
    managers: Vec<Arc<CountingManager>>,
    now: Timestamp,
}

impl Real {
    fn new() -> Self {
        let registry = Registry::new();
        let device = registry.attach("disk").unwrap();
        let intake = Intake::new(&device, DEPTH, Waker::none());
        let (granted, started, managers, now) = (Vec::new(), Vec::new(), Vec::new(), Timestamp::ZERO);
        Self {
            registry,
            device,
            intake,
            granted,
            started,
            managers,
            now,
        }
    }

    fn take(&mut self, step: Step, tag: Tag, model: &mut Model) {
        match step {
            Step::Push(op, ms) => {
                let head = head(op, at(ms));
                assert_eq!(self.intake.push(head, tag).is_ok(), model.push(head, tag));
            }
            Step::Pass(ms) => {
                self.now = self.now + Duration::from_millis(ms);
                self.intake.begin_pass(self.now);
                model.begin_pass(self.now);
            }
            Step::Grant => {
                let granted = self.intake.next(self.now);
                assert_eq!(granted.as_ref().map(|granted| granted.tag), model.next(self.now));
                self.granted.extend(granted.map(|granted| (granted.tag, granted.grant)));
            }
            Step::Alloc(index) if !self.granted.is_empty() => {
                let index = index.index(self.granted.len());
                let (_, grant) = self.granted.remove(index);
                self.started.push(self.intake.alloc(grant));
                let known = model.granted.remove(index);
                model.started.push(known);
            }
            Step::Abort(index) if !self.granted.is_empty() => {
                let index = index.index(self.granted.len());
                let (tag, grant) = self.granted.remove(index);
                self.intake.oo_abort(grant, tag);
                model.abort(index);
            }
            Step::Free(index) if !self.started.is_empty() => {
                let index = index.index(self.started.len());
                let ticket = self.started.remove(index);
                self.intake.free(ticket, self.now);
                model.free(index);
            }
            Step::Alloc(_) | Step::Abort(_) | Step::Free(_) => {}
            Step::Swap(policy) => {
                let manager = CountingManager::with_policy("random", move |ask| policy.judge(ask));
                self.registry.replace(manager.clone()).unwrap();
                self.managers.push(manager);
                model.reigns.push(policy);
            }
            Step::Unregister => {
                if self.registry.unregister(&self.registry.current()).is_ok() {
                    model.reigns.push(Policy::Go);
                }
            }
        }
    }

    fn check(&self, model: &Model) {
        assert_eq!(self.intake.queued(), queue_total(&model.queues));
        assert_eq!(self.intake.wake_at(), model.wake_at());
        assert_eq!(self.device.pending(), model.started.len() as u64);
        assert_eq!(self.registry.pending_total(), model.started.len() as u64);
        let started: u64 = self.managers.iter().map(|manager| manager.seen().pending).sum();
        assert!(started <= model.started.len() as u64);
    }

    /// Everything ends; then every manager has seen all that it was owed.
    fn finish(mut self) {
        for (tag, grant) in self.granted.drain(..) {
            self.intake.oo_abort(grant, tag);
        }
        for ticket in self.started.drain(..) {
            self.intake.free(ticket, self.now);
        }
        let queued = self.intake.queued();
        assert_eq!(self.intake.close().count(), queued);
        assert_eq!(self.registry.pending_total(), 0);
        drop((self.intake, self.device));
        self.managers.iter().for_each(|manager| manager.assert_over());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_intake_behaves_as_its_model(steps in steps()) {
        let mut real = Real::new();
        let mut model = Model { reigns: vec![Policy::Go], ..Model::default() };
        for (tag, step) in (0..).zip(steps) {
            real.take(step, Tag(tag), &mut model);
            real.check(&model);
        }
        real.finish();
    }
}
