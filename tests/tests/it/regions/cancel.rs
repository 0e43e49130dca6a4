//! Giving regions up while their device is stalled, and others go on.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use dmio::{Cancelled, Client, Handle, IoRequest, Memory, Notification, Notify, Reason, RegionState};
use iomgr_core::Lease;

use super::rig::{BAD, GOOD, Notes, Rig, SECTORS, bounce, poll_until, region};
use crate::disk::soak;

/// How often a figure may be missed: the machine is shared, and may give nobody any CPU for longer.
const TRIES: usize = 3;
/// The stall lasts as many, each long enough for two regions to be given up.
const WINDOWS: usize = 10;
const WINDOW: Duration = Duration::from_secs(1);
const CANCEL_MAX: Duration = Duration::from_millis(1);
const GAP_MAX: Duration = Duration::from_millis(20);
const DEPTH: usize = 8;

/// Writes to the good device, each when another ends, and the longest time in which none did.
struct Load {
    next: Cell<u64>,
    open: Cell<usize>,
    is_ending: Cell<bool>,
    last: Cell<Instant>,
    gap: Cell<Duration>,
    ended: Cell<u64>,
    free: RefCell<Vec<Lease>>,
    own: Weak<Self>,
}

impl Load {
    fn start(client: &mut Client) -> Rc<Self> {
        let load = Rc::new_cyclic(|own| Self {
            next: Cell::new(0),
            open: Cell::new(0),
            is_ending: Cell::new(false),
            last: Cell::new(Instant::now()),
            gap: Cell::new(Duration::ZERO),
            ended: Cell::new(0),
            free: RefCell::default(),
            own: own.clone(),
        });
        for _ in 0..DEPTH {
            let lease = client.alloc(4096).unwrap();
            load.open.set(load.open.get() + 1);
            load.write(client, lease);
        }
        load
    }

    fn write(&self, client: &mut Client, lease: Lease) {
        let at = self.next.replace(self.next.get() + 1) % 128;
        let regions = [region(GOOD, 1024 + at * SECTORS, SECTORS)];
        let own: Rc<dyn Notify> = self.own.upgrade().unwrap();
        client
            .io(IoRequest::write(&regions, Memory::Pool(lease)), Some(own))
            .unwrap();
    }

    /// The longest gap since this was asked last, with the one that is still open.
    fn gap(&self) -> Duration {
        self.gap.replace(Duration::ZERO).max(self.last.get().elapsed())
    }

    fn end(&self, client: &mut Client) {
        self.is_ending.set(true);
        poll_until(client, |_| self.open.get() == 0);
        self.free.take().into_iter().for_each(|lease| client.free(lease));
    }
}

impl Notify for Load {
    fn notify(&self, client: &mut Client, note: Notification) {
        assert_eq!(note.state, RegionState::Ok);
        let now = Instant::now();
        self.gap.set(self.gap.get().max(now - self.last.replace(now)));
        self.ended.set(self.ended.get() + 1);
        let Memory::Pool(lease) = note.memory else {
            unreachable!()
        };
        match self.is_ending.get() {
            false => self.write(client, lease),
            true => {
                self.open.set(self.open.get() - 1);
                self.free.borrow_mut().push(lease);
            }
        }
    }
}

/// Another thread, which cancels what it is sent, and says when it did and how long that took.
struct Canceller {
    handles: mpsc::Sender<Handle>,
    times: mpsc::Receiver<(Instant, Duration)>,
}

impl Canceller {
    fn start() -> Self {
        let (handles, to_cancel) = mpsc::channel::<Handle>();
        let (took, times) = mpsc::channel();
        std::thread::spawn(move || {
            for handle in to_cancel {
                let start = Instant::now();
                let cancelled = handle.cancel();
                let time = start.elapsed();
                assert_eq!(cancelled.unwrap(), 1, "the region of the stalled device");
                if took.send((start, time)).is_err() {
                    return;
                }
            }
        });
        Self { handles, times }
    }
}

/// What was measured in one stall.
#[derive(Default)]
struct Figures {
    cancels: Vec<Duration>,
    told: Vec<Duration>,
    gaps: Vec<Duration>,
}

impl Figures {
    fn median(times: &[Duration]) -> Duration {
        let mut times = times.to_vec();
        times.sort_unstable();
        times[times.len() / 2]
    }

    fn print(&self) {
        let [cancel, told, gap] = [&self.cancels, &self.told, &self.gaps].map(|times| Self::median(times));
        let worst = [&self.cancels, &self.told].map(|times| times.iter().max());
        println!("cancel returns in {cancel:?}, is told in {told:?} (medians; worst {worst:?})");
        println!("gaps of the good device: median {gap:?} of {:?}", self.gaps);
    }

    /// Of the gaps the best window's counts: a stall that is felt is felt in each of them, while in some this machine's CPUs
    /// were others'.
    fn are_good(&self) -> bool {
        Self::median(&self.cancels) < CANCEL_MAX
            && Self::median(&self.told) < CANCEL_MAX
            && self.gaps.iter().any(|gap| *gap <= GAP_MAX)
    }
}

#[test]
fn regions_cancel_is_at_once_and_the_good_device_goes_on() {
    let Some(mut rig) = Rig::new() else { return };
    let canceller = Canceller::start();
    let holds = (0..TRIES).any(|_| {
        let figures = stall(&mut rig, &canceller);
        figures.print();
        figures.are_good()
    });
    assert!(holds, "one device's stall is felt elsewhere");
    assert!(rig.client.destroy().is_ok());
}

/// Ten seconds in which one device does not answer, and the other is at work.
fn stall(rig: &mut Rig, canceller: &Canceller) -> Figures {
    let (late_before, mut figures) = (rig.client.counters().late, Figures::default());
    let load = Load::start(&mut rig.client);
    rig.pass_time(WINDOW / 10);
    load.gap();
    rig.throttle.stall();
    for window in 0..WINDOWS {
        for half in 0..2 {
            rig.pass_time(WINDOW / 2);
            let at = (2 * window + half) as u64 * SECTORS;
            give_up(rig, canceller, at, &mut figures);
        }
        figures.gaps.push(load.gap());
    }
    println!("{} writes to the good device", load.ended.get());
    let cancelled = figures.cancels.len();
    assert_eq!(rig.client.occupancy().orphans as usize, cancelled, "nothing has moved");
    rig.throttle.lift();
    rig.settle();
    let late = rig.client.counters().late - late_before;
    assert_eq!(late, cancelled as u64);
    load.end(&mut rig.client);
    figures
}

/// Writes to both devices, and gives up what the stalled one does not end, from another thread.
fn give_up(rig: &mut Rig, canceller: &Canceller, at: u64, figures: &mut Figures) {
    let notes = Notes::default();
    let legs = [region(GOOD, at, SECTORS), region(BAD, at, SECTORS)];
    let handle = rig.start(IoRequest::write(&legs, bounce(0xAA)), &notes);
    rig.poll_until(|_| notes.len() == 1);
    canceller.handles.send(handle).unwrap();
    rig.poll_until(|_| notes.len() == 2);
    let (start, took) = canceller.times.recv().unwrap();
    let cancelled = RegionState::Cancelled(Cancelled {
        reason: Reason::Handle,
        never_started: false,
    });
    assert_eq!(notes.states(), [(0, RegionState::Ok), (1, cancelled)]);
    let heard = notes.take().pop().unwrap().1;
    figures.cancels.push(took);
    figures.told.push(heard - start);
}

/// From another thread, all that one device has; twice is as good as once.
#[test]
fn regions_cancel_by_device_moves_all_of_them() {
    let Some(mut rig) = Rig::new() else { return };
    rig.throttle.stall();
    let notes = Notes::default();
    let count = if soak() { 32 } else { 16 };
    for at in 0..count {
        let memory = rig.pool(0xAA);
        drop(rig.start(IoRequest::write(&[region(BAD, at * SECTORS, SECTORS)], memory), &notes));
    }
    let remote = rig.client.remote();
    let bad = dmio::DeviceIndex(BAD);
    let given_up = std::thread::spawn(move || {
        let first = remote.cancel_device(bad, false).unwrap();
        (first, remote.cancel_device(bad, false).unwrap())
    });
    rig.poll_until(|_| notes.len() as u64 == count);
    assert_eq!(given_up.join().unwrap(), (u32::try_from(count).unwrap(), 0));
    let cancelled = RegionState::Cancelled(Cancelled {
        reason: Reason::Device,
        never_started: false,
    });
    assert!(notes.of_one().iter().all(|&state| state == cancelled));
    rig.throttle.lift();
    rig.settle();
    let bytes = rig.on_disk(BAD, 0, count * SECTORS);
    assert!(
        bytes.iter().all(|&byte| byte == 0xAA),
        "they all landed, with their own bytes"
    );
    assert!(rig.client.destroy().is_ok());
}
