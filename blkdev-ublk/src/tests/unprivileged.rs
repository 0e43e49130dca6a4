//! Devices of users without privilege.

use iomgr_core::test_utils::MemDevice;

use super::rig::Rig;
use crate::fake::Habits;
use crate::{Control, ErrorKind, Features, Recovery, Server, ServerConfig};

fn rig(is_root: bool, udev_looks: u32) -> Rig {
    let habits = Habits {
        is_root,
        udev_looks,
        ..Habits::default()
    };
    Rig::of(MemDevice::new("disk", 1 << 20), habits)
}

fn config(rig: &Rig) -> ServerConfig {
    ServerConfig {
        unprivileged: true,
        recovery: Recovery::Off,
        ..rig.config()
    }
}

/// Each command names the device by its path, without which the driver takes none.
#[test]
fn one_is_served_stopped_and_deleted_by_its_owner() {
    let rig = rig(false, 0);
    let server = Server::start_on(&rig.driver, config(&rig)).unwrap();
    assert!(server.info().features.contains(Features::UNPRIVILEGED_DEV));
    rig.driver.write(0, 8, &[7; 512]).unwrap();
    rig.end(server);
}

#[test]
fn udev_is_waited_for() {
    let rig = rig(false, 3);
    let server = Server::start_on(&rig.driver, config(&rig)).unwrap();
    rig.end(server);
}

/// Somebody else's control device does not know which devices are unprivileged.
#[test]
fn any_control_device_finds_out_that_the_path_is_wanted() {
    let rig = rig(false, 0);
    let server = Server::start_on(&rig.driver, config(&rig)).unwrap();
    let mut control = Control::on(&rig.driver).unwrap();
    assert!(control.params(0).unwrap().size.0 > 0);
    assert_eq!(control.info(0).unwrap().id, 0);
    assert_eq!(control.info(1).unwrap_err().kind(), ErrorKind::NotFound);
    rig.end(server);
}

#[test]
fn an_old_driver_cannot_tell_here_either_who_has_it_open() {
    let rig = rig(false, 0);
    let server = Server::start_on(&rig.driver, config(&rig)).unwrap();
    let refused = server.careful_stop().stop_on(&rig.driver).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    rig.end(server);
}

#[test]
fn without_the_flag_there_is_a_way_out_and_with_privilege_there_is_no_flag() {
    let denied = rig(false, 0);
    let error = denied.start().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.to_string().contains("--unprivileged"), "{error}");
    denied.assert_clean();
    let root = rig(true, 0);
    let error = Server::start_on(&root.driver, config(&root)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(
        error.to_string().contains("only for users without CAP_SYS_ADMIN"),
        "{error}"
    );
    root.assert_clean();
}

#[test]
fn what_the_driver_denies_such_users_is_refused_before_anything_is_made() {
    let rig = rig(false, 0);
    let outlives = ServerConfig {
        recovery: Recovery::Reissue,
        ..config(&rig)
    };
    let hands_over = ServerConfig {
        zero_copy: true,
        ..config(&rig)
    };
    for config in [outlives, hands_over] {
        let error = Server::start_on(&rig.driver, config).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("without privilege"), "{error}");
    }
    assert!(rig.driver.log().is_empty());
}
