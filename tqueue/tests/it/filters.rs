//! Filters on real engines: what they hold is held by the engine's own clock, and what they fail it never sees.

use std::os::unix::fs::FileExt;
use std::time::Duration;

use iomgr_core::{Action, Errno, OpError, OpQueue};
use tqueue::Config;

use super::rig::{bytes, filled, finish, on_each_engine, push, run, small, temp_file, token};

fn with(filters: &[&str]) -> Config {
    Config {
        filters: filters.iter().map(|text| text.parse().unwrap()).collect(),
        ..small()
    }
}

#[test]
fn held_ops_end_no_sooner_and_all_of_them_end() {
    on_each_engine(&with(&["latency:1ms-3ms,seed=4"]), |queue| {
        let (file, _) = temp_file(queue);
        let start = queue.now();
        let leases: Vec<_> = (0..32).map(|i| filled(queue, &[i; 512])).collect();
        for (i, lease) in (0..).zip(&leases) {
            let (offset, data) = (i * 512, lease.data());
            let durable = false;
            push(queue, i, file, Action::Write { offset, data, durable });
        }
        let done = finish(queue);
        assert!((0..32).all(|i| done[&i] == Ok(512)));
        assert!(queue.now().since(start) >= Duration::from_millis(1));
        let lease = queue.alloc(32 * 512).unwrap();
        let data = lease.data();
        assert_eq!(run(queue, file, Action::Read { offset: 0, data }), Ok(32 * 512));
        assert!((0..32).all(|i| bytes(queue, data)[i * 512] == i as u8));
        leases.into_iter().chain([lease]).for_each(|lease| queue.free(lease));
    });
}

#[test]
fn held_ops_are_cancelled_at_once() {
    on_each_engine(&with(&["latency:1h", "trace"]), |queue| {
        let (file, _) = temp_file(queue);
        for _ in 0..3 {
            (0..32).for_each(|i| push(queue, i, file, Action::Flush));
            queue.submit().unwrap();
            let cancelled: usize = (0..32).map(|i| queue.cancel(token(i)).never_started).sum();
            assert_eq!(cancelled, 32);
            assert!(
                finish(queue)
                    .values()
                    .all(|result| *result == Err(OpError::NeverStarted))
            );
        }
    });
}

#[test]
fn a_wait_with_a_timeout_ends_before_a_held_op() {
    on_each_engine(&with(&["latency:1h"]), |queue| {
        let (file, _) = temp_file(queue);
        push(queue, 1, file, Action::Flush);
        queue.submit_and_wait(Some(Duration::from_millis(2))).unwrap();
        assert_eq!(queue.next_completion(), None);
        assert_eq!(queue.cancel(token(1)).never_started, 1);
        finish(queue);
    });
}

#[test]
fn an_op_that_is_failed_leaves_the_others_alone() {
    on_each_engine(&with(&["fault:op=write,range=1024-1536,errno=ENOSPC"]), |queue| {
        let (file, real) = temp_file(queue);
        let lease = filled(queue, &[9; 512]);
        for i in 0..8 {
            let (offset, data) = (i * 512, lease.data());
            let durable = false;
            push(queue, i, file, Action::Write { offset, data, durable });
        }
        let done = finish(queue);
        let failed: Vec<_> = (0..8).filter(|i| done[i] == Err(OpError::Os(Errno::NOSPC))).collect();
        assert_eq!(failed, [2]);
        assert!(queue.counters().merges > 0, "its neighbours went together");
        let mut sectors = [0; 4096];
        real.read_exact_at(&mut sectors, 0).unwrap();
        assert!((0..8).all(|i| sectors[i * 512] == if i == 2 { 0 } else { 9 }));
        queue.free(lease);
    });
}
