//! The devices' queues on this thread: one for each number, and those that were replaced and still owe answers.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use iomgr_core::{Device, DeviceQueue, Done, Limits, OpDone, OpQueue, Owner, Pass, QueueContext, Timestamp, Waker};

use super::RunnerConfig;
use crate::{DeviceIndex, Error, ErrorKind, Generation};

/// What a device was when its queue was opened.
#[derive(Clone, Debug)]
pub struct PlaceInfo {
    /// Its name, for people.
    pub name: String,
    /// What it can take.
    pub limits: Limits,
}

/// A device's queue.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) info: PlaceInfo,
    pub(super) generation: Generation,
    pub(super) queue: Box<dyn DeviceQueue>,
    /// Legs with lists of which a part was handed back.
    pub(super) partial: VecDeque<u32>,
    /// It handed something back, and has neither ended anything nor been kicked since.
    pub(super) is_busy: bool,
    /// The machine keeps legs that it handed back.
    pub(super) is_parked: bool,
    /// It has another's number no more.
    is_replaced: bool,
    device: Option<DeviceIndex>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Places {
    /// By owner.
    places: Box<[Option<Place>]>,
    /// Behind the last place that was ever used: most owners never are.
    end: usize,
    first_owner: u16,
    /// By number of the device: which owner's.
    current: Box<[usize]>,
    depth: u32,
    /// There are some that were replaced.
    has_replaced: bool,
}

impl Places {
    pub(super) fn new(config: &RunnerConfig, devices: &[Arc<dyn Device>], io: &mut dyn OpQueue) -> Result<Self, Error> {
        let Range { start, end } = config.owners;
        let mut places = Self {
            places: (start..end).map(|_| None).collect(),
            end: 0,
            first_owner: start,
            current: (0..devices.len()).collect(),
            depth: config.regions + config.parts,
            has_replaced: false,
        };
        for (number, device) in (0..).zip(devices) {
            match places.open(io, device, config.waker.clone()) {
                Ok(at) => drop(places.install(DeviceIndex(number), Generation(0), at)),
                Err(error) => {
                    places.close(io);
                    return Err(error);
                }
            }
        }
        Ok(places)
    }

    /// Opens a queue of a device; it has no number yet.
    pub(super) fn open(
        &mut self,
        io: &mut dyn OpQueue,
        device: &Arc<dyn Device>,
        waker: Waker,
    ) -> Result<usize, Error> {
        let at = self.places.iter().position(Option::is_none).ok_or_else(|| {
            let what = "no owner of ops is left for another device: wait until those that were replaced have answered";
            Error::new(ErrorKind::Full, what)
        })?;
        let context = QueueContext {
            index: 0,
            count: 1,
            owner: Owner(self.first_owner + u16::try_from(at).expect("owners have 16 bits")),
            depth: self.depth,
            waker,
            io,
        };
        let queue = device.open_queue(context).map_err(|error| {
            Error::new(
                ErrorKind::Device,
                format!("{}: its queue cannot be opened", device.name()),
            )
            .because(error)
        })?;
        self.end = self.end.max(at + 1);
        self.places[at] = Some(Place {
            info: PlaceInfo {
                name: device.name().to_owned(),
                limits: device.limits(),
            },
            generation: Generation(0),
            queue,
            partial: VecDeque::with_capacity(self.depth as usize),
            is_busy: false,
            is_parked: false,
            is_replaced: false,
            device: None,
        });
        Ok(at)
    }

    /// Gives an opened queue a device's number; the one that had it goes on until it has answered for all. Says which legs it
    /// has in part only: the rest goes nowhere.
    pub(super) fn install(&mut self, device: DeviceIndex, generation: Generation, at: usize) -> VecDeque<u32> {
        let number = usize::from(device.0);
        let mut partial = VecDeque::new();
        if let Some(old) = self.places[self.current[number]]
            .as_mut()
            .filter(|old| old.device == Some(device))
        {
            old.is_replaced = true;
            self.has_replaced = true;
            partial = std::mem::take(&mut old.partial);
        }
        self.current[number] = at;
        let place = self.places[at].as_mut().expect("it was opened");
        (place.device, place.generation) = (Some(device), generation);
        partial
    }

    /// Closes a queue that was opened and gets no number.
    pub(super) fn discard(&mut self, at: usize, io: &mut dyn OpQueue) {
        if let Some(place) = self.places[at].take() {
            place.queue.close(io);
        }
    }

    pub(super) fn owns(&self, owner: Owner) -> bool {
        let at = owner.0.checked_sub(self.first_owner);
        at.is_some_and(|at| usize::from(at) < self.places.len())
    }

    pub(super) fn op_done(&mut self, pass: &mut Pass<'_>, done: OpDone) {
        let at = usize::from(done.token.owner().0 - self.first_owner);
        match self.places.get_mut(at) {
            Some(Some(place)) => place.queue.op_done(pass, done),
            _ => tracing::error!(?done, "op_foreign: no device queue of this runner pushed it"),
        }
    }

    /// Kicks the queues that wait for a time that `is_due`; those that do not wait, if every time is.
    pub(super) fn kick(&mut self, pass: &mut Pass<'_>, is_due: impl Fn(Timestamp) -> bool) {
        let all = is_due(Timestamp::from_nanos(u64::MAX));
        for place in self.all_mut() {
            if all || place.queue.wake_at().is_some_and(&is_due) {
                place.queue.kick(pass);
                place.is_busy = false;
            }
        }
    }

    pub(super) fn wake_at(&self) -> Option<Timestamp> {
        self.all().filter_map(|place| place.queue.wake_at()).min()
    }

    /// The queue that a leg goes to.
    pub(super) fn current(&mut self, device: DeviceIndex) -> &mut Place {
        let at = self.current[usize::from(device.0)];
        self.places[at].as_mut().expect("each number has a device")
    }

    /// The queue that has a leg, if it is still there.
    pub(super) fn find(&mut self, device: DeviceIndex, generation: Generation) -> Option<&mut Place> {
        self.all_mut()
            .find(|place| place.device == Some(device) && place.generation == generation)
    }

    pub(super) fn info(&self, device: DeviceIndex) -> Option<&PlaceInfo> {
        let at = *self.current.get(usize::from(device.0))?;
        self.places[at].as_ref().map(|place| &place.info)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Place> {
        self.places[..self.end].iter().flatten()
    }

    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut Place> {
        self.places[..self.end].iter_mut().flatten()
    }

    /// How many places were ever used; some of them may be empty.
    pub(super) fn len(&self) -> usize {
        self.end
    }

    /// The next leg of which a part was handed back by the queue at a place, if it may have room now.
    pub(super) fn pop_partial(&mut self, at: usize, has_news: bool) -> Option<u32> {
        let place = self.places[at].as_mut()?;
        let may_have_room = has_news || !place.is_busy;
        may_have_room.then(|| place.partial.pop_front()).flatten()
    }

    pub(super) fn are_idle(&self) -> bool {
        self.all().all(|place| place.queue.is_idle())
    }

    /// Closes the queues that were replaced and owe nothing any more.
    pub(super) fn bury(&mut self, io: &mut dyn OpQueue) {
        if !self.has_replaced {
            return;
        }
        self.has_replaced = false;
        for place in &mut self.places {
            match place {
                Some(old) if old.is_replaced && old.queue.is_idle() => {
                    if let Some(old) = place.take() {
                        old.queue.close(io);
                    }
                }
                Some(old) => self.has_replaced |= old.is_replaced,
                None => {}
            }
        }
    }

    /// Closes what is idle; the rest is left to its devices.
    pub(super) fn close(self, io: &mut dyn OpQueue) {
        for place in self.places.into_iter().flatten() {
            if place.queue.is_idle() {
                place.queue.close(io);
            } else {
                tracing::warn!(device = %place.info.name, "device_left: it still owes answers");
            }
        }
    }
}

impl Place {
    /// Its number, as long as it has one.
    pub(super) fn number(&self) -> Option<DeviceIndex> {
        self.device.filter(|_| !self.is_replaced)
    }

    pub(super) fn poll_done(&mut self) -> Option<Done> {
        self.queue.poll_done()
    }
}
