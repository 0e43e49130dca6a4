//! What the kernel makes of what it is asked for, silently, is found out; nothing is left of what is refused.

use iomgr_core::test_utils::MemDevice;

use super::rig::Rig;
use crate::fake::Habits;
use crate::{Error, ErrorKind, Features};

fn refused(habits: Habits) -> Error {
    let rig = Rig::of(MemDevice::new("disk", 1 << 20), habits);
    let error = rig.start().unwrap_err();
    rig.assert_clean();
    assert_eq!(rig.device.submitted(), 0);
    error
}

#[test]
fn flags_that_were_dropped_are_missed() {
    let error = refused(Habits {
        features: Features::empty(),
        forced: Features::empty(),
        ..Habits::default()
    });
    assert_eq!(
        error.to_string(),
        "the ublk driver lacks USER_RECOVERY | USER_RECOVERY_REISSUE | CMD_IOCTL_ENCODE, which Linux 6.4 brought"
    );
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn a_mode_that_was_not_asked_for_is_not_served() {
    let forced = Features::CMD_IOCTL_ENCODE | Features::USER_COPY;
    let error = refused(Habits {
        forced,
        ..Habits::default()
    });
    assert!(error.to_string().contains("mode"), "{error}");
}

#[test]
fn a_depth_that_was_cut_is_told() {
    let error = refused(Habits {
        depth_max: 2,
        ..Habits::default()
    });
    assert!(error.to_string().contains("depth 2 of the 1 of depth 4"), "{error}");
}

#[test]
fn parameters_that_were_ignored_are_missed() {
    let error = refused(Habits {
        ignores_discard: true,
        ..Habits::default()
    });
    assert!(error.to_string().contains("discard: None"), "{error}");
}

#[test]
fn a_full_table_and_a_driver_that_is_not_there_are_said_at_once() {
    let error = refused(Habits {
        devices_max: 0,
        ..Habits::default()
    });
    assert_eq!(error.kind(), ErrorKind::Full);
    assert!(error.to_string().contains("ublks_max"), "{error}");
    for kind in [ErrorKind::NoDriver, ErrorKind::Denied] {
        let error = refused(Habits {
            refuses: Some(kind),
            ..Habits::default()
        });
        assert_eq!(error.kind(), kind);
    }
}

/// Smaller buffers are no harm: the device is told that its requests are smaller.
#[test]
fn smaller_buffers_mean_smaller_requests() {
    let habits = Habits {
        buffer_bytes_max: 8192,
        ..Habits::default()
    };
    let rig = Rig::of(MemDevice::new("disk", 1 << 20), habits);
    let server = rig.start().unwrap();
    assert_eq!(server.info().buffer_bytes, 8192);
    assert_eq!(rig.driver.params(0).unwrap().max_sectors, 16);
    rig.end(server);
}

#[test]
fn nothing_is_asked_for_a_device_without_sectors() {
    let rig = Rig::of(MemDevice::new("disk", 511), Habits::default());
    let error = rig.start().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(rig.driver.log().is_empty());
}
