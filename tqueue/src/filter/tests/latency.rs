//! Latency: exact in virtual time, and never too short in real time.

use std::time::Duration;

use iomgr_core::Action;

use super::rig::Rig;
use crate::filter::latency::LatencyConfig;

#[test]
fn no_op_in_scope_ends_sooner() {
    let mut rig = Rig::new(vec!["latency:2ms,op=flush".parse().unwrap()]);
    let start = rig.queue.now();
    assert_eq!(rig.run(Action::Flush), Ok(0));
    assert!(rig.queue.now().since(start) >= Duration::from_millis(2));
    assert_eq!(rig.write(0, &[1; 512]), Ok(512));
    let dump = rig.queue.dump();
    assert!(
        dump.contains("filter latency:2ms,op=flush\n1 ops held so far\n"),
        "{dump}"
    );
}

#[test]
fn times_are_drawn_between_both_ends() {
    let config = LatencyConfig {
        max: Duration::from_nanos(1003),
        seed: 5,
        ..LatencyConfig::fixed(Duration::from_nanos(1000))
    };
    let drawn: Vec<_> = (0..100).map(|n| config.time(n).as_nanos()).collect();
    assert!((1000..=1003).all(|time| drawn.contains(&time)));
    assert!(drawn.iter().all(|time| (1000..=1003).contains(time)));
}

#[cfg(feature = "test-utils")]
mod simulated {
    use std::collections::HashMap;

    use iomgr_core::{FileSlot, Op, OpQueue, Timestamp};

    use super::*;
    use crate::filter::tests::rig::{config, token};
    use crate::sim::{SimConfig, SimHandle};
    use crate::{Config, EngineKind, Queue};

    /// A machine whose disk takes no time at all.
    fn queue(filter: LatencyConfig) -> (Queue, FileSlot) {
        let mut calm = SimConfig::new(1);
        (calm.latency, calm.stall_every, calm.interrupt_every) = (Duration::ZERO..Duration::ZERO, 0, 0);
        let machine = SimHandle::new(calm);
        let disk = machine.create_block_device(1 << 20);
        let config = Config {
            engine: EngineKind::Sim(machine),
            ..config(vec![crate::filter::FilterConfig::Latency(filter)])
        };
        let mut queue = Queue::new(&config).unwrap();
        let file = queue.add_file(&disk.handle()).unwrap();
        (queue, file)
    }

    fn push(queue: &mut Queue, file: FileSlot, value: u64, action: Action) {
        let op = Op {
            token: token(value),
            file,
            action,
        };
        queue.push(op).unwrap();
    }

    /// What the machine takes for a pass of the queue: as long as an op lasts that nothing holds.
    fn pass_time(queue: &mut Queue, file: FileSlot) -> Duration {
        let start = queue.now();
        push(queue, file, 0, Action::Prefetch { offset: 0, len: 512 });
        ends(queue)[&0].since(start)
    }

    /// When each op ended.
    fn ends(queue: &mut Queue) -> HashMap<u64, Timestamp> {
        let mut ends = HashMap::new();
        while !queue.is_idle() {
            queue.submit_and_wait(None).unwrap();
            while let Some(completion) = queue.next_completion() {
                assert_eq!(completion.result, Ok(0));
                ends.insert(completion.token.value(), queue.now());
            }
        }
        ends
    }

    #[test]
    fn held_ops_go_on_after_exactly_the_time_drawn() {
        let filter: crate::filter::FilterConfig = "latency:1ms-5ms,seed=3".parse().unwrap();
        let crate::filter::FilterConfig::Latency(filter) = filter else {
            panic!("{filter} was asked for as latency");
        };
        let (mut queue, file) = queue(filter.clone());
        let pass = pass_time(&mut queue, file);
        for n in 0..50 {
            let start = queue.now();
            push(&mut queue, file, n, Action::Flush);
            assert_eq!(ends(&mut queue)[&n].since(start), filter.time(n) + pass, "op {n}");
        }
    }

    #[test]
    fn ops_are_held_at_the_same_time() {
        let time = Duration::from_millis(4);
        let (mut queue, file) = queue(LatencyConfig::fixed(time));
        let pass = pass_time(&mut queue, file);
        let start = queue.now();
        (0..4).for_each(|value| push(&mut queue, file, value, Action::Flush));
        // One after the other they would take four times as long.
        let due = time + pass..=time + 5 * pass;
        assert!(ends(&mut queue).values().all(|end| due.contains(&end.since(start))));
    }

    #[test]
    fn the_time_runs_from_pushing() {
        let (mut queue, file) = queue(LatencyConfig::fixed(Duration::from_millis(4)));
        let start = queue.now();
        push(&mut queue, file, 0, Action::Flush);
        queue.submit_and_wait(Some(Duration::from_millis(3))).unwrap();
        assert_eq!(
            (queue.next_completion(), queue.now().since(start).as_millis()),
            (None, 3)
        );
        push(&mut queue, file, 1, Action::Flush);
        let ends = ends(&mut queue);
        assert_eq!([0, 1].map(|value| ends[&value].since(start).as_millis()), [4, 7]);
    }
}
