//! The regions of a mirrored write, checked against the sizes of its two legs.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use dmio::{DeviceIndex, Region, check_regions};
use iomgr_core::{Sector, SectorCount, SectorRange};

fn main() {
    let sizes = [SectorCount(2048), SectorCount(1024)];
    for start in [0, 1020] {
        let range = SectorRange::new(Sector(start), SectorCount(8)).expect("far below 64 bits");
        let legs = [0, 1].map(|device| Region {
            device: DeviceIndex(device),
            range,
        });
        match check_regions(&legs, &sizes) {
            Ok(()) => println!("{range} on both legs: fine"),
            Err(errno) => println!("{range} on both legs: {errno}"),
        }
    }
}
