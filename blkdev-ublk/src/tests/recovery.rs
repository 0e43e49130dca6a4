//! Servers that die, and those that go on with their device.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use iomgr_core::test_utils::MemDevice;
use iomgr_core::{Device, Errno, Operation, SectorCount};

use super::rig::Rig;
use crate::abi::{ControlOp, DeviceState};
use crate::fake::Habits;
use crate::{Control, Error, ErrorKind, Features, IoOp, Recovery, Server, ServerConfig};

/// A kernel that has all that there is.
fn new_kernel() -> Habits {
    Habits {
        features: Features::from_bits_retain(0x1f_ffff) - Features::AUTO_BUF_REG,
        ..Habits::default()
    }
}

/// What is done with a device, but for looks.
fn commands(rig: &Rig) -> Vec<ControlOp> {
    let looks = [
        ControlOp::Features,
        ControlOp::DeviceInfo,
        ControlOp::Params,
        ControlOp::Affinity,
    ];
    rig.driver.log().into_iter().filter(|op| !looks.contains(op)).collect()
}

#[test]
fn a_write_that_a_dead_server_had_is_done_by_the_next() {
    let rig = Rig::new();
    let tag = rig.killed(rig.config());
    rig.driver.wait_state(0, DeviceState::Quiesced);
    let server = rig.recover(rig.config()).unwrap();
    rig.driver.answer(0, tag).unwrap();
    assert_eq!(rig.device.bytes()[4096..4608], [7; 512]);
    assert_eq!(rig.driver.request(0, IoOp::Read, 8, 1).unwrap(), [7; 512]);
    let life = [
        ControlOp::Add,
        ControlOp::SetParams,
        ControlOp::Start,
        ControlOp::StartRecovery,
        ControlOp::EndRecovery,
    ];
    assert_eq!(commands(&rig), life);
    assert_eq!(server.path().to_str(), Some("/dev/ublkb0"));
    rig.end_recovered(server);
}

/// Who writes while there is no server waits, and hears of no error.
#[test]
fn requests_that_come_meanwhile_wait() {
    let rig = Rig::new();
    let tag = rig.killed(rig.config());
    let driver = rig.driver.clone();
    let writer = thread::spawn(move || driver.write(0, 16, &[9; 512]));
    let server = rig.recover(rig.config()).unwrap();
    writer.join().unwrap().unwrap();
    rig.driver.answer(0, tag).unwrap();
    assert_eq!(rig.device.bytes()[8192..8704], [9; 512]);
    rig.end_recovered(server);
}

/// The ring of a process that was killed lives on for a moment.
#[test]
fn a_kernel_that_has_not_noticed_yet_is_asked_again() {
    let habits = Habits {
        busy_recoveries: 3,
        ..Habits::default()
    };
    let rig = Rig::of(MemDevice::new("disk", 1 << 20), habits);
    let tag = rig.killed(rig.config());
    let server = rig.recover(rig.config()).unwrap();
    rig.driver.answer(0, tag).unwrap();
    let asked = commands(&rig).into_iter().filter(|op| *op == ControlOp::StartRecovery);
    assert_eq!(asked.count(), 4);
    rig.end_recovered(server);
}

/// Its number is not the device.
#[test]
fn one_that_is_replaced_while_it_is_waited_for_is_left_alone() {
    let habits = Habits {
        busy_recoveries: 1,
        replaced_by: Some(78),
        ..Habits::default()
    };
    let rig = Rig::of(MemDevice::new("disk", 1 << 20), habits);
    let _tag = rig.killed(rig.config());
    let refused = rig.recover(rig.config()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Config);
    assert!(refused.to_string().contains("another has its number"), "{refused}");
    let asked = commands(&rig).into_iter().filter(|op| *op == ControlOp::StartRecovery);
    assert_eq!(asked.count(), 1);
    rig.driver.assert_content();
}

#[test]
fn a_device_that_is_served_is_not_recovered() {
    let rig = Rig::new();
    let server = rig.start().unwrap();
    let refused = Server::recover_on(&rig.driver, 0, rig.config(), Duration::ZERO).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Busy);
    assert!(refused.to_string().contains("serves it"), "{refused}");
    assert!(
        !commands(&rig).contains(&ControlOp::StartRecovery),
        "it might be obeyed later"
    );
    rig.driver.write(0, 0, &[1; 512]).unwrap();
    rig.end(server);
}

/// What cannot be is told before anything is touched: the device waits as before.
#[test]
fn what_does_not_fit_is_refused_and_the_device_waits() {
    let rig = Rig::new();
    let tag = rig.killed(rig.config());
    let device = |device: MemDevice| ServerConfig {
        device: Arc::new(device) as Arc<dyn Device>,
        ..rig.config()
    };
    let refusals: [(ServerConfig, &str); 4] = [
        (device(MemDevice::new("disk", 1 << 19)), "cut meanwhile"),
        (
            device(MemDevice::new("disk", 1 << 20).with_limits(|limits| limits.logical_block_bytes = 4096)),
            "larger blocks",
        ),
        (
            device(MemDevice::new("disk", 1 << 20).with_limits(|limits| limits.read_only = true)),
            "only be read",
        ),
        (
            ServerConfig {
                mark: 78,
                ..rig.config()
            },
            "another has its number",
        ),
    ];
    for (config, words) in refusals {
        let refused = rig.recover(config).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Config);
        assert!(refused.to_string().contains(words), "{refused}");
    }
    assert!(!commands(&rig).contains(&ControlOp::StartRecovery));
    let larger = device(MemDevice::new("disk", 1 << 21));
    let server = rig.recover(larger).unwrap();
    rig.driver.answer(0, tag).unwrap();
    drop(server);
    rig.assert_clean();
}

/// Users were told that nothing needs to be flushed.
#[test]
fn a_cache_that_users_do_not_know_of_is_refused() {
    let uncached = MemDevice::new("disk", 1 << 20).with_limits(|limits| limits.volatile_cache = false);
    let rig = Rig::of(uncached, Habits::default());
    let _tag = rig.killed(rig.config());
    let cached = ServerConfig {
        device: Arc::new(MemDevice::new("disk", 1 << 20)),
        ..rig.config()
    };
    let refused = rig.recover(cached).unwrap_err();
    assert!(refused.to_string().contains("never is"), "{refused}");
}

/// A device of two queues, left by its server.
fn left(rig: &Rig) {
    let mut server = rig.start_queues(2).unwrap();
    server.hand_over().unwrap();
    drop(server);
    rig.driver.wait_state(0, DeviceState::Quiesced);
}

/// What a server needs of its own process and of the image it has before the driver hears of it: it may fail, or be killed, as
/// often as it likes.
#[test]
fn a_recovery_that_fails_in_preparing_has_not_touched_the_device() {
    let rig = Rig::new();
    left(&rig);
    for queue in [0, 1] {
        rig.device.break_queue(queue);
        assert_eq!(rig.recover(rig.config()).unwrap_err().kind(), ErrorKind::Device);
        assert!(!commands(&rig).contains(&ControlOp::StartRecovery));
        assert_eq!(rig.device.open_queues(), 0, "what was ready is closed again");
    }
    rig.device.break_queue(9);
    let server = rig.recover(rig.config()).unwrap();
    rig.driver.write(0, 8, &[8; 512]).unwrap();
    rig.end(server);
}

/// Its threads wait for the old server's end with all that they need, and end when that does not come.
#[test]
fn a_recovery_that_waits_in_vain_closes_what_it_has() {
    let rig = Rig::new();
    let server = rig.start_queues(2).unwrap();
    let refused = Server::recover_on(&rig.driver, 0, rig.config(), Duration::ZERO).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Busy);
    assert_eq!(rig.device.open_queues(), 2);
    rig.end(server);
}

/// The kernel takes up a recovery that had begun to serve.
#[test]
fn a_recovery_that_fails_at_a_later_queue_leaves_the_device() {
    let rig = Rig::new();
    left(&rig);
    rig.driver.refuse_tag(Some((1, 0)));
    assert_eq!(rig.recover(rig.config()).unwrap_err().kind(), ErrorKind::Os);
    rig.driver.refuse_tag(None);
    let server = rig.recover(rig.config()).unwrap();
    rig.driver.write(0, 8, &[8; 512]).unwrap();
    rig.end(server);
}

/// But none of which nothing came; the device is neither started nor deleted.
#[test]
fn a_recovery_that_fetches_nothing_is_the_last() {
    let rig = Rig::new();
    let _tag = rig.killed(rig.config());
    rig.driver.refuse_tag(Some((0, 0)));
    assert_eq!(rig.recover(rig.config()).unwrap_err().kind(), ErrorKind::Os);
    rig.driver.refuse_tag(None);
    let refused = rig.recover(rig.config()).unwrap_err();
    assert!(refused.to_string().contains("cannot take up: delete it"), "{refused}");
    assert_eq!(rig.driver.ids(), [0]);
    let ended = [ControlOp::Stop, ControlOp::Delete];
    assert!(
        !commands(&rig).iter().any(|op| ended.contains(op)),
        "{:?}",
        commands(&rig)
    );
    rig.driver.assert_content();
}

/// Of two that race for a device one serves it, and the other leaves it alone.
#[test]
fn one_of_two_recoveries_wins() {
    let rig = Rig::new();
    let tag = rig.killed(rig.config());
    let attempt = || Server::recover_on(&rig.driver, 0, rig.config(), Duration::ZERO);
    let servers: Vec<Result<Server, Error>> = thread::scope(|scope| {
        let attempts: Vec<_> = (0..2).map(|_| scope.spawn(attempt)).collect();
        attempts.into_iter().map(|attempt| attempt.join().unwrap()).collect()
    });
    rig.driver.answer(0, tag).unwrap();
    let mut served = 0;
    for server in servers {
        match server {
            Ok(server) => {
                served += 1;
                rig.driver.write(0, 0, &[3; 512]).unwrap();
                rig.driver.assert_content();
                drop(server);
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::Busy, "{error}"),
        }
    }
    assert_eq!(served, 1);
}

#[test]
fn a_device_without_recovery_is_gone_with_its_server() {
    let rig = Rig::new();
    let config = || ServerConfig {
        recovery: Recovery::Off,
        ..rig.config()
    };
    let tag = rig.killed(config());
    assert_eq!(rig.driver.answer(0, tag), Err(Errno::IO.raw_os_error()));
    let refused = rig.recover(config()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    Control::on(&rig.driver).unwrap().delete(0).unwrap();
    rig.assert_clean();
}

/// Where the kernel has it; else only what was in flight fails.
#[test]
fn requests_fail_without_a_server_if_that_was_wished() {
    for (habits, state) in [
        (new_kernel(), DeviceState::FailIo),
        (Habits::default(), DeviceState::Quiesced),
    ] {
        let rig = Rig::of(MemDevice::new("disk", 1 << 20), habits);
        let config = || ServerConfig {
            recovery: Recovery::Fail,
            ..rig.config()
        };
        let tag = rig.killed(config());
        rig.driver.wait_state(0, state);
        assert_eq!(rig.driver.answer(0, tag), Err(Errno::IO.raw_os_error()));
        let server = rig.recover(config()).unwrap();
        rig.driver.write(0, 8, &[8; 512]).unwrap();
        rig.end_recovered(server);
    }
}

#[test]
fn what_waits_for_a_server_fails_when_the_device_is_deleted() {
    let rig = Rig::new();
    let tag = rig.killed(rig.config());
    let mut control = Control::on(&rig.driver).unwrap();
    control.stop(0).unwrap();
    assert_eq!(rig.driver.answer(0, tag), Err(Errno::IO.raw_os_error()));
    control.delete(0).unwrap();
    rig.assert_clean();
}

/// `STOP_DEV` lets nothing through any more to the server of a device that could be recovered.
#[test]
fn what_the_page_cache_holds_is_written_before_the_stop() {
    let rig = Rig::new();
    let server = rig.start().unwrap();
    let device = Arc::clone(&rig.device);
    rig.end(server);
    assert_eq!(device.bytes()[..512], [0x5a; 512]);
}

#[test]
fn flags_of_recovery_that_were_dropped_are_missed() {
    let habits = Habits {
        features: Features::USER_RECOVERY,
        ..Habits::default()
    };
    let rig = Rig::of(MemDevice::new("disk", 1 << 20), habits);
    let error = rig.start().unwrap_err();
    assert_eq!(
        error.to_string(),
        "the ublk driver lacks USER_RECOVERY_REISSUE, which Linux 6.1 brought"
    );
    rig.assert_clean();
}

#[test]
fn a_device_that_is_open_is_not_stopped_by_the_careful() {
    let rig = Rig::of(MemDevice::new("disk", 1 << 20), new_kernel());
    let server = rig.start().unwrap();
    let careful = server.careful_stop();
    rig.driver.use_block_device(0, true);
    assert_eq!(careful.stop_on(&rig.driver).unwrap_err().kind(), ErrorKind::Busy);
    rig.driver.write(0, 0, &[1; 512]).unwrap();
    rig.driver.use_block_device(0, false);
    careful.stop_on(&rig.driver).unwrap();
    rig.ends.wait();
    // It is the server that deletes it.
    rig.end(server);
    let old = Rig::new();
    let server = old.start().unwrap();
    let refused = server.careful_stop().stop_on(&old.driver).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    assert!(refused.to_string().contains("takes Linux 7.0"), "{refused}");
    old.driver.write(0, 0, &[1; 512]).unwrap();
    old.end(server);
}

#[test]
fn a_device_grows_where_the_kernel_can_let_it() {
    let rig = Rig::of(MemDevice::new("disk", 1 << 20), new_kernel());
    let server = rig.start().unwrap();
    let mut control = Control::on(&rig.driver).unwrap();
    control.resize(0, SectorCount(4096)).unwrap();
    assert_eq!(control.params(0).unwrap().size.0, 4096);
    assert_eq!(
        control.resize(0, SectorCount(4095)).unwrap_err().kind(),
        ErrorKind::Config
    );
    rig.end(server);
    let old = Rig::new();
    let server = old.start().unwrap();
    let refused = Control::on(&old.driver)
        .unwrap()
        .resize(0, SectorCount(4096))
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    assert!(refused.to_string().contains("takes Linux 6.16"), "{refused}");
    assert!(!old.driver.log().contains(&ControlOp::UpdateSize));
    let operation = Operation::Read;
    assert!(old.device.log().iter().all(|request| request.op == operation));
    old.end(server);
}
