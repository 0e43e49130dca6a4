//! How a queue gets to who allocates: queue 0 by taking the allocator, the others by joining queue 0.

use std::sync::{Arc, PoisonError};

use crossbeam_channel::bounded;
use iomgr_core::epoch::{EpochDomain, EpochQueue};
use iomgr_core::{FileSlot, QueueContext};
use vhd::{AllocatorOptions, Parts};

use super::{Join, Message, Port};
use crate::generation::Shared;
use crate::layout::{Allocation, BlockLayout, Owned, OwnerPort};
use crate::metadata::{Metadata, SecondChances};
use crate::{Error, ErrorKind};

/// Takes the allocator. Where that fails, it stays where it was.
pub(super) fn open_owner(
    shared: &Arc<Shared>,
    layout: &BlockLayout,
    file: FileSlot,
    cx: &mut QueueContext<'_>,
) -> Result<(Port, EpochQueue), Error> {
    // Each request has at most one wish under way, and each queue introduces itself once.
    let capacity = usize::from(cx.count) * (cx.depth as usize + 1);
    let owned = own(layout, cx.count, capacity)?;
    let (domain, (inbox, messages)) = (owned.domain.clone(), bounded(capacity));
    let found = epochs_of(&domain, cx).and_then(|epochs| Ok((epochs, Metadata::buffers(cx.io)?)));
    let (epochs, buffers) = match found {
        Ok(found) => found,
        Err(error) => {
            layout.rest(owned);
            return Err(error);
        }
    };
    let port = OwnerPort {
        inbox,
        waker: cx.waker.clone(),
        domain: domain.clone(),
        drain_awaited: Arc::default(),
    };
    let second_chances = SecondChances::new(domain.clone(), Arc::clone(&port.drain_awaited), cx);
    *layout.owner.lock().unwrap_or_else(PoisonError::into_inner) = Some(port);
    let metadata = Metadata::new(owned, Arc::clone(shared), messages, file, buffers, second_chances, cx);
    Ok((Port::Owner(Box::new(metadata)), epochs))
}

/// The queue's own epochs.
pub(super) fn epochs_of(domain: &EpochDomain, cx: &QueueContext<'_>) -> Result<EpochQueue, Error> {
    let epochs = domain.queue(cx.index.into());
    epochs.ok_or_else(|| Error::new(ErrorKind::Queue, "this queue of the disk is open already"))
}

/// The allocator for so many queues and wishes. What does not fit stays where it is.
fn own(layout: &BlockLayout, queues: u16, capacity: usize) -> Result<Owned, Error> {
    let fail = |what: &str| Err(Error::new(ErrorKind::Queue, what.to_owned()));
    let mut place = layout.allocation.lock().unwrap_or_else(PoisonError::into_inner);
    match std::mem::replace(&mut *place, Allocation::Away) {
        Allocation::Away => fail("queue 0 of the disk is open already, or the disk was closed"),
        Allocation::Resting(owned) if owned.queues == queues && owned.capacity >= capacity => Ok(owned),
        resting @ Allocation::Resting(_) => {
            *place = resting;
            fail("the disk was opened before with other queues; open the image anew")
        }
        Allocation::Image(image) => {
            let domain = EpochDomain::new(queues.into());
            let fence = Box::new(domain.clone());
            let Parts::Dynamic {
                allocator: Some(allocator),
                ..
            } = image.into_parts(AllocatorOptions { capacity, fence })
            else {
                unreachable!("a dynamic image that was opened for writing has an allocator")
            };
            Ok(Owned {
                allocator,
                domain,
                queues,
                capacity,
            })
        }
    }
}

/// Joins queue 0, which is open.
pub(super) fn open_remote(layout: &BlockLayout, cx: &QueueContext<'_>) -> Result<(Port, EpochQueue), Error> {
    let fail = |what: &str| Error::new(ErrorKind::Queue, what.to_owned());
    let owner = layout.owner.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let OwnerPort {
        inbox,
        waker,
        domain,
        drain_awaited,
    } = owner.ok_or_else(|| fail("queue 0 of the disk is not open"))?;
    let epochs = epochs_of(&domain, cx)?;
    let (sender, answers) = bounded(cx.depth as usize);
    let join = Join {
        queue: cx.index,
        answers: sender,
        waker: cx.waker.clone(),
    };
    inbox
        .try_send(Message::Join(join))
        .map_err(|_| fail("queue 0 of the disk does not listen"))?;
    Ok((
        Port::Remote {
            outbox: inbox,
            answers,
            owner: waker,
            drain_awaited,
            stirred: true,
        },
        epochs,
    ))
}
