//! What notifications bring: it is told, and decides how the verb ends.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use serde_json::json;
use vbd::dmio::{
    Buffers, Cancelled, Client, Counters, Event, Memory, Notification, Notify, Reason, RegionState, Watch,
};

use super::report::{Origin, Report};
use crate::failure::Failure;

/// See the module.
#[derive(Debug)]
pub(super) struct Told {
    report: RefCell<Report>,
    /// Requests that are not over.
    open: Cell<usize>,
    has_failed: Cell<bool>,
    is_late: Cell<bool>,
    /// The numbers of regions that were OK.
    good: RefCell<Vec<usize>>,
    read: RefCell<Option<Vec<u8>>>,
}

/// What has become of one request.
struct Listener {
    told: Rc<Told>,
    origin: Origin,
    choice: bool,
    is_any_ok: Cell<bool>,
    is_any_bad: Cell<bool>,
}

impl Told {
    pub(super) fn new(report: Report) -> Self {
        Self {
            report: report.into(),
            open: Cell::default(),
            has_failed: Cell::default(),
            is_late: Cell::default(),
            good: RefCell::default(),
            read: RefCell::default(),
        }
    }

    pub(super) fn begin(&self) {
        self.report.borrow_mut().begin();
    }

    /// Who hears of a request that is about to start.
    pub(super) fn expect(self: &Rc<Self>, origin: Origin, choice: bool) -> Rc<dyn Notify> {
        self.open.set(self.open.get() + 1);
        Rc::new(Listener {
            told: Rc::clone(self),
            origin,
            choice,
            is_any_ok: Cell::default(),
            is_any_bad: Cell::default(),
        })
    }

    /// Who hears of devices.
    pub(super) fn watch(self: &Rc<Self>) -> Rc<dyn Watch> {
        let told = Rc::clone(self);
        Rc::new(move |_: &mut Client, event: &Event| told.report.borrow_mut().device(event))
    }

    /// Are all requests over?
    pub(super) fn is_over(&self) -> bool {
        self.open.get() == 0
    }

    /// What could not be told.
    pub(super) fn check(&self) -> Result<(), Failure> {
        self.report.borrow_mut().check()
    }

    /// Could some request not be done, by what a device said?
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed.get()
    }

    /// Was some region late, or given up?
    pub(super) fn is_late(&self) -> bool {
        self.is_late.get()
    }

    /// The numbers of regions that were OK since it was asked last, in the order of the command line.
    pub(super) fn take_good(&self) -> Vec<usize> {
        let mut good = self.good.take();
        good.sort_unstable();
        good
    }

    /// What was read last.
    pub(super) fn take_read(&self) -> Option<Vec<u8>> {
        self.read.take()
    }

    /// The sum, for programs.
    pub(super) fn end(&self, counted: Counters, orphans: u32) {
        let mut report = self.report.borrow_mut();
        if report.json {
            report.event(&json!({
                "event": "end",
                "regions": counted.regions,
                "ok": counted.ok,
                "failed": counted.failed,
                "cancelled": counted.cancelled,
                "never_started": counted.never_started,
                "timeouts": counted.timeouts,
                "late": counted.late,
                "indeterminate": counted.indeterminate,
                "orphans": orphans,
            }));
        }
    }
}

impl Notify for Listener {
    fn notify(&self, _: &mut Client, note: Notification) {
        let told = &self.told;
        told.report.borrow_mut().region(&self.origin, &note);
        match note.state {
            RegionState::Ok => {
                self.is_any_ok.set(true);
                told.good.borrow_mut().push(self.origin.regions[note.region]);
            }
            RegionState::Error(_) => self.is_any_bad.set(true),
            RegionState::Cancelled(Cancelled {
                reason: Reason::Unneeded,
                ..
            }) => {}
            RegionState::Timeout | RegionState::Cancelled(_) => told.is_late.set(true),
        }
        if note.is_last {
            self.over(note.memory);
        }
    }
}

impl Listener {
    fn over(&self, memory: Memory) {
        let told = &self.told;
        told.open.set(told.open.get() - 1);
        // Of a choice one good region is enough.
        let is_good = self.choice && self.is_any_ok.get();
        if self.is_any_bad.get() && !is_good {
            told.has_failed.set(true);
        }
        if let (Memory::Bounce(Buffers::One(bytes)), true) = (memory, self.is_any_ok.get()) {
            *told.read.borrow_mut() = Some(bytes);
        }
    }
}
