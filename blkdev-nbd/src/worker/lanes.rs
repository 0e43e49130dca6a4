//! This thread's share of every export: a lane each, where all threads have it.

use std::ops::{Index, IndexMut};
use std::sync::Arc;

use iomgr_core::manager::Intake;
use iomgr_core::{Owner, QueueContext, Timestamp, Wake, Waker};
use tqueue::{EventWake, Queue};

use super::lane::Lane;
use crate::export::Listed;
use crate::{Error, ErrorKind};

/// The lanes of a thread. They come and go with their exports.
#[derive(Debug)]
pub(super) struct Lanes {
    /// The last one is never vacant, so that a pass looks at few more than there are.
    lanes: Vec<Option<Lane>>,
    opener: Opener,
    /// Requests that ended on lanes that are gone.
    ended: u64,
}

/// What it takes to open a lane on this thread.
#[derive(Debug)]
pub(super) struct Opener {
    pub(super) thread: u16,
    pub(super) threads: u16,
    pub(super) depth: u32,
    pub(super) connections: usize,
    pub(super) wake: Arc<EventWake>,
}

impl Lanes {
    pub(super) fn new(opener: Opener) -> Self {
        Self {
            lanes: Vec::new(),
            opener,
            ended: 0,
        }
    }

    /// Opens this thread's queue of an export.
    pub(super) fn open(&mut self, listed: &Listed, queue: &mut Queue) -> Result<(), Error> {
        let lane = self.opener.open(listed, queue)?;
        let len = self.lanes.len().max(listed.lane + 1);
        self.lanes.resize_with(len, || None);
        let before = self.lanes[listed.lane].replace(lane);
        assert!(before.is_none(), "a lane is given to one export at a time");
        Ok(())
    }

    /// Closes a lane that is idle; fine if it is closed already.
    pub(super) fn close(&mut self, lane: usize, queue: &mut Queue) {
        if let Some(lane) = self.lanes.get_mut(lane).and_then(Option::take) {
            self.ended += lane.requests.ended();
            lane.requests.close(queue);
        }
        while let Some(None) = self.lanes.last() {
            self.lanes.pop();
        }
    }

    /// Closes all of them.
    pub(super) fn close_all(&mut self, queue: &mut Queue) {
        (0..self.lanes.len()).for_each(|lane| self.close(lane, queue));
    }

    pub(super) fn get(&self, lane: usize) -> Option<&Lane> {
        self.lanes.get(lane)?.as_ref()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Lane> {
        self.lanes.iter().flatten()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Lane> {
        self.lanes.iter_mut().flatten()
    }

    /// When to look again for the sake of any of them.
    pub(super) fn wake_at(&self) -> Option<Timestamp> {
        self.iter().filter_map(|lane| lane.requests.wake_at()).min()
    }

    /// Is nothing under way on any of them?
    pub(super) fn is_idle(&self) -> bool {
        self.iter().all(|lane| lane.requests.is_idle())
    }

    /// Requests that have not ended.
    pub(super) fn in_flight(&self) -> u32 {
        self.iter().map(|lane| lane.requests.in_flight()).sum()
    }

    /// Requests that have ended so far.
    pub(super) fn ended(&self) -> u64 {
        self.ended + self.iter().map(|lane| lane.requests.ended()).sum::<u64>()
    }
}

/// The lane of a connection: it stays until its connections are gone.
impl Index<usize> for Lanes {
    type Output = Lane;

    fn index(&self, lane: usize) -> &Lane {
        self.lanes[lane].as_ref().expect("a lane outlives its connections")
    }
}

impl IndexMut<usize> for Lanes {
    fn index_mut(&mut self, lane: usize) -> &mut Lane {
        self.lanes[lane].as_mut().expect("a lane outlives its connections")
    }
}

impl Opener {
    fn open(&self, listed: &Listed, queue: &mut Queue) -> Result<Lane, Error> {
        let wake = Arc::clone(&self.wake) as Arc<dyn Wake>;
        let owner = u16::try_from(listed.lane + 1).expect("exports are bounded");
        let tags = Lane::tags(self.depth);
        let context = QueueContext {
            index: self.thread,
            count: self.threads,
            owner: Owner(owner),
            depth: tags,
            waker: Waker::new(Arc::clone(&wake)),
            io: queue,
        };
        let export = &listed.export;
        let device = export.device.open_queue(context).map_err(|error| {
            let what = format!("queue {} of export {:?}", self.thread, export.name);
            Error::new(ErrorKind::Device, what).caused_by(error)
        })?;
        let intake = Intake::new(&export.managed, tags, Waker::new(wake));
        let requests = iomgr_core::Lane::new(device, intake, tags);
        Ok(Lane::new(requests, Arc::clone(export), self.depth, self.connections))
    }
}
