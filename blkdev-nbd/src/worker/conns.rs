//! The connections of a thread, and which of them to look at.

use std::collections::VecDeque;

use iomgr_core::{FileHandle, OpQueue, Timestamp};

use super::conn::{Conn, Kit, Who};
use super::control::Arrival;
use super::core::Core;
use super::patience::Patience;
use crate::ConnectionStats;

/// A fixed number of places for connections. Nothing allocates after [`Conns::new`].
#[derive(Debug)]
pub(super) struct Conns {
    places: Vec<Option<Conn>>,
    vacant: Vec<u32>,
    kits: Vec<Kit>,
    /// Connections with something to process, in the order of their turn: who waited the longest for a slot is the first to
    /// take one.
    listed: VecDeque<u32>,
    /// Connections that were processed, to be sent to and received from.
    touched: Vec<u32>,
}

impl Conns {
    /// Room for as many connections as there are `kits`.
    pub(super) fn new(kits: Vec<Kit>) -> Self {
        let count = u32::try_from(kits.len()).expect("connections are bounded");
        Self {
            places: (0..count).map(|_| None).collect(),
            vacant: (0..count).rev().collect(),
            listed: VecDeque::with_capacity(kits.len()),
            touched: Vec::with_capacity(kits.len()),
            kits,
        }
    }

    /// Takes a client in. False, and it is closed, if there is no room.
    pub(super) fn open(&mut self, core: &mut Core, arrival: Arrival) -> bool {
        let Arrival { client, serial } = arrival;
        let socket = FileHandle::new(client.socket);
        let (Some(&id), Ok(file)) = (self.vacant.last(), core.queue.add_file(&socket)) else {
            return false;
        };
        self.vacant.pop();
        let kit = self.kits.pop().expect("there are as many kits as vacant places");
        let who = Who::new(serial, client.peer, core.now);
        self.places[id as usize] = Some(Conn::new(id, who, kit, socket, file));
        self.list(id);
        true
    }

    /// The connection of that number, if there is one; it will be looked at.
    pub(super) fn touch(&mut self, id: u32) -> Option<&mut Conn> {
        self.list(id);
        self.places.get_mut(id as usize)?.as_mut()
    }

    /// Puts a connection on the list of those to look at.
    pub(super) fn list(&mut self, id: u32) {
        if let Some(conn) = self.places.get_mut(id as usize).and_then(Option::as_mut)
            && !conn.is_listed
        {
            conn.is_listed = true;
            self.listed.push_back(id);
        }
    }

    /// Takes what the listed connections have received as far as it goes. False if none was listed.
    pub(super) fn process(&mut self, core: &mut Core) -> bool {
        let any = !self.listed.is_empty();
        while let Some(id) = self.listed.pop_front() {
            if let Some(conn) = &mut self.places[id as usize] {
                conn.is_listed = false;
                conn.process(core);
                if !conn.is_touched {
                    conn.is_touched = true;
                    self.touched.push(id);
                }
            }
        }
        any
    }

    /// Sends to and receives from the connections that were processed; closes those that are over, and says how many.
    pub(super) fn exchange(&mut self, core: &mut Core) -> u32 {
        let mut closed = 0;
        while let Some(id) = self.touched.pop() {
            let place = &mut self.places[id as usize];
            let Some(conn) = place else { continue };
            conn.is_touched = false;
            if !conn.exchange(core) {
                continue;
            }
            let conn = place.take().expect("it was there a moment ago");
            self.kits.push(conn.into_kit(core));
            self.vacant.push(id);
            closed += 1;
        }
        closed
    }

    /// Does something with every connection, and looks at them again.
    pub(super) fn each(&mut self, core: &mut Core, what: impl Fn(&mut Conn, &mut Core)) {
        self.each_of(core, |_| true, what);
    }

    /// The same, with the connections on one lane.
    pub(super) fn each_on(&mut self, lane: usize, core: &mut Core, what: impl Fn(&mut Conn, &mut Core)) {
        self.each_of(core, |conn| conn.lane() == Some(lane), what);
    }

    fn each_of(&mut self, core: &mut Core, which: impl Fn(&Conn) -> bool, what: impl Fn(&mut Conn, &mut Core)) {
        for id in 0..self.places.len() {
            if let Some(conn) = self.places[id].as_mut().filter(|conn| which(conn)) {
                what(conn, core);
                self.list(u32::try_from(id).expect("connections are bounded"));
            }
        }
    }

    /// Is any of them on this lane?
    pub(super) fn any_on(&self, lane: usize) -> bool {
        self.places.iter().flatten().any(|conn| conn.lane() == Some(lane))
    }

    /// Drops who takes too long.
    pub(super) fn drop_overdue(&mut self, core: &mut Core, patience: &Patience) {
        for id in 0..self.places.len() {
            let Some(conn) = &mut self.places[id] else { continue };
            let overdue = patience.verdict(conn, &core.memory, core.now).filter(|_| !conn.broken);
            if let Some(reason) = overdue {
                tracing::warn!(connection = conn.who.serial, ?reason, "connection_dropped");
                conn.break_off(core);
                let id = conn.id;
                self.list(id);
            }
        }
    }

    /// Listens again to clients that were left unheard for too long.
    pub(super) fn resume_overdue(&mut self, core: &mut Core) {
        self.places
            .iter_mut()
            .flatten()
            .for_each(|conn| conn.resume_overdue(core));
    }

    /// When to look who takes too long, if ever.
    pub(super) fn due(&self, patience: &Patience, now: Timestamp) -> Option<Timestamp> {
        let conns = self.places.iter().flatten();
        conns.filter_map(|conn| patience.due(conn, now)).min()
    }

    /// What they are doing.
    pub(super) fn stats(&self, core: &Core) -> Vec<ConnectionStats> {
        self.places.iter().flatten().map(|conn| conn.stats(core)).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.vacant.len() == self.places.len()
    }
}
