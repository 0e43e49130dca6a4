//! Random requests.

use std::cell::RefCell;
use std::io::{IoSlice, IoSliceMut};
use std::rc::Rc;
use std::time::Duration;

use dmio::{Borrowed, Client, DeviceIndex, ErrorKind, IoFlags, IoRequest, Memory, Refused, Region};
use fastrand::Rng;
use iomgr_core::{Operation, RequestFlags, Sector, SectorCount, SectorRange};

use crate::book::{Asked, Book, Key, Leg, bounce, owned, poison};
use crate::oracle::{Fate, Look, ZEROS, pattern};
use crate::told::{Listener, end_sync, take_back};
use crate::world::{LONGEST, SECTORS};

/// A request that is to be made.
struct Wish {
    key: Key,
    op: Operation,
    request_flags: RequestFlags,
    regions: Vec<Region>,
    bytes: Vec<u8>,
    timeout: Option<Duration>,
    flags: IoFlags,
}

/// Starts a request; the book knows of it.
pub(crate) fn start(book: &Rc<RefCell<Book>>, client: &mut Client) {
    let wish = wish(&mut book.borrow_mut(), false);
    let memory = memory(&mut book.borrow_mut(), client, &wish);
    let started = client.io(request(&wish, memory), Some(Listener::of(book, wish.key)));
    match started {
        Ok(handle) => {
            let book = &mut *book.borrow_mut();
            book.names.insert(handle.id(), wish.key);
            // Who has no handle is told all the same.
            if book.rng.u8(..4) > 0 {
                book.handles.push((wish.key, handle));
            }
        }
        Err(refused) => forget(&mut book.borrow_mut(), client, wish.key, refused),
    }
}

/// Runs a request to its end.
pub(crate) fn run(book: &Rc<RefCell<Book>>, client: &mut Client) {
    let wish = wish(&mut book.borrow_mut(), true);
    if wish.timeout.is_none() && book.borrow_mut().rng.bool() {
        return run_borrowed(book, client, wish);
    }
    let memory = memory(&mut book.borrow_mut(), client, &wish);
    let notify = book.borrow_mut().rng.bool().then(|| Listener::of(book, wish.key));
    match client.io_sync(request(&wish, memory), notify) {
        Ok(outcome) => {
            end_sync(book, client, wish.key, &outcome.states);
            assert_eq!(outcome.states.len(), wish.regions.len());
            take_back(&mut book.borrow_mut(), client, wish.key, outcome.memory);
        }
        Err(refused) => forget(&mut book.borrow_mut(), client, wish.key, refused),
    }
}

fn run_borrowed(book: &Rc<RefCell<Book>>, client: &mut Client, wish: Wish) {
    let mut bytes = wish.bytes.clone();
    let cut = book.borrow_mut().rng.usize(..=bytes.len() / 512) * 512;
    let (front, back) = bytes.split_at_mut(cut);
    let request = request(&wish, Memory::None);
    let ended = match wish.op {
        Operation::Read => {
            let mut parts: Vec<_> = [front, back]
                .into_iter()
                .filter(|part| !part.is_empty())
                .map(IoSliceMut::new)
                .collect();
            client.io_sync_borrowed(request, Borrowed::Mut(&mut parts), None)
        }
        _ => {
            let parts: Vec<_> = [&*front, &*back]
                .into_iter()
                .filter(|part| !part.is_empty())
                .map(IoSlice::new)
                .collect();
            client.io_sync_borrowed(request, Borrowed::Shared(&parts), None)
        }
    };
    match ended {
        Ok(outcome) => {
            end_sync(book, client, wish.key, &outcome.states);
            let book = &mut *book.borrow_mut();
            let asked = book.asked(wish.key).clone();
            if let Some(region) = asked.is_read {
                let look = Look {
                    started: asked.started,
                    ended: book.oracle.tick(),
                    after_cut: false,
                };
                let leg = &asked.legs[region];
                book.oracle.check(leg.disk, leg.first, &bytes, look);
            }
        }
        Err(refused) => forget(&mut book.borrow_mut(), client, wish.key, refused),
    }
}

/// It was not taken: nothing of it happens.
fn forget(book: &mut Book, client: &mut Client, key: Key, refused: Refused) {
    let kinds = [ErrorKind::Full, ErrorKind::WouldBlock, ErrorKind::Invalid];
    assert!(kinds.contains(&refused.error.kind()), "{}", refused.error);
    let asked = book.asked.remove(&key).unwrap();
    for write in asked.legs.iter().filter_map(|leg| leg.write) {
        book.oracle.end(write, Fate::NeverStarted, true);
    }
    match refused.memory {
        Memory::Pool(lease) => client.free(lease),
        mut other => poison(&mut other),
    }
}

fn request(wish: &Wish, memory: Memory) -> IoRequest<'_> {
    let request = match wish.op {
        Operation::Read => IoRequest::read(&wish.regions, memory),
        op => IoRequest::new(op, &wish.regions, memory),
    };
    IoRequest {
        request_flags: wish.request_flags,
        timeout: wish.timeout,
        ..request.flags(wish.flags)
    }
}

fn wish(book: &mut Book, is_sync: bool) -> Wish {
    book.keys += 1;
    let key = book.keys;
    let (op, request_flags) = what(book);
    let rng = &mut book.rng;
    let count = if op == Operation::Flush {
        0
    } else {
        rng.u64(1..=LONGEST)
    };
    let devices = book.disks.len();
    let regions: Vec<_> = (0..rng.usize(1..=devices))
        .map(|device| region(rng, device, count))
        .collect();
    let timeout = rng.bool().then(|| Duration::from_millis(rng.u64(1..400)));
    let mut flags = IoFlags::empty();
    flags.set(IoFlags::CANCEL_ON_TIMEOUT, rng.u8(..4) == 0);
    flags.set(IoFlags::NOWAIT, rng.u8(..8) == 0);
    let filling = rng.u8(1..0x80);
    let started = book.oracle.tick();
    let content = match op {
        Operation::Write => book.oracle.content(),
        _ => ZEROS,
    };
    let legs = regions.iter().map(|region| leg(book, op, region, content)).collect();
    let asked = Asked {
        op,
        is_fua: request_flags.contains(RequestFlags::FUA),
        started,
        legs,
        filling,
        is_read: None,
        is_done: false,
        is_sync,
        is_due: false,
    };
    book.asked.insert(key, asked);
    let bytes = match op {
        Operation::Write => pattern(content, 0, count),
        Operation::Read => vec![filling; usize::try_from(count * 512).unwrap()],
        _ => Vec::new(),
    };
    Wish {
        key,
        op,
        request_flags,
        regions,
        bytes,
        timeout,
        flags,
    }
}

fn what(book: &mut Book) -> (Operation, RequestFlags) {
    let rng = &mut book.rng;
    let op = match rng.u8(..32) {
        0..12 => Operation::Write,
        12..20 => Operation::Read,
        20..24 => Operation::WriteZeroes,
        24..28 => Operation::Discard,
        _ => Operation::Flush,
    };
    let mut flags = RequestFlags::empty();
    let is_fua = op.is_write() && book.fua_every > 0 && rng.u8(..book.fua_every) == 0;
    flags.set(RequestFlags::FUA, is_fua);
    flags.set(RequestFlags::NO_UNMAP, op == Operation::WriteZeroes && rng.bool());
    flags.set(
        RequestFlags::FAST_ZERO,
        op == Operation::WriteZeroes && rng.u8(..4) == 0,
    );
    (op, flags)
}

fn region(rng: &mut Rng, device: usize, count: u64) -> Region {
    let start = if count == 0 { 0 } else { rng.u64(..=SECTORS - count) };
    Region {
        device: DeviceIndex(u16::try_from(device).unwrap()),
        range: SectorRange::new(Sector(start), SectorCount(count)).unwrap(),
    }
}

fn leg(book: &mut Book, op: Operation, region: &Region, content: u64) -> Leg {
    let disk = book.disks[usize::from(region.device.0)];
    let sectors = region.range.start().0..region.range.end().0;
    let first = sectors.start;
    Leg {
        disk,
        first,
        write: op.is_write().then(|| book.oracle.start(disk, sectors, content)),
        is_timed_out: false,
        is_over: false,
        is_late: false,
    }
}

fn memory(book: &mut Book, client: &mut Client, wish: &Wish) -> Memory {
    if wish.bytes.is_empty() {
        return Memory::None;
    }
    match book.rng.u8(..3) {
        0 => {
            let len = u32::try_from(wish.bytes.len()).unwrap();
            let Some(lease) = client.alloc(len) else {
                return bounce(&mut book.rng, &wish.bytes);
            };
            client.bytes_mut(lease.data()).unwrap().copy_from_slice(&wish.bytes);
            Memory::Pool(lease)
        }
        1 => owned(&mut book.rng, &wish.bytes),
        _ => bounce(&mut book.rng, &wish.bytes),
    }
}
