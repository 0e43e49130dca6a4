//! The driver, played in this process: it hands requests to the server, checks what is committed, and keeps to the kernel's
//! order of things. What the server does wrong is written down as the kernel would suffer it.
//!
//! A tag's command is the poll of an eventfd here, so the very queue and loop of the server run, on any machine.

mod allocations;
mod control;
mod queue;
mod recovery;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::Duration;

use iomgr_core::Errno;
use tqueue::EventWake;

use self::control::FakeControl;
use self::queue::FakeChar;
use crate::abi::{ControlOp, Descriptor, DeviceInfo, DeviceState, Params};
use crate::driver::{CharDevice, ControlPort, Driver};
use crate::{Error, ErrorKind, Features, IoOp};

/// A driver with devices of its own; all clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeDriver(Arc<Shared>);

#[derive(Debug, Default)]
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Something in the state has changed.
    changed: Condvar,
}

/// The kernel's side.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) habits: Habits,
    pub(crate) devices: BTreeMap<u32, Device>,
    /// Control commands, as they came.
    pub(crate) log: Vec<ControlOp>,
    /// What a real kernel would not have taken well.
    pub(crate) violations: Vec<String>,
    /// Of the server's thread that was here last, so far.
    pub(crate) allocations: u64,
}

/// How this kernel differs from what is asked of it.
#[derive(Clone, Debug)]
pub(crate) struct Habits {
    /// What it knows; the rest it drops without a word.
    pub(crate) features: Features,
    /// What it switches on by itself.
    pub(crate) forced: Features,
    pub(crate) queues_max: u16,
    pub(crate) depth_max: u16,
    pub(crate) buffer_bytes_max: u32,
    pub(crate) devices_max: usize,
    /// It does not know about discards, and ignores them without a word.
    pub(crate) ignores_discard: bool,
    /// It refuses the fetch of this tag of this queue.
    pub(crate) bad_tag: Option<(u16, u16)>,
    /// The processors of each queue, as bits; all, if it has none here.
    pub(crate) processors: Vec<u64>,
    /// It does not tell them.
    pub(crate) hides_processors: bool,
    /// So many times it has not noticed yet that a server is gone.
    pub(crate) busy_recoveries: u32,
    /// Meanwhile somebody deletes the device, and another with this mark gets its number.
    pub(crate) replaced_by: Option<u64>,
    /// Idle tags do not come back in time.
    pub(crate) quiesces_late: bool,
    /// Who serves has CAP_SYS_ADMIN.
    pub(crate) is_root: bool,
    /// How often a user looks at the node of his device before udev has given it to him.
    pub(crate) udev_looks: u32,
    /// There is none at all, or it is not for us.
    pub(crate) refuses: Option<ErrorKind>,
}

impl Default for Habits {
    fn default() -> Self {
        Self {
            features: Features::from_bits_retain(0x1fe),
            forced: Features::URING_CMD_COMP_IN_TASK | Features::CMD_IOCTL_ENCODE,
            queues_max: 64,
            depth_max: 4096,
            buffer_bytes_max: 1 << 20,
            devices_max: 64,
            ignores_discard: false,
            bad_tag: None,
            processors: Vec::new(),
            hides_processors: false,
            busy_recoveries: 0,
            replaced_by: None,
            quiesces_late: false,
            is_root: true,
            udev_looks: 0,
            refuses: None,
        }
    }
}

/// A device as the driver has it.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) info: DeviceInfo,
    pub(crate) params: Option<Params>,
    pub(crate) was_stopped: bool,
    /// Queues of which its last server fetched every tag.
    pub(crate) queues_ready: usize,
    /// A new server may come in.
    pub(crate) is_recovering: bool,
    /// New requests wait for the next server.
    pub(crate) is_canceling: bool,
    /// The page cache holds something.
    pub(crate) is_dirty: bool,
    /// Who has the block device open.
    pub(crate) users: usize,
    /// Only one may open the character device.
    pub(crate) is_open: bool,
    /// Who has the character device open: the file, and each queue's share of it.
    pub(crate) references: usize,
    /// Those of the first queue, then those of the next.
    pub(crate) tags: Vec<Tag>,
}

/// A tag, from the kernel's side.
#[derive(Debug)]
pub(crate) struct Tag {
    /// Who fetched it first, and has to go on doing so.
    pub(crate) server: Option<ThreadId>,
    /// Its command completes.
    pub(crate) event: Arc<EventWake>,
    pub(crate) stage: Stage,
    /// Of the write that was sent last.
    pub(crate) bytes: Vec<u8>,
    /// A request that waits for the next server.
    pub(crate) requeued: Option<(Descriptor, Vec<u8>)>,
    /// How a request has ended whose server is gone.
    pub(crate) kept: Option<Result<Vec<u8>, i32>>,
}

/// Where a tag is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nobody has asked for a request.
    Idle,
    /// The server waits for one.
    Fetched,
    /// One is on its way to the server, with the bytes of a write.
    Sent(Descriptor, Vec<u8>),
    /// The server has it.
    Served(Descriptor),
    /// It was committed: what the block layer made of that, and the bytes of a read. The server waits for the next.
    Answered(Result<Vec<u8>, i32>),
    /// No more will come; the server may know already.
    Aborted { told: bool },
}

/// Nothing takes so long.
const LONG: Duration = Duration::from_secs(30);

impl Shared {
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn notify(&self) {
        self.changed.notify_all();
    }

    /// Waits until a look at the state gives something.
    pub(crate) fn wait<T>(&self, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        let mut state = self.lock();
        loop {
            if let Some(found) = look(&mut state) {
                return found;
            }
            let (next, timeout) = self
                .changed
                .wait_timeout(state, LONG)
                .unwrap_or_else(PoisonError::into_inner);
            state = next;
            assert!(!timeout.timed_out(), "this would hang: {state:#?}");
        }
    }
}

impl State {
    pub(crate) fn device(&mut self, id: u32) -> Result<&mut Device, Errno> {
        self.devices.get_mut(&id).ok_or(Errno::NODEV)
    }

    pub(crate) fn accuse(&mut self, what: impl Into<String>) {
        self.violations.push(what.into());
    }
}

impl Device {
    /// Where the tags of a queue are.
    pub(crate) fn place(&self, queue: u16) -> Range<usize> {
        let depth = usize::from(self.info.depth);
        let start = usize::from(queue) * depth;
        start..start + depth
    }
}

impl Tag {
    /// The server will hear of it.
    pub(crate) fn signal(&self) {
        use iomgr_core::Wake;
        self.event.wake();
    }
}

impl FakeDriver {
    pub(crate) fn with(habits: Habits) -> Self {
        let driver = Self::default();
        driver.0.lock().habits = habits;
        driver
    }

    /// A request of the block layer's, up to its end: the bytes of a read, or the error.
    pub(crate) fn request(&self, id: u32, op: IoOp, start_sector: u64, sectors: u32) -> Result<Vec<u8>, i32> {
        self.raw(
            id,
            Descriptor {
                op_flags: op as u32,
                sectors,
                start_sector,
            },
            &[],
        )
    }

    /// A write, likewise.
    pub(crate) fn write(&self, id: u32, start_sector: u64, bytes: &[u8]) -> Result<Vec<u8>, i32> {
        let sectors = u32::try_from(bytes.len() / 512).unwrap();
        let descriptor = Descriptor {
            op_flags: IoOp::Write as u32,
            sectors,
            start_sector,
        };
        self.raw(id, descriptor, bytes)
    }

    /// Sends a write, and does not wait for its end.
    pub(crate) fn send_write(&self, id: u32, start_sector: u64, bytes: &[u8]) -> usize {
        let descriptor = Descriptor {
            op_flags: IoOp::Write as u32,
            sectors: u32::try_from(bytes.len() / 512).unwrap(),
            start_sector,
        };
        self.0.send(id, None, descriptor, bytes)
    }

    /// Whatever is asked for.
    pub(crate) fn raw(&self, id: u32, descriptor: Descriptor, bytes: &[u8]) -> Result<Vec<u8>, i32> {
        let tag = self.0.send(id, None, descriptor, bytes);
        self.0.answer(id, tag)
    }

    /// Sends a request, and does not wait for its end.
    pub(crate) fn send(&self, id: u32, op: IoOp, start_sector: u64, sectors: u32) -> usize {
        self.send_by(id, None, op, start_sector, sectors)
    }

    /// Sends a request by that queue, or by any, likewise.
    pub(crate) fn send_by(&self, id: u32, queue: Option<u16>, op: IoOp, start_sector: u64, sectors: u32) -> usize {
        let descriptor = Descriptor {
            op_flags: op as u32,
            sectors,
            start_sector,
        };
        self.0.send(id, queue, descriptor, &[])
    }

    /// How a request that was sent has ended.
    pub(crate) fn answer(&self, id: u32, tag: usize) -> Result<Vec<u8>, i32> {
        self.0.answer(id, tag)
    }

    /// Waits until all tags of a queue are where they are waited for.
    pub(crate) fn wait_tags(&self, id: u32, queue: u16, is_there: impl Fn(&Stage) -> bool) {
        self.0.wait(|state| {
            let device = state.device(id).ok()?;
            let place = device.place(queue);
            device.tags[place].iter().all(|tag| is_there(&tag.stage)).then_some(())
        });
    }

    /// Waits until a tag is where it is waited for.
    pub(crate) fn wait_tag(&self, id: u32, tag: usize, is_there: impl Fn(&Stage) -> bool) {
        self.0
            .wait(|state| is_there(&state.device(id).ok()?.tags[tag].stage).then_some(()));
    }

    /// Stops a device, as another process would.
    pub(crate) fn stop_from_outside(&self, id: u32) {
        self.0.lock().device(id).unwrap().is_dirty = false;
        self.0.stop(id).unwrap();
    }

    /// Somebody opens the block device, or lets go of it.
    pub(crate) fn use_block_device(&self, id: u32, opens: bool) {
        let mut state = self.0.lock();
        let users = &mut state.device(id).unwrap().users;
        *users = if opens { *users + 1 } else { *users - 1 };
    }

    /// Refuses the fetch of this tag of this queue from now on, or of none.
    pub(crate) fn refuse_tag(&self, tag: Option<(u16, u16)>) {
        self.0.lock().habits.bad_tag = tag;
    }

    /// Waits for a state.
    pub(crate) fn wait_state(&self, id: u32, wanted: DeviceState) {
        self.0
            .wait(|state| (state.device(id).ok()?.info.state == wanted).then_some(()));
    }

    /// How often a server's thread has allocated anything, when it last had to do with the driver.
    pub(crate) fn allocations(&self) -> u64 {
        self.0.lock().allocations
    }

    pub(crate) fn log(&self) -> Vec<ControlOp> {
        self.0.lock().log.clone()
    }

    pub(crate) fn params(&self, id: u32) -> Option<Params> {
        self.0.lock().devices[&id].params.clone()
    }

    pub(crate) fn ids(&self) -> Vec<u32> {
        self.0.lock().devices.keys().copied().collect()
    }

    /// Was everything done as the kernel wants it?
    pub(crate) fn assert_content(&self) {
        let state = self.0.lock();
        assert!(state.violations.is_empty(), "{:#?}", state.violations);
    }
}

impl Driver for FakeDriver {
    fn control(&self) -> Result<Box<dyn ControlPort>, Error> {
        match self.0.lock().habits.refuses {
            Some(kind) => Err(Error::new(kind, "refused")),
            None => Ok(Box::new(FakeControl(Arc::clone(&self.0)))),
        }
    }

    fn open(&self, device: u32) -> Result<Arc<dyn CharDevice>, Error> {
        if self.0.lock().habits.udev_looks > 0 {
            return Err(Error::new(ErrorKind::Denied, "not this user's"));
        }
        Ok(Arc::new(FakeChar::open(&self.0, device)?))
    }

    fn may_use(&self, _node: &Path) -> bool {
        let looks = &mut self.0.lock().habits.udev_looks;
        *looks = looks.saturating_sub(1);
        *looks == 0
    }
}
