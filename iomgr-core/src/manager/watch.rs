//! Hooks that take too long, seen by the thread that calls them and by a watchdog.
//!
//! A queue thread says when it goes into hooks and when it comes out ([`HookMeter`]); what they took is added up over a
//! pass of its loop, and reported when it is too much. A hook that does not return is seen by another thread only, which
//! looks at all meters every [`TICK`](HookWatch::TICK) ([`HookWatch::scan`]), and sleeps for good while no hooks are called.
//! Nobody here reads a clock, and under manager "none" nobody has to.
//!
//! # The watchdog's sleep
//! It says that it rests and then looks at the meters *again*; who goes into hooks marks its meter and then looks whether
//! the watchdog rests. With a sequentially consistent fence between the two steps on both sides, either the second look
//! sees the mark, or the one who goes in wakes the watchdog.
//!
//! # References
//! S0-4 of the managers' contract: a pass whose hooks took above 1 ms is reported, a hook that does not return after 1 s.

use std::sync::PoisonError;
use std::time::Duration;

use crate::shim::{Arc, AtomicBool, AtomicU64, Mutex, MutexGuard, Ordering, fence};
use crate::{Timestamp, Waker};

/// All meters of a server, for its watchdog.
#[derive(Debug)]
pub struct HookWatch {
    meters: Mutex<Vec<Watched>>,
    /// The watchdog sleeps until it is woken, or is about to.
    is_resting: AtomicBool,
    waker: Waker,
    slow: AtomicU64,
    stuck: AtomicU64,
}

/// What was seen too long in hooks so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HookCounts {
    /// Passes whose hooks took longer than [`HookMeter::SLOW`].
    pub slow_passes: u64,
    /// Times that a thread was in hooks for [`HookWatch::STUCK`] or longer.
    pub stuck_passes: u64,
}

/// What a look at all meters has shown.
#[derive(Debug, Default)]
pub struct Scan {
    /// Threads that do not come out of hooks; each is told of once.
    pub stuck: Vec<Stuck>,
    /// Were hooks called since the last look? If not, ask [`HookWatch::may_rest`].
    pub is_active: bool,
}

/// A thread that does not come out of hooks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// Whose hooks: what the thread saw when it went in.
    pub manager: String,
    /// The thread's name.
    pub thread: String,
    /// How long it is in there.
    pub since: Duration,
}

/// A meter as the watchdog sees it.
#[derive(Debug)]
struct Watched {
    post: Arc<Post>,
    /// Its mark at the last look.
    seen: u64,
    /// This mark was told of.
    is_told: bool,
}

/// What a thread shows of its meter. On a cache line of its own; one thread writes.
#[derive(Debug)]
#[repr(align(64))]
struct Post {
    mark: AtomicU64,
    thread: String,
    /// Written when it changes.
    manager: Mutex<String>,
}

impl HookWatch {
    /// How often the watchdog looks while hooks are called.
    pub const TICK: Duration = Duration::from_millis(500);
    /// How long a thread is in hooks when it is told of.
    pub const STUCK: Duration = Duration::from_secs(1);

    /// No meters so far; `waker` wakes the watchdog.
    pub fn new(waker: Waker) -> Self {
        Self {
            meters: Mutex::new(Vec::new()),
            is_resting: AtomicBool::new(false),
            waker,
            slow: AtomicU64::new(0),
            stuck: AtomicU64::new(0),
        }
    }

    /// Looks at all meters.
    pub fn scan(&self, now: Timestamp) -> Scan {
        let mut scan = Scan::default();
        for meter in self.lock().iter_mut() {
            meter.scan(now, &mut scan);
        }
        self.stuck.fetch_add(scan.stuck.len() as u64, Ordering::Relaxed);
        scan
    }

    /// May the watchdog sleep until it is woken? Ask when the last look has shown no activity. A wake-up that comes before
    /// it sleeps must not be lost.
    pub fn may_rest(&self) -> bool {
        self.is_resting.store(true, Ordering::Relaxed);
        // Orders the store before the look at the marks; pairs with the fence in `HookMeter::enter`.
        fence(Ordering::SeqCst);
        let is_quiet = self.lock().iter().all(Watched::is_quiet);
        if !is_quiet {
            self.is_resting.store(false, Ordering::Relaxed);
        }
        is_quiet
    }

    /// What was seen so far.
    pub fn counts(&self) -> HookCounts {
        HookCounts {
            slow_passes: self.slow.load(Ordering::Relaxed),
            stuck_passes: self.stuck.load(Ordering::Relaxed),
        }
    }

    #[cold]
    fn rouse(&self) {
        if self.is_resting.swap(false, Ordering::Relaxed) {
            self.waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Watched>> {
        self.meters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    fn scan(&mut self, now: Timestamp, scan: &mut Scan) {
        let mark = self.post.mark.load(Ordering::Relaxed);
        scan.is_active |= is_inside(mark) || mark != self.seen;
        self.is_told &= mark == self.seen;
        self.seen = mark;
        let since = now.since(instant(mark));
        if is_inside(mark) && since >= HookWatch::STUCK && !self.is_told {
            self.is_told = true;
            scan.stuck.push(Stuck {
                manager: self.post.manager().clone(),
                thread: self.post.thread.clone(),
                since,
            });
        }
    }

    fn is_quiet(&self) -> bool {
        self.post.mark.load(Ordering::Relaxed) == self.seen && !is_inside(self.seen)
    }
}

/// What a thread shows that went into hooks at `now`, or came out.
fn mark(now: Timestamp, is_inside: bool) -> u64 {
    now.as_nanos() << 1 | u64::from(is_inside)
}

fn is_inside(mark: u64) -> bool {
    mark & 1 == 1
}

fn instant(mark: u64) -> Timestamp {
    Timestamp::from_nanos(mark >> 1)
}

impl Post {
    fn manager(&self) -> MutexGuard<'_, String> {
        self.manager.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a thread is in hooks.
///
/// In each pass, if hooks [are called](Self::is_needed): [`enter`](Self::enter) and [`leave`](Self::leave) around what calls
/// them, as often as it takes; then [`end_pass`](Self::end_pass).
#[derive(Debug)]
pub struct HookMeter {
    watch: Arc<HookWatch>,
    post: Arc<Post>,
    /// Whose hooks are called.
    manager: String,
    is_needed: bool,
    entered: Timestamp,
    /// In this pass.
    took: Duration,
    /// When a slow pass was last told of, and how many were not told of since.
    told: Option<Timestamp>,
    untold: u32,
}

impl HookMeter {
    /// A pass whose hooks took longer is reported: counted, and logged at most once a second.
    pub const SLOW: Duration = Duration::from_millis(1);

    const TELL_EVERY: Duration = Duration::from_secs(1);

    /// A meter for the thread of this name.
    pub fn new(watch: &Arc<HookWatch>, thread: &str) -> Self {
        let post = Arc::new(Post {
            mark: AtomicU64::new(0),
            thread: thread.to_owned(),
            manager: Mutex::new(String::new()),
        });
        watch.lock().push(Watched {
            post: Arc::clone(&post),
            seen: 0,
            is_told: false,
        });
        Self {
            watch: Arc::clone(watch),
            post,
            manager: String::new(),
            is_needed: false,
            entered: Timestamp::ZERO,
            took: Duration::ZERO,
            told: None,
            untold: 0,
        }
    }

    /// The manager whose hooks the thread calls from now on, if any ([`Lane::manager`](crate::Lane::manager)). Once a pass.
    #[inline]
    pub fn follow(&mut self, manager: Option<&str>) {
        self.is_needed = manager.is_some();
        if let Some(manager) = manager
            && manager != self.manager
        {
            self.rename(manager);
        }
    }

    /// Are hooks called, so that the clock must be read?
    #[inline]
    pub fn is_needed(&self) -> bool {
        self.is_needed
    }

    /// The thread goes into hooks.
    pub fn enter(&mut self, now: Timestamp) {
        self.entered = now;
        self.post.mark.store(mark(now, true), Ordering::Relaxed);
        // Orders the store before the look at the watchdog; pairs with the fence in `HookWatch::may_rest`.
        fence(Ordering::SeqCst);
        if self.watch.is_resting.load(Ordering::Relaxed) {
            self.watch.rouse();
        }
    }

    /// It came out.
    pub fn leave(&mut self, now: Timestamp) {
        self.post.mark.store(mark(now, false), Ordering::Relaxed);
        self.took += now.since(self.entered);
    }

    /// The pass is over: tells of it if its hooks took too long.
    #[inline]
    pub fn end_pass(&mut self) {
        if self.took > Self::SLOW {
            self.tell();
        }
        self.took = Duration::ZERO;
    }

    #[cold]
    fn tell(&mut self) {
        self.watch.slow.fetch_add(1, Ordering::Relaxed);
        let now = self.entered + self.took;
        self.untold += 1;
        if self.told.is_none_or(|told| now.since(told) >= Self::TELL_EVERY) {
            let (manager, thread) = (&self.manager, &self.post.thread);
            tracing::warn!(manager, thread, took = ?self.took, times = self.untold, "hooks_slow");
            (self.told, self.untold) = (Some(now), 0);
        }
    }

    #[cold]
    fn rename(&mut self, manager: &str) {
        manager.clone_into(&mut self.manager);
        manager.clone_into(&mut self.post.manager());
    }
}

impl Drop for HookMeter {
    fn drop(&mut self) {
        self.watch.lock().retain(|meter| !Arc::ptr_eq(&meter.post, &self.post));
    }
}
