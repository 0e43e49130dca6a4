//! What is told, and whether it may be.

use std::cell::RefCell;
use std::rc::Rc;

use dmio::{Client, ErrorKind, Event, IoRequest, Memory, Notification, Notify, RegionState, Watch};
use iomgr_core::Operation;

use crate::asking::start;
use crate::book::{Book, Key, bytes, poison};
use crate::oracle::{CANARY, Fate, Look};

/// Hears of one request.
pub(crate) struct Listener {
    book: Rc<RefCell<Book>>,
    key: Key,
}

impl Listener {
    pub(crate) fn of(book: &Rc<RefCell<Book>>, key: Key) -> Rc<dyn Notify> {
        let book = Rc::clone(book);
        Rc::new(Self { book, key })
    }
}

impl Notify for Listener {
    fn notify(&self, client: &mut Client, note: Notification) {
        let is_sync = self.book.borrow_mut().asked(self.key).is_sync;
        self.book.borrow_mut().names.insert(note.request, self.key);
        hear(&mut self.book.borrow_mut(), self.key, note.region, note.state);
        let is_done = self.book.borrow_mut().asked(self.key).is_done;
        assert_eq!(is_done, note.is_last, "the last notification is the last end");
        if !is_sync && note.is_last {
            take_back(&mut self.book.borrow_mut(), client, self.key, note.memory);
        } else {
            assert!(matches!(note.memory, Memory::None));
        }
        act(&self.book, client);
    }
}

/// S3-10: a notification may submit, cancel, and give handles up, but not wait.
fn act(book: &Rc<RefCell<Book>>, client: &mut Client) {
    let act = book.borrow_mut().rng.u8(..8);
    match act {
        0 if !book.borrow().is_ending => start(book, client),
        1 => cancel(&mut book.borrow_mut()),
        2 => give_up(&mut book.borrow_mut()),
        3 => {
            let refused = client.io_sync(IoRequest::flush(&[]), None).unwrap_err();
            assert_eq!(refused.error.kind(), ErrorKind::Deadlock);
        }
        _ => {}
    }
}

/// Cancels some request.
pub(crate) fn cancel(book: &mut Book) {
    if book.handles.is_empty() {
        return;
    }
    let (key, handle) = &book.handles[book.rng.usize(..book.handles.len())];
    let key = *key;
    match handle.cancel() {
        Ok(count) => {
            assert!(handle.is_over());
            assert_eq!(handle.cancel().unwrap(), 0, "again changes nothing");
            book.asked(key).is_due = count > 0;
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
    }
}

/// Drops a handle, or gets another one.
pub(crate) fn give_up(book: &mut Book) {
    if book.handles.is_empty() {
        return;
    }
    let at = book.rng.usize(..book.handles.len());
    if book.rng.u8(..3) > 0 {
        book.handles.swap_remove(at);
    } else {
        let another = book.handles[at].clone();
        book.handles.push(another);
    }
}

/// S3-1, S3-2: at most one timeout, then one end, for each region.
pub(crate) fn hear(book: &mut Book, key: Key, region: usize, state: RegionState) {
    book.told += 1;
    let asked = book.asked(key);
    let leg = &mut asked.legs[region];
    assert!(!leg.is_over, "a region ends once: {asked:?}");
    if state == RegionState::Timeout {
        assert!(!std::mem::replace(&mut leg.is_timed_out, true), "one timeout is enough");
        return;
    }
    leg.is_over = true;
    let (write, disk) = (leg.write, leg.disk);
    if state == RegionState::Ok && asked.op == Operation::Read {
        assert!(asked.is_read.replace(region).is_none(), "one good answer is enough");
    }
    asked.is_done = asked.legs.iter().all(|leg| leg.is_over);
    let (op, started) = (asked.op, asked.started);
    let is_durable = state == RegionState::Ok && asked.is_fua;
    if state == RegionState::Ok && op == Operation::Flush {
        book.oracle.flush(disk, started);
    }
    if let Some(write) = write {
        let (fate, is_answered) = match state {
            RegionState::Ok => (done(op), true),
            RegionState::Cancelled(cancelled) if cancelled.never_started => (Fate::NeverStarted, true),
            RegionState::Cancelled(_) | RegionState::Timeout => (Fate::Maybe, false),
            RegionState::Error(_) => (Fate::Maybe, true),
        };
        book.oracle.end(write, fate, is_answered);
        if is_durable {
            book.oracle.persist(write);
        }
    }
}

/// What becomes of sectors of which a device says that all is well.
fn done(op: Operation) -> Fate {
    match op {
        // Zeros, or as before.
        Operation::Discard => Fate::Maybe,
        _ => Fate::Written,
    }
}

/// A synchronous request has ended; whether or not somebody was told.
pub(crate) fn end_sync(book: &Rc<RefCell<Book>>, _client: &mut Client, key: Key, states: &[RegionState]) {
    let book = &mut *book.borrow_mut();
    let is_told = book.asked(key).is_done;
    for (region, state) in states.iter().enumerate() {
        assert!(state.is_terminal());
        if !is_told {
            assert!(
                !book.asked(key).legs[region].is_over,
                "all notifications, or none, come first"
            );
            hear(book, key, region, *state);
        }
    }
    assert!(book.asked(key).is_done);
}

/// The request's memory is the caller's again: nobody touches it any more.
pub(crate) fn take_back(book: &mut Book, client: &mut Client, key: Key, memory: Memory) {
    let asked = book.asked(key).clone();
    let content = match &memory {
        Memory::Pool(lease) => client.bytes(lease.data()).expect("no device has it").to_vec(),
        other => bytes(other),
    };
    if asked.op == Operation::Read && !matches!(memory, Memory::None) {
        match asked.is_read {
            Some(region) => {
                let look = Look {
                    started: asked.started,
                    ended: book.oracle.tick(),
                    after_cut: false,
                };
                let leg = &asked.legs[region];
                book.oracle.check(leg.disk, leg.first, &content, look);
            }
            // S3-4: what was not read is as it was, where a copy was to be read.
            None if matches!(memory, Memory::Bounce(_)) => {
                assert!(content.iter().all(|&byte| byte == asked.filling), "{asked:?}");
            }
            None => {}
        }
    }
    keep(book, client, memory);
}

/// S3-3, S3-5: whatever devices still do, they neither touch nor see what is in the memory from now on.
fn keep(book: &mut Book, client: &mut Client, mut memory: Memory) {
    if let Memory::Pool(lease) = &memory {
        client.bytes_mut(lease.data()).expect("no device has it").fill(CANARY);
    }
    poison(&mut memory);
    book.canaries.push(memory);
    if book.canaries.len() > 40 {
        let at = book.rng.usize(..book.canaries.len());
        let oldest = book.canaries.swap_remove(at);
        check_canary(client, oldest);
    }
}

pub(crate) fn check_canary(client: &mut Client, memory: Memory) {
    let is_whole = |bytes: &[u8]| bytes.iter().all(|&byte| byte == CANARY);
    match memory {
        Memory::Pool(lease) => {
            assert!(is_whole(client.bytes(lease.data()).unwrap()), "a device wrote to it");
            client.free(lease);
        }
        other => assert!(is_whole(&bytes(&other)), "a device wrote to it"),
    }
}

/// Hears of late answers.
pub(crate) struct Watcher(pub(crate) Rc<RefCell<Book>>);

impl Watch for Watcher {
    fn watch(&self, _client: &mut Client, event: &Event) {
        let Event::Late(late) = event else { return };
        let book = &mut *self.0.borrow_mut();
        let Some(&key) = book.names.get(&late.request) else {
            return;
        };
        let leg = &mut book.asked(key).legs[late.region];
        assert!(leg.is_over, "it was given up before");
        assert!(!std::mem::replace(&mut leg.is_late, true), "a device answers once");
        if let Some(write) = leg.write {
            let fate = if late.result.is_ok() {
                done(late.op)
            } else {
                Fate::Maybe
            };
            book.oracle.end(write, fate, true);
        }
    }
}
