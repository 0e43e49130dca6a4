//! The chain as a queue's user sees it, on the synchronous engine; what time does to it is shown in simulation.

mod checksum;
mod fault;
mod latency;
mod rig;
mod text;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use iomgr_core::{Action, FileHandle, OpError, OpQueue};

use super::{Filter, FilterConfig, FilterOp, OpKinds, Verdict};
use crate::Errno;
use rig::{Rig, token};

/// Writes down what it sees, and says what it was told to.
#[derive(Debug)]
struct Witness {
    name: &'static str,
    verdict: Verdict,
    log: Arc<Mutex<Vec<String>>>,
}

impl Filter for Witness {
    fn needs_bytes(&self) -> bool {
        true
    }

    fn before(&mut self, op: &FilterOp<'_>) -> Verdict {
        let first = op.bytes.map(|bytes| bytes[0]);
        self.log
            .lock()
            .unwrap()
            .push(format!("{} before {} {first:?}", self.name, op.kind()));
        self.verdict
    }

    fn after(&mut self, op: &FilterOp<'_>, result: Result<(), OpError>) -> Result<(), OpError> {
        let first = op.bytes.map(|bytes| bytes[0]);
        self.log
            .lock()
            .unwrap()
            .push(format!("{} after {} {first:?} {result:?}", self.name, op.kind()));
        result
    }
}

fn witnesses(verdicts: &[(&'static str, Verdict)]) -> (Vec<FilterConfig>, Arc<Mutex<Vec<String>>>) {
    let log = Arc::new(Mutex::new(Vec::new()));
    let config = |&(name, verdict): &(&'static str, Verdict)| {
        let log = Arc::clone(&log);
        let make = move || Witness {
            name,
            verdict,
            log: Arc::clone(&log),
        };
        FilterConfig::custom(name, move |_| Box::new(make()))
    };
    (verdicts.iter().map(config).collect(), log)
}

#[test]
fn each_op_is_seen_on_its_way_in_and_out_with_its_bytes() {
    let (filters, log) = witnesses(&[("a", Verdict::Go), ("b", Verdict::Go)]);
    let mut rig = Rig::new(filters);
    assert_eq!(rig.write(0, &[7; 512]), Ok(512));
    assert_eq!(rig.read(0, 512), Ok(vec![7; 512]));
    assert_eq!(rig.run(Action::Flush), Ok(0));
    assert_eq!(rig.read(512, 512), Err(OpError::EndOfFile));
    insta::assert_snapshot!(log.lock().unwrap().join("\n"), @r"
    a before write Some(7)
    b before write Some(7)
    b after write Some(7) Ok(())
    a after write Some(7) Ok(())
    a before read None
    b before read None
    b after read Some(7) Ok(())
    a after read Some(7) Ok(())
    a before flush None
    b before flush None
    b after flush None Ok(())
    a after flush None Ok(())
    a before read None
    b before read None
    b after read None Err(EndOfFile)
    a after read None Err(EndOfFile)
    ");
}

#[test]
fn an_op_that_a_filter_fails_is_seen_after_by_those_before_it_alone() {
    let (filters, log) = witnesses(&[
        ("a", Verdict::Go),
        ("b", Verdict::Fail(Errno::NOSPC)),
        ("c", Verdict::Go),
    ]);
    let mut rig = Rig::new(filters);
    assert_eq!(rig.write(0, &[7; 512]), Err(OpError::Os(Errno::NOSPC)));
    assert_eq!(rig.len(), 0, "no engine saw it");
    insta::assert_snapshot!(log.lock().unwrap().join("\n"), @r#"
    a before write Some(7)
    b before write Some(7)
    a after write Some(7) Err(Os(Os { code: 28, kind: StorageFull, message: "No space left on device" }))
    "#);
}

#[test]
fn held_ops_wait_for_the_sum_of_the_times_and_take_no_room_in_the_kernel() {
    let ms = Duration::from_millis;
    let (filters, _) = witnesses(&[("a", Verdict::Hold(ms(2))), ("b", Verdict::Hold(ms(3)))]);
    let mut rig = Rig::new(filters);
    let start = rig.queue.now();
    (0..32).for_each(|value| rig.push(value, Action::Flush));
    rig.queue.submit().unwrap();
    assert!(rig.queue.dump().contains("held by a filter"), "{}", rig.queue.dump());
    assert_eq!(rig.queue.counters().max_in_kernel, 0);
    let done = rig.finish();
    assert!((0..32).all(|value| done[&value] == Ok(0)));
    assert!(rig.queue.now().since(start) >= ms(5));
}

#[test]
fn a_held_op_fails_when_its_time_is_over() {
    let ms = Duration::from_millis;
    let (filters, _) = witnesses(&[("a", Verdict::Hold(ms(2))), ("b", Verdict::Fail(Errno::IO))]);
    let mut rig = Rig::new(filters);
    let start = rig.queue.now();
    assert_eq!(rig.run(Action::Flush), Err(OpError::Os(Errno::IO)));
    assert!(rig.queue.now().since(start) >= ms(2));
}

#[test]
fn a_held_op_that_is_cancelled_never_started() {
    for submit_first in [false, true] {
        let (filters, log) = witnesses(&[("a", Verdict::Go), ("b", Verdict::Hold(Duration::from_secs(3000)))]);
        let mut rig = Rig::new(filters);
        rig.push(1, Action::Flush);
        if submit_first {
            rig.queue.submit().unwrap();
        }
        assert_eq!(rig.queue.cancel(token(1)).never_started, 1);
        assert_eq!(rig.finish()[&1], Err(OpError::NeverStarted));
        assert_eq!(
            log.lock().unwrap().last().unwrap(),
            "a after flush None Err(NeverStarted)"
        );
    }
}

#[test]
fn a_queue_that_is_dropped_does_not_wait_for_held_ops() {
    let (filters, log) = witnesses(&[("a", Verdict::Hold(Duration::from_secs(3000)))]);
    let mut rig = Rig::new(filters);
    rig.push(1, Action::Flush);
    rig.queue.submit().unwrap();
    drop(rig);
    assert_eq!(
        log.lock().unwrap().last().unwrap(),
        "a after flush None Err(NeverStarted)"
    );
}

/// Makes the best of what happens.
#[derive(Debug)]
struct Optimist;

impl Filter for Optimist {
    fn after(&mut self, _: &FilterOp<'_>, _: Result<(), OpError>) -> Result<(), OpError> {
        Ok(())
    }
}

#[test]
fn a_filter_may_change_how_an_op_ended() {
    let optimist = FilterConfig::custom("optimist", |_| Box::new(Optimist));
    let mut rig = Rig::new(vec![optimist, "fault".parse().unwrap()]);
    assert_eq!(rig.write(0, &[1; 700]), Ok(700));
    assert_eq!(rig.len(), 0);
}

#[test]
fn filters_hear_of_files() {
    #[derive(Debug)]
    struct Files(Arc<Mutex<Vec<String>>>);
    impl Filter for Files {
        fn file_added(&mut self, file: iomgr_core::FileSlot, handle: &FileHandle) {
            assert!(handle.fd().is_some());
            self.0.lock().unwrap().push(format!("+{}", file.0));
        }
        fn file_removed(&mut self, file: iomgr_core::FileSlot) {
            self.0.lock().unwrap().push(format!("-{}", file.0));
        }
    }
    let log = Arc::new(Mutex::new(Vec::new()));
    let filter = Arc::clone(&log);
    let mut rig = Rig::new(vec![FilterConfig::custom("files", move |_| {
        Box::new(Files(Arc::clone(&filter)))
    })]);
    rig.push(1, Action::Flush);
    rig.queue.remove_file(rig.file);
    assert_eq!(log.lock().unwrap().len(), 1, "an op still uses it");
    assert_eq!(rig.finish()[&1], Ok(0));
    let name = rig.file.0;
    assert_eq!(*log.lock().unwrap(), [format!("+{name}"), format!("-{name}")]);
}

#[test]
fn without_filters_nothing_is_asked() {
    let mut rig = Rig::new(Vec::new());
    assert_eq!(rig.write(0, &[1; 512]), Ok(512));
    assert_eq!(rig.queue.filter_of_bytes(), None);
    assert!(!rig.queue.dump().contains("filter"));
    let kinds = OpKinds::of(&Action::Flush);
    assert_eq!(kinds, OpKinds::FLUSH);
}

#[test]
fn the_trace_keeps_the_last_ops() {
    let mut rig = Rig::new(vec!["trace:last=2".parse().unwrap(), "fault:op=read".parse().unwrap()]);
    assert_eq!(rig.run(Action::Flush), Ok(0));
    assert_eq!(rig.write(512, &[1; 1024]), Ok(1024));
    assert_eq!(rig.read(512, 512), Err(OpError::Os(Errno::IO)));
    let dump = rig.queue.dump();
    let lines: Vec<_> = dump
        .lines()
        .skip_while(|line| !line.starts_with("filter trace"))
        .collect();
    assert!(lines[1].contains("Token(1:0x0) write 512+1024 took "), "{dump}");
    assert!(lines[2].contains("Token(1:0x0) read 512+512 failed after "), "{dump}");
    assert!(lines[3].starts_with("filter fault"), "{dump}");
}
