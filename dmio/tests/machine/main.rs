//! The machine under random calls, from seeds: against a naive model, and against each invariant of a client's.
//!
//! ```text
//!  seed ─► world ─► machine, which checks itself after each call
//!            │ each call and what it said
//!            ▼
//!          watchers: the naive model; one for each invariant S3-n
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "what fails here fails the test, and the seed is printed then"
)]

mod budget;
mod invariants;
mod model;
mod progress;
mod refusals;
mod scenarios;
mod seen;
mod story;
mod world;

use budget::for_seeds;
use dmio::{Counters, Machine};
use invariants::{AtOnce, Lates, Memory, Notifications, Over, Sum, Writes};
use iomgr_core::Timestamp;
use model::Model;
use seen::{Call, Watch};
use world::{Style, World};

/// Seeds that once failed.
const KEPT: &[u64] = &[14959113643671289524];

/// Runs seeds before the eyes of one watcher.
fn watched<W: Watch + Default + 'static>(test: &'static str) {
    for_seeds(test, KEPT, |seed| World::run(seed, Style::default(), |_| W::default()));
}

#[test]
fn the_machine_does_what_the_naive_model_does() {
    for_seeds("the_machine_does_what_the_naive_model_does", KEPT, |seed| {
        World::run(seed, Style::default(), Model::new)
    });
}

#[test]
fn s3_1_a_region_is_notified_of_one_timeout_at_most_and_then_of_one_end() {
    watched::<Notifications>("s3_1_a_region_is_notified_of_one_timeout_at_most_and_then_of_one_end");
}

#[test]
fn s3_2_terminal_states_add_up_to_the_regions() {
    watched::<Sum>("s3_2_terminal_states_add_up_to_the_regions");
}

#[test]
fn s3_6_no_two_outstanding_writes_overlap() {
    watched::<Writes>("s3_6_no_two_outstanding_writes_overlap");
}

#[test]
fn s3_7_memory_is_free_used_or_orphaned() {
    watched::<Memory>("s3_7_memory_is_free_used_or_orphaned");
}

#[test]
fn s3_8_min_ios_requests_progress_on_a_device_while_all_others_stall() {
    let test = "s3_8_min_ios_requests_progress_on_a_device_while_all_others_stall";
    for_seeds(test, KEPT, progress::run);
}

#[test]
fn s3_9_a_request_is_over_when_all_of_its_regions_are() {
    watched::<Over>("s3_9_a_request_is_over_when_all_of_its_regions_are");
}

#[test]
fn s3_10_who_is_notified_may_start_cancel_and_release() {
    let style = Style {
        calls_between_events: 80,
    };
    for_seeds("s3_10_who_is_notified_may_start_cancel_and_release", KEPT, |seed| {
        World::run(seed, style, Model::new)
    });
}

#[test]
fn a_late_answer_follows_where_a_device_has_what_is_cancelled() {
    watched::<Lates>("a_late_answer_follows_where_a_device_has_what_is_cancelled");
}

#[test]
fn s3_11_cancelled_arrives_at_once() {
    watched::<AtOnce>("s3_11_cancelled_arrives_at_once");
}

/// What the random calls come to in all.
#[derive(Default)]
struct Reach(std::rc::Rc<std::cell::RefCell<Vec<Counters>>>);

impl Watch for Reach {
    fn see(&mut self, _now: Timestamp, _call: &Call<'_>, _machine: &Machine) {}

    fn at_the_end(&mut self, machine: &Machine) {
        self.0.borrow_mut().push(machine.counters());
    }
}

#[test]
fn the_random_calls_allocate_nothing_and_reach_everything_that_is_counted() {
    let info = allocation_counter::measure(|| drop(std::hint::black_box(vec![0; 1])));
    assert_eq!(
        info.count_total, 1,
        "allocations are counted, in each call of the world's"
    );
    let seen = std::rc::Rc::default();
    for seed in 0..1000 {
        World::run(seed, Style::default(), |_| Reach(std::rc::Rc::clone(&seen)));
    }
    let total = |of: fn(&Counters) -> u64| seen.borrow().iter().map(of).sum::<u64>();
    for (name, count) in [
        ("ok", total(|counters| counters.ok)),
        ("failed", total(|counters| counters.failed)),
        ("cancelled", total(|counters| counters.cancelled)),
        ("never_started", total(|counters| counters.never_started)),
        ("timeouts", total(|counters| counters.timeouts)),
        ("late", total(|counters| counters.late)),
        ("hedged", total(|counters| counters.hedged)),
        ("quota_waits", total(|counters| counters.quota_waits)),
        ("hold_waits", total(|counters| counters.hold_waits)),
        ("failed_fast", total(|counters| counters.failed_fast)),
        ("indeterminate", total(|counters| counters.indeterminate)),
        ("busy", total(|counters| counters.busy)),
    ] {
        println!("{name}: {count}");
        assert!(count >= 30, "{name} happens {count} times in 1000 seeds");
    }
}
