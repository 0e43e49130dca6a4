//! A manager of one's own: at most two writes at a time, over all devices. It is swapped in and out while requests wait.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use iomgr_core::manager::{DeviceInfo, Head, Intake, Manager, Registry, Ticket, Verdict, Wait};
use iomgr_core::{Class, Operation, SectorRange, Tag, Timestamp, Waker};

#[derive(Debug, Default)]
struct FewWrites(AtomicU32);

impl Manager for FewWrites {
    fn name(&self) -> &str {
        "few-writes"
    }

    fn allow_request(&self, _: &DeviceInfo, head: &Head, _: Timestamp) -> Verdict {
        let one_more = |writes| (writes < 2).then_some(writes + 1);
        match head.class != Class::Write || self.0.fetch_update(Relaxed, Relaxed, one_more).is_ok() {
            true => Verdict::Go,
            false => Verdict::No(Wait::Freed),
        }
    }

    fn oo_abort_request(&self, device: &DeviceInfo, head: &Head, now: Timestamp) {
        self.free_request(device, head, now);
    }

    fn free_request(&self, _: &DeviceInfo, head: &Head, _: Timestamp) {
        self.0.fetch_sub(u32::from(head.class == Class::Write), Relaxed);
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let (registry, now) = (Registry::new(), Timestamp::ZERO);
    let mut intake = Intake::new(&registry.attach("disk")?, 8, Waker::none());
    registry.register(Arc::new(FewWrites::default()))?;
    let head = Head::new(Operation::Write, SectorRange::default(), now);
    (0..5)
        .try_for_each(|tag| intake.push(head, Tag(tag)))
        .map_err(|_| "full")?;
    let mut running = start(&mut intake, now);
    println!("few-writes: {} run, {} wait", running.len(), intake.queued());
    registry.unregister(&registry.current())?;
    running.extend(start(&mut intake, now));
    println!("none: {} run, {} wait", running.len(), intake.queued());
    running.into_iter().for_each(|ticket| intake.free(ticket, now));
    println!("pending: {}", registry.pending_total());
    Ok(())
}

/// One pass of a loop: whatever may start does.
fn start(intake: &mut Intake, now: Timestamp) -> Vec<Ticket> {
    intake.begin_pass(now);
    std::iter::from_fn(|| intake.next(now).map(|granted| intake.alloc(granted.grant))).collect()
}
