//! A mirrored write, run by hand: one leg answers, the other does not, and is given up when its time is over.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::time::Duration;

use dmio::{
    DeviceConfig, DeviceIndex, Error, Event, Io, IoFlags, Machine, MachineConfig, MemoryKind, Region, RegionEvent,
};
use iomgr_core::{Operation, RequestFlags, Sector, SectorCount, SectorRange, Timestamp};

fn main() -> Result<(), Error> {
    let device = DeviceConfig {
        size: SectorCount(2048),
        logical_block_bytes: 512,
        read_only: false,
    };
    let mut machine = Machine::new(MachineConfig {
        requests: 16,
        legs: 32,
        devices: vec![device; 2],
        min_ios: 4,
        orphans_max: 4,
        max_size: SectorCount(256),
    })?;
    let range = SectorRange::new(Sector(1020), SectorCount(8)).expect("far below 64 bits");
    let write = Io {
        op: Operation::Write,
        request_flags: RequestFlags::empty(),
        regions: &[0, 1].map(|device| Region {
            device: DeviceIndex(device),
            range,
        }),
        choice: false,
        timeout: Some(Duration::from_millis(200)),
        flags: IoFlags::CANCEL_ON_TIMEOUT,
        memory: MemoryKind::Bounce,
    };
    let id = machine.start(Timestamp::ZERO, &write)?;
    while let Some(leg) = machine.poll_submit() {
        println!("submit {range} to device {}", leg.device.0);
        if leg.device == DeviceIndex(0) {
            machine.handle_completion(Timestamp::from_nanos(1_000_000), leg.leg, Ok(()));
        }
    }
    while let Some(at) = machine.poll_timeout() {
        machine.handle_timeout(at);
    }
    while let Some(event) = machine.poll_event() {
        if let Event::Region(RegionEvent { region, state, at, .. }) = event {
            println!("{:?}: region {region} {state:?}", at.since(Timestamp::ZERO));
        }
    }
    machine.release(id);
    Ok(())
}
