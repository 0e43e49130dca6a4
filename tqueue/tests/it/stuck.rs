//! Ops that the kernel does not give back are reported, also while the thread sleeps.
//!
//! An empty pipe stands for a disk that hangs. The log's own listener writes into it, so the read ends when it was reported, and
//! not otherwise.

use std::io::Write;
use std::sync::Mutex;
use std::time::Duration;

use iomgr_core::{Action, FileHandle, OpQueue};
use tqueue::Config;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::rig::{open, push, small_ring, token};

/// Held by tests that reach the report. Where one thread has the only listener, tracing takes what another thread without one
/// makes of a line for everybody's answer, and the listener would hear nothing.
static LOG: Mutex<()> = Mutex::new(());

/// Writes into the pipe when something is said to be stuck.
struct Listener(Mutex<std::io::PipeWriter>);

/// An event's text, with its fields.
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0 += &format!("{field}={value:?} ");
    }
}

impl Subscriber for Listener {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        if text.0.contains("op_stuck") {
            for part in ["pipe:", "op=\"read\"", "offset=8192", "len=4096"] {
                assert!(text.0.contains(part), "{}", text.0);
            }
            self.0.lock().unwrap().write_all(&[9; 4096]).unwrap();
        }
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[test]
fn a_sleeping_queue_reports_an_op_that_does_not_end() {
    let _log = LOG.lock();
    let config = Config {
        stuck_after: Duration::from_millis(50),
        ..small_ring()
    };
    let Some(mut queue) = open(&config) else { return };
    let (reader, writer) = std::io::pipe().unwrap();
    let file = queue.add_file(&FileHandle::new(reader)).unwrap();
    let lease = queue.alloc(4096).unwrap();
    let data = lease.data();
    push(&mut queue, 1, file, Action::Read { offset: 8192, data });
    let listener = Listener(Mutex::new(writer));
    tracing::subscriber::with_default(listener, || queue.submit_and_wait(None).unwrap());
    let read = queue.next_completion().expect("it was reported, and so written to");
    assert_eq!((read.token, read.result), (token(1), Ok(4096)));
    assert_eq!(queue.counters().stuck, 1);
    queue.free(lease);
}

#[cfg(feature = "test-utils")]
#[test]
fn an_op_is_reported_once_and_a_fast_one_never() {
    use tqueue::sim::{SimConfig, SimHandle};

    use crate::rig::{finish, small};

    let _log = LOG.lock();
    let slow = SimConfig {
        latency: Duration::from_secs(60)..Duration::from_secs(61),
        stall_every: 0,
        ..SimConfig::new(1)
    };
    let fast = SimConfig {
        stall_every: 0,
        ..SimConfig::new(1)
    };
    for (machine, stuck) in [(slow, 4), (fast, 0)] {
        let machine = SimHandle::new(machine);
        let config = Config {
            engine: tqueue::EngineKind::Sim(machine.clone()),
            ..small()
        };
        let mut queue = tqueue::Queue::new(&config).unwrap();
        let file = queue.add_file(&machine.create_file().handle()).unwrap();
        (0..4).for_each(|value| push(&mut queue, value, file, Action::Flush));
        assert!(finish(&mut queue).values().all(Result::is_ok));
        assert_eq!(queue.counters().stuck, stuck, "{}", queue.dump());
    }
}
