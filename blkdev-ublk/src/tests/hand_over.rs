//! Servers that leave, and lose nothing.

use iomgr_core::test_utils::MemDevice;

use super::rig::Rig;
use crate::abi::{ControlOp, DeviceState};
use crate::fake::{Habits, Stage};
use crate::{ErrorKind, Features, IoOp, Recovery, Server, ServerConfig};

fn quiescing() -> Habits {
    Habits {
        features: Features::from_bits_retain(0x1fe) | Features::QUIESCE,
        ..Habits::default()
    }
}

fn stamp(at: u64) -> [u8; 512] {
    [u8::try_from(at + 1).unwrap(); 512]
}

/// By the kernel's own command where it has that, and without: what was begun ends with the old server, what it had not begun
/// with the new one, and nothing fails.
#[test]
fn a_device_changes_hands_under_load() {
    let late = Habits {
        quiesces_late: true,
        ..quiescing()
    };
    for habits in [Habits::default(), quiescing(), late] {
        let asks = habits.features.contains(Features::QUIESCE);
        let rig = Rig::of(MemDevice::new("disk", 1 << 20), habits);
        let mut server = rig.start_queues(2).unwrap();
        rig.device.hold();
        let submitted = rig.device.submitted();
        let tags: Vec<usize> = (0..3).map(|at| rig.driver.send_write(0, 8 * at, &stamp(at))).collect();
        rig.device.wait_submitted(submitted + 3);
        std::thread::scope(|scope| {
            let leaving = scope.spawn(move || {
                server.hand_over().unwrap();
                server
            });
            rig.device.release();
            drop(leaving.join().unwrap());
        });
        rig.driver.wait_state(0, DeviceState::Quiesced);
        assert_eq!(rig.device.open_queues(), 0);
        let next = rig.recover(rig.config()).unwrap();
        assert_eq!(next.info().queues, 2);
        for (at, tag) in tags.into_iter().enumerate() {
            rig.driver.answer(0, tag).unwrap();
            assert_eq!(rig.device.bytes()[4096 * at..][..512], stamp(at as u64));
        }
        assert_eq!(rig.driver.log().contains(&ControlOp::Quiesce), asks);
        assert!(!rig.driver.log().contains(&ControlOp::Stop));
        rig.end_recovered(next);
    }
}

/// What comes while a server leaves is not begun by it.
#[test]
fn what_comes_to_a_server_that_leaves_is_the_next_one_s() {
    let rig = Rig::new();
    let mut server = rig.start().unwrap();
    rig.device.hold();
    let begun = rig.driver.send_write(0, 0, &[1; 512]);
    rig.device.wait_submitted(2);
    server.ask_to_leave();
    let later = rig.driver.send_write(0, 8, &[2; 512]);
    rig.driver.wait_tag(0, later, |stage| matches!(stage, Stage::Served(_)));
    rig.device.release();
    server.hand_over().unwrap();
    assert_eq!(rig.device.submitted(), 2, "the old server has begun nothing more");
    drop(server);
    let next = rig.recover(rig.config()).unwrap();
    for tag in [begun, later] {
        rig.driver.answer(0, tag).unwrap();
    }
    assert_eq!(rig.driver.request(0, IoOp::Read, 8, 1).unwrap(), [2; 512]);
    rig.end_recovered(next);
}

/// All of it would fail, or what comes while it leaves: the kernel keeps only what it may send again.
#[test]
fn a_device_that_needs_its_server_is_not_handed_over() {
    for recovery in [Recovery::Off, Recovery::Fail] {
        let rig = Rig::new();
        let config = ServerConfig {
            recovery,
            ..rig.config()
        };
        let mut server = Server::start_on(&rig.driver, config).unwrap();
        assert_eq!(server.recovery(), recovery);
        assert_eq!(server.hand_over().unwrap_err().kind(), ErrorKind::Unsupported);
        rig.driver.write(0, 0, &[1; 512]).unwrap();
        rig.end(server);
    }
}
