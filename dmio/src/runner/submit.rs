//! What goes to devices.

use iomgr_core::{Busy, Data, Errno, Operation, Pass, Request, Sector, SectorCount, SectorRange, Tag};

use super::bounce::Cells;
use super::desk::{Desk, Reading};
use super::payload::{Payload, Slot};
use crate::{LegId, Machine, Submission};

/// The memory of a leg.
enum Memory {
    Run(Data),
    /// That many parts.
    List(usize),
    /// There is none to be had.
    Fault,
}

impl Desk {
    /// Hands legs to their devices.
    pub(super) fn submit<T>(&mut self, machine: &mut Machine, pass: &mut Pass<'_>, slots: &mut [Slot<T>]) {
        while let Some(submission) = machine.poll_submit() {
            let slot = &mut slots[submission.request.index()];
            match self.memory(pass, &submission, slot) {
                Memory::Run(data) => self.submit_run(machine, pass, &submission, data),
                Memory::List(count) => {
                    let leg = submission.leg.0;
                    self.lists.begin(leg, u32::try_from(count).expect("lists are short"));
                    self.submissions[leg as usize] = Some(submission);
                    self.submit_list(machine, pass, leg, slot);
                }
                Memory::Fault => self.answers.push((submission.leg, Err(Errno::FAULT))),
            }
        }
    }

    /// Gives devices that were busy another try: after something has ended, or they were kicked.
    pub(super) fn retry<T>(
        &mut self,
        machine: &mut Machine,
        pass: &mut Pass<'_>,
        slots: &mut [Slot<T>],
        has_news: bool,
    ) {
        for at in 0..self.places.len() {
            while let Some(leg) = self.places.pop_partial(at, has_news) {
                let submission = self.submissions[leg as usize].expect("a leg of several parts was submitted");
                if !self.submit_list(machine, pass, leg, &slots[submission.request.index()]) {
                    break;
                }
            }
        }
        for place in self.places.all_mut() {
            let is_ready = place.partial.is_empty() && (has_news || !place.is_busy);
            if is_ready && std::mem::take(&mut place.is_parked) {
                place.is_busy = false;
                if let Some(device) = place.number() {
                    machine.retry(device).expect("the device is there");
                }
            }
        }
    }

    fn memory<T>(&mut self, pass: &mut Pass<'_>, submission: &Submission, slot: &mut Slot<T>) -> Memory {
        let len = match submission.op {
            Operation::Read | Operation::Write => submission.range.len_bytes(),
            _ => return Memory::Run(Data::NONE),
        };
        let len = u32::try_from(len).expect("regions are shorter than memory");
        if let Some(cell) = submission.cell {
            let data = self.cells.data(cell, len);
            slot.is_unfilled |= submission.fill && !Cells::fill(pass.io, data, &slot.payload);
            if slot.is_unfilled {
                return Memory::Fault;
            }
            if submission.op == Operation::Read {
                self.reads[submission.leg.0 as usize] = Some(Reading { cell, len });
            }
            return Memory::Run(data);
        }
        match &slot.payload {
            Payload::Whole { data, .. } => Memory::Run(data.slice(0, len)),
            _ => match slot.list[..] {
                [] => Memory::Fault,
                [only] => Memory::Run(only),
                ref parts => Memory::List(parts.len()),
            },
        }
    }

    fn submit_run(&mut self, machine: &mut Machine, pass: &mut Pass<'_>, submission: &Submission, data: Data) {
        let place = self.places.current(submission.device);
        let request = request(pass, submission, submission.leg.0, submission.range, data);
        if let Err(Busy(_)) = place.queue.submit(pass, request) {
            (place.is_busy, place.is_parked) = (true, true);
            self.reads[submission.leg.0 as usize] = None;
            machine.handle_busy(submission.leg);
        }
    }

    /// Submits the parts of a leg that were not yet; false if the device took not all.
    fn submit_list<T>(&mut self, machine: &mut Machine, pass: &mut Pass<'_>, leg: u32, slot: &Slot<T>) -> bool {
        let submission = self.submissions[leg as usize].expect("a leg of several parts was submitted");
        let Some(place) = self.places.find(submission.device, submission.generation) else {
            return true;
        };
        while let Some((part, tag)) = self.lists.next(leg) {
            let before: u64 = slot.list[..part].iter().map(|part| u64::from(part.len)).sum();
            let data = slot.list[part];
            let range = part_range(submission.range, before, data.len);
            if let Err(Busy(_)) = place.queue.submit(pass, request(pass, &submission, tag.0, range, data)) {
                self.lists.undo(tag);
                place.is_busy = true;
                if self.lists.is_unbegun(leg) {
                    place.is_parked = true;
                    machine.handle_busy(LegId(leg));
                } else {
                    place.partial.push_front(leg);
                }
                return false;
            }
        }
        true
    }
}

fn request(pass: &Pass<'_>, submission: &Submission, tag: u32, range: SectorRange, data: Data) -> Request {
    Request {
        tag: Tag(tag),
        op: submission.op,
        flags: submission.request_flags,
        range,
        data,
        arrival: pass.now,
        deadline: None,
    }
}

/// `len` bytes of a range, from byte `before` on.
fn part_range(range: SectorRange, before: u64, len: u32) -> SectorRange {
    let start = Sector(range.start().0 + SectorCount::from_bytes_floor(before).0);
    let count = SectorCount::from_bytes_floor(len.into());
    SectorRange::new(start, count).expect("a part of a range is one")
}
