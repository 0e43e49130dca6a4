//! A queue's filters in their order, and where each op is among them.

use std::fmt;
use std::time::Duration;

use iomgr_core::{Action, Op, OpError, Token};

use super::{Filter, FilterOp, FilterSetup, Verdict};
use crate::config::Config;
use crate::inflight::Work;
use crate::run::Run;
use crate::{Errno, Error};

/// All filters of a queue.
#[derive(Debug)]
pub(crate) struct Chain {
    links: Box<[Link]>,
    /// By the ops' places in the slab.
    ops: Box<[Seen]>,
    needs_bytes: bool,
}

/// A filter and what it is called.
#[derive(Debug)]
struct Link {
    name: String,
    filter: Box<dyn Filter>,
}

/// What is known of an op between `before` and `after`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    state: State,
    op: Op,
    run: Option<Run>,
    /// How many filters let it go.
    passed: u8,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// No filter has seen it.
    Unseen,
    /// It goes on when its time has come, with this, or fails.
    Held(Released),
    /// It goes its way.
    Gone,
}

/// What a held op goes on with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Released {
    pub(super) work: Work,
    /// A filter said that it fails.
    pub(super) refusal: Option<Errno>,
}

/// What all filters together have said of an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Admission {
    pub(super) hold: Duration,
    pub(super) refusal: Option<Errno>,
}

impl Seen {
    const NOTHING: Self = Self {
        state: State::Unseen,
        op: Op {
            token: Token::new(iomgr_core::Owner(0), 0),
            file: iomgr_core::FileSlot(0),
            action: Action::Flush,
        },
        run: None,
        passed: 0,
    };

    pub(super) fn op(&self) -> Op {
        self.op
    }

    pub(super) fn run(&self) -> Option<Run> {
        self.run
    }
}

impl Chain {
    /// Makes a queue's filters; `None` where there are none.
    pub(crate) fn new(config: &Config) -> Result<Option<Box<Self>>, Error> {
        if config.filters.is_empty() {
            return Ok(None);
        }
        let setup = FilterSetup {
            places: config.max_ops + config.net_ops,
            files: config.files,
        };
        let make = |config: &super::FilterConfig| -> Result<Link, Error> {
            Ok(Link {
                name: config.to_string(),
                filter: config.make(setup)?,
            })
        };
        let links: Box<[Link]> = config.filters.iter().map(make).collect::<Result<_, _>>()?;
        Ok(Some(Box::new(Self {
            needs_bytes: links.iter().any(|link| link.filter.needs_bytes()),
            links,
            ops: vec![Seen::NOTHING; setup.places as usize].into(),
        })))
    }

    /// The first filter that looks at bytes.
    pub(crate) fn of_bytes(&self) -> Option<&str> {
        let link = self.links.iter().find(|link| link.filter.needs_bytes())?;
        Some(&link.name)
    }

    /// Does a filter look at bytes?
    pub(crate) fn needs_bytes(&self) -> bool {
        self.needs_bytes
    }

    /// Every filter, to tell it something.
    pub(super) fn filters(&mut self) -> impl Iterator<Item = &mut dyn Filter> {
        self.links.iter_mut().map(|link| &mut *link.filter as _)
    }

    /// Asks the filters about an op that was pushed.
    pub(super) fn before(&mut self, op: &FilterOp<'_>, work: Work) -> Admission {
        let mut admission = Admission {
            hold: Duration::ZERO,
            refusal: None,
        };
        let mut passed = 0;
        for filter in self.links.iter_mut().map(|link| &mut link.filter) {
            match filter.before(op) {
                Verdict::Go => {}
                Verdict::Hold(time) => admission.hold = admission.hold.saturating_add(time),
                Verdict::Fail(errno) => {
                    admission.refusal = Some(errno);
                    break;
                }
            }
            passed += 1;
        }
        let refusal = admission.refusal;
        let state = if admission.hold.is_zero() {
            State::Gone
        } else {
            State::Held(Released { work, refusal })
        };
        self.ops[op.place as usize] = Seen {
            state,
            op: op.op,
            run: work.run(),
            passed,
        };
        admission
    }

    /// Is the op in this place held?
    pub(crate) fn holds(&self, place: u32) -> bool {
        matches!(self.ops[place as usize].state, State::Held(_))
    }

    /// Lets a held op go; `None` for any other.
    pub(super) fn release(&mut self, place: u32) -> Option<Released> {
        let seen = &mut self.ops[place as usize];
        let State::Held(released) = seen.state else { return None };
        seen.state = State::Gone;
        Some(released)
    }

    /// Takes note that an op ends; `None` for one that no filter saw.
    pub(super) fn leave(&mut self, place: u32) -> Option<Seen> {
        let seen = &mut self.ops[place as usize];
        let State::Gone = seen.state else { return None };
        seen.state = State::Unseen;
        Some(*seen)
    }

    /// Shows an op's end to the filters that let it go, the last one first.
    pub(super) fn after(&mut self, seen: &Seen, op: &FilterOp<'_>, result: Result<(), OpError>) -> Result<(), OpError> {
        let passed = self.links[..usize::from(seen.passed)].iter_mut().rev();
        passed.fold(result, |result, link| link.filter.after(op, result))
    }

    /// A line for each filter, and what it says itself below.
    pub(crate) fn dump(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        for Link { name, filter } in &self.links {
            writeln!(out, "filter {name}")?;
            filter.dump(out)?;
        }
        Ok(())
    }
}
