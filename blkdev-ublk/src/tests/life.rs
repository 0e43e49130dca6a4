//! Added, started, stopped, deleted, in the kernel's order; and what is left when that goes wrong.

use iomgr_core::Operation;
use iomgr_core::test_utils::MemDevice;

use super::rig::{DEPTH, Rig};
use crate::abi::ControlOp;
use crate::fake::Habits;
use crate::{ErrorKind, Features, IoOp};

/// `START_DEV` returns when every tag is fetched and the partition table was read; what it wrote back while it was being
/// stopped is on the disk; nothing is open when it is deleted.
#[test]
fn a_device_lives_in_the_kernel_s_order() {
    let rig = Rig::new();
    let server = rig.start().unwrap();
    assert_eq!((server.id(), server.path().to_str()), (0, Some("/dev/ublkb0")));
    assert_eq!(rig.device.submitted(), 1, "the partition scan");
    assert_eq!((server.info().depth, server.info().queues), (DEPTH, 1));
    let (driver, device) = (rig.driver.clone(), rig.device.clone());
    rig.end(server);
    assert_eq!(device.bytes()[..512], [0x5a; 512], "served until STOP_DEV returned");
    let life = [
        ControlOp::Features,
        ControlOp::Add,
        ControlOp::SetParams,
        ControlOp::Params,
        ControlOp::Affinity,
        ControlOp::Start,
        ControlOp::Stop,
        ControlOp::Delete,
    ];
    assert_eq!(driver.log(), life);
}

#[test]
fn dropping_a_server_deletes_its_device() {
    let rig = Rig::new();
    drop(rig.start().unwrap());
    rig.assert_clean();
}

#[test]
fn two_servers_have_devices_of_their_own() {
    let rig = Rig::new();
    let (first, second) = (rig.start().unwrap(), rig.start().unwrap());
    assert_eq!((first.id(), second.id()), (0, 1));
    let mut config = rig.config();
    config.id = Some(1);
    let taken = crate::Server::start_on(&rig.driver, config).unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::Taken);
    rig.driver.write(1, 8, &[7; 512]).unwrap();
    drop((first, second));
    rig.assert_clean();
}

/// Whoever stops a device deletes it, too; between the two its number may be somebody else's.
#[test]
fn a_device_that_another_process_stops_is_left_to_it() {
    let rig = Rig::new();
    let mut server = rig.start().unwrap();
    rig.driver.stop_from_outside(0);
    rig.ends.wait();
    server.stop().unwrap();
    server.delete().unwrap();
    assert_eq!(rig.driver.ids(), [0]);
    assert!(!rig.driver.log().contains(&ControlOp::Delete));
    rig.manager.assert_over();
}

/// Also if somebody here wished to, and could not.
#[test]
fn a_careful_stop_that_was_refused_does_not_count() {
    let habits = Habits {
        features: Features::SAFE_STOP_DEV | Habits::default().features,
        ..Habits::default()
    };
    let rig = Rig::of(MemDevice::new("disk", 1 << 20), habits);
    let mut server = rig.start().unwrap();
    rig.driver.use_block_device(0, true);
    server.careful_stop().stop_on(&rig.driver).unwrap_err();
    rig.driver.stop_from_outside(0);
    rig.ends.wait();
    server.stop().unwrap();
    server.delete().unwrap();
    assert!(!rig.driver.log().contains(&ControlOp::Delete));
}

/// With a thread gone `STOP_DEV` would wait for ever: it is not asked for, and the end of the process does the rest.
#[test]
fn a_thread_that_panics_is_told_and_waits_for_nobody() {
    let rig = Rig::new();
    let mut server = rig.start().unwrap();
    rig.device.explode(Operation::Write);
    rig.driver.send(0, IoOp::Write, 0, 1);
    rig.ends.wait();
    assert_eq!(server.stop().unwrap_err().kind(), ErrorKind::Panicked);
    assert!(server.stop().is_err(), "asked twice, it is no better");
    let left = server.delete().unwrap_err().to_string();
    assert!(left.contains("left behind"), "{left}");
    let log = rig.driver.log();
    assert!(
        !log.contains(&ControlOp::Stop) && !log.contains(&ControlOp::Delete),
        "{log:?}"
    );
}

#[test]
fn a_device_that_does_not_open_takes_everything_back() {
    let rig = Rig::new();
    rig.device.break_queue(0);
    let error = rig.start().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Device);
    assert!(!rig.driver.log().contains(&ControlOp::Start));
    rig.assert_clean();
}

/// It would wait for the tag for ever.
#[test]
fn a_device_without_one_of_its_tags_is_not_started() {
    let habits = Habits {
        bad_tag: Some((0, 2)),
        ..Habits::default()
    };
    let rig = Rig::of(MemDevice::new("disk", 1 << 20), habits);
    let error = rig.start().unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().contains("tag 2")),
        (ErrorKind::Os, true)
    );
    assert!(!rig.driver.log().contains(&ControlOp::Start));
    rig.assert_clean();
}

#[test]
fn features_are_told_as_the_driver_has_them() {
    let rig = Rig::new();
    let mut control = crate::Control::on(&rig.driver).unwrap();
    let features = control.features().unwrap();
    assert!(features.contains(Features::USER_RECOVERY) && !features.contains(Features::UPDATE_SIZE));
    let server = rig.start().unwrap();
    assert_eq!(control.info(0).unwrap().depth, DEPTH);
    assert_eq!(control.params(0).unwrap().size.0, 2048);
    assert_eq!(control.info(9).unwrap_err().kind(), ErrorKind::NotFound);
    rig.end(server);
}
