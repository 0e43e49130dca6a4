//! Several hardware queues, each with a thread of its own.

use std::sync::Arc;

use iomgr_core::Operation;
use iomgr_core::test_utils::MemDevice;
use rustix::thread::{CpuSet, sched_getaffinity};

use super::rig::{DEPTH, Rig};
use super::watched::{BeforeClose, Seen, Watched};
use crate::abi::ControlOp;
use crate::fake::{Habits, Stage};
use crate::{ErrorKind, IoOp, Server};

fn rig(habits: Habits) -> Rig {
    Rig::of(MemDevice::new("disk", 1 << 20), habits)
}

/// A server of a device that is watched.
fn watched(rig: &Rig, queues: u16, before_close: impl Fn(u16) + Send + Sync + 'static) -> (Server, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    let mut config = rig.config();
    config.queues = queues;
    config.device = Arc::new(Watched {
        device: config.device,
        seen: Arc::clone(&seen),
        before_close: BeforeClose(Arc::new(before_close)),
    });
    (Server::start_on(&rig.driver, config).unwrap(), seen)
}

/// The driver that is played accuses whoever serves a tag by two threads.
#[test]
fn each_queue_has_a_thread_of_its_own_and_all_have_the_device() {
    let rig = rig(Habits::default());
    let (server, seen) = watched(&rig, 3, |_| ());
    let opened = seen.opened.lock().unwrap().clone();
    let numbers: Vec<_> = opened.iter().map(|queue| (queue.index, queue.count)).collect();
    assert_eq!(numbers, [(0, 3), (1, 3), (2, 3)]);
    rig.driver
        .write(0, 0, &[[1; 512], [2; 512], [3; 512]].concat())
        .unwrap();
    for (queue, byte) in [(0, 1), (1, 2), (2, 3)] {
        let tag = rig.driver.send_by(0, Some(queue), IoOp::Read, queue.into(), 1);
        assert_eq!(tag / usize::from(DEPTH), queue.into());
        assert_eq!(rig.driver.answer(0, tag).unwrap(), [byte; 512]);
    }
    rig.driver.request(0, IoOp::Flush, 0, 0).unwrap();
    let stats = server.stats();
    assert!(stats.requests_total >= 4, "all queues are counted: {stats:?}");
    rig.end(server);
}

#[test]
fn all_tags_of_all_queues_are_in_flight_together() {
    let rig = rig(Habits::default());
    let server = rig.start_queues(4).unwrap();
    let before = rig.device.submitted();
    rig.device.hold();
    let tags: Vec<usize> = (0..16)
        .map(|sector| rig.driver.send(0, IoOp::Read, sector, 1))
        .collect();
    rig.device.wait_submitted(before + 16);
    rig.device.release();
    for tag in tags {
        assert_eq!(rig.driver.answer(0, tag).unwrap(), [0; 512]);
    }
    rig.end(server);
}

/// The others have yet to be closed when the kernel has told the first queue that nothing more comes.
#[test]
fn the_first_queue_is_closed_last() {
    for is_stopped_here in [true, false] {
        let rig = rig(Habits::default());
        let driver = rig.driver.clone();
        let (mut server, seen) = watched(&rig, 3, move |queue| {
            if queue > 0 {
                driver.wait_tags(0, 0, |stage| *stage == Stage::Aborted { told: true });
            }
        });
        if !is_stopped_here {
            rig.driver.stop_from_outside(0);
            rig.ends.wait();
        }
        server.stop().unwrap();
        let closed = seen.closed.lock().unwrap().clone();
        assert_eq!((closed.len(), closed.last()), (3, Some(&0)), "{closed:?}");
        assert_eq!(rig.device.open_queues(), 0);
        server.delete().unwrap();
        assert_eq!(
            rig.driver.ids().is_empty(),
            is_stopped_here,
            "whoever stopped it deletes it"
        );
        rig.driver.assert_content();
        rig.manager.assert_over();
    }
}

#[test]
fn a_queue_that_does_not_open_takes_back_those_that_did() {
    let rig = rig(Habits::default());
    rig.device.break_queue(2);
    let error = rig.start_queues(4).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().contains("queue 2")),
        (ErrorKind::Device, true)
    );
    assert!(!rig.driver.log().contains(&ControlOp::Start));
    rig.assert_clean();
    rig.manager.assert_over();
}

#[test]
fn a_device_without_a_tag_of_a_later_queue_is_not_started() {
    let rig = rig(Habits {
        bad_tag: Some((1, 3)),
        ..Habits::default()
    });
    let error = rig.start_queues(2).unwrap_err();
    assert!(error.to_string().contains("tag 3"), "{error}");
    assert!(!rig.driver.log().contains(&ControlOp::Start));
    rig.assert_clean();
}

/// The kernel makes no more queues than it has processors.
#[test]
fn fewer_queues_are_served_as_they_are() {
    let rig = rig(Habits {
        queues_max: 2,
        ..Habits::default()
    });
    let (server, seen) = watched(&rig, 4, |_| ());
    assert_eq!(server.info().queues, 2);
    assert!(seen.opened.lock().unwrap().iter().all(|queue| queue.count == 2));
    rig.end(server);
}

/// Its requests are lost, so that `STOP_DEV` would wait for ever; the others' are not.
#[test]
fn one_thread_that_panics_ends_the_server_and_not_the_others() {
    let rig = rig(Habits::default());
    let mut server = rig.start_queues(3).unwrap();
    rig.device.explode(Operation::Write);
    rig.driver.send_by(0, Some(1), IoOp::Write, 0, 1);
    rig.ends.wait();
    assert_eq!(server.stop().unwrap_err().kind(), ErrorKind::Panicked);
    for queue in [0, 2] {
        let tag = rig.driver.send_by(0, Some(queue), IoOp::Read, 0, 1);
        assert_eq!(rig.driver.answer(0, tag).unwrap(), [0; 512]);
    }
    let left = server.delete().unwrap_err().to_string();
    assert!(left.contains("left behind"), "{left}");
    let log = rig.driver.log();
    assert!(
        !log.contains(&ControlOp::Stop) && !log.contains(&ControlOp::Delete),
        "{log:?}"
    );
}

/// Threads run where the kernel sends their requests from, as far as this process may run there.
#[test]
fn threads_keep_to_the_processors_of_their_queue() {
    let processors = vec![1, 2, 0];
    let rig = rig(Habits {
        processors: processors.clone(),
        ..Habits::default()
    });
    let (server, seen) = watched(&rig, 3, |_| ());
    let allowed = sched_getaffinity(None).unwrap();
    for (queue, bits) in seen.opened.lock().unwrap().iter().zip(processors) {
        let mut expected = CpuSet::new();
        let both = |cpu: &usize| bits >> cpu & 1 == 1 && allowed.is_set(*cpu);
        (0..64).filter(both).for_each(|cpu| expected.set(cpu));
        if expected.count() == 0 {
            expected = allowed;
        }
        assert_eq!(queue.cpus, expected, "queue {}", queue.index);
    }
    rig.end(server);
}

#[test]
fn a_driver_that_does_not_tell_its_processors_is_served_anywhere() {
    let rig = rig(Habits {
        hides_processors: true,
        ..Habits::default()
    });
    let (server, seen) = watched(&rig, 2, |_| ());
    let allowed = sched_getaffinity(None).unwrap();
    assert!(seen.opened.lock().unwrap().iter().all(|queue| queue.cpus == allowed));
    rig.end(server);
}
