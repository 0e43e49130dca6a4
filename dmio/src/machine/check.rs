//! What is refused before anything happens.

use iomgr_core::{Operation, SECTOR_BYTES};

use super::{DeviceConfig, Io, Machine, MachineConfig, MemoryKind};
use crate::{Error, ErrorKind, IoFlags, REGIONS_MAX, Region};

/// What is wrong with a request.
type Why = &'static str;

/// Most slots of a kind.
const SLOTS_MAX: u32 = 1 << 16;
/// Most places for holds, which each device has for each leg.
const HOLDS_MAX: u64 = 1 << 24;

/// Checks a configuration, and says how many cells it takes.
pub(crate) fn config(config: &MachineConfig) -> Result<u32, Error> {
    let refuse = |what| Err(Error::new(ErrorKind::Config, what));
    let devices = config.devices.len();
    let small = |number: u32| (1..=SLOTS_MAX).contains(&number);
    if !(1..=SLOTS_MAX as usize).contains(&devices) {
        return refuse(format!("devices: there are {devices}; give 1 to {SLOTS_MAX}"));
    }
    for (name, number) in [
        ("requests", config.requests),
        ("legs", config.legs),
        ("min_ios", config.min_ios),
        ("orphans_max", config.orphans_max),
    ] {
        if !small(number) {
            return refuse(format!("{name}: {number} is out of range; give 1 to {SLOTS_MAX}"));
        }
    }
    if devices as u64 * u64::from(config.legs) > HOLDS_MAX {
        return refuse(format!(
            "legs: {devices} devices with {} legs are too many",
            config.legs
        ));
    }
    config.devices.iter().try_for_each(DeviceConfig::check)?;
    let cells = devices as u64 * u64::from(config.min_ios);
    u32::try_from(cells).or_else(|_| refuse(format!("min_ios: {} for {devices} devices is too much", config.min_ios)))
}

impl DeviceConfig {
    pub(crate) fn check(&self) -> Result<(), Error> {
        let block = u64::from(self.logical_block_bytes);
        if block.is_power_of_two() && block >= SECTOR_BYTES {
            return Ok(());
        }
        let what = format!("logical_block_bytes: {block} is no power of two from {SECTOR_BYTES}");
        Err(Error::new(ErrorKind::Config, what))
    }
}

impl Machine {
    /// Refuses what could never be run.
    pub(crate) fn check(&self, io: &Io<'_>) -> Result<(), Error> {
        if !(1..=REGIONS_MAX).contains(&io.regions.len()) {
            return Err(Error::invalid("a request has 1 to 64 regions"));
        }
        check_kind(io).map_err(Error::invalid)?;
        for (place, region) in io.regions.iter().enumerate() {
            let at_region = |why| Error::invalid(why).at_region(place);
            self.check_region(io, region).map_err(at_region)?;
        }
        match io.regions {
            [_] => Ok(()),
            several => check_together(io, several),
        }
    }

    fn check_region(&self, io: &Io<'_>, region: &Region) -> Result<(), Why> {
        let device = self.devices.get(usize::from(region.device.0));
        let device = device.ok_or("no device has this number")?;
        let DeviceConfig {
            size,
            logical_block_bytes,
            read_only,
        } = device.config;
        if io.op == Operation::Flush {
            return refuse(
                !region.range.is_empty(),
                "a flush is about the whole device; leave the range empty",
            );
        }
        refuse(read_only && io.op.is_write(), "the device is read-only")?;
        refuse(region.range.is_empty(), "the range is empty")?;
        refuse(!region.range.fits(size), "the range does not lie on the device")?;
        let blocks = region.range.offset_bytes() | region.range.len_bytes();
        let is_aligned = blocks & (u64::from(logical_block_bytes) - 1) == 0;
        refuse(
            !is_aligned,
            "the range is no multiple of the device's logical block size",
        )?;
        let is_long = has_data(io.op) && region.range.count() > self.max_size;
        refuse(is_long, "the range is longer than the client was made for")
    }
}

/// What is about the request as a whole.
fn check_kind(io: &Io<'_>) -> Result<(), Why> {
    let is_read = io.op == Operation::Read;
    refuse(io.choice && !is_read, "only a read can choose among regions")?;
    let is_ambiguous = is_read && !io.choice && io.regions.len() > 1;
    refuse(is_ambiguous, "several regions are read only as a choice")?;
    let has_memory = io.memory != MemoryKind::None;
    refuse(has_data(io.op) && !has_memory, "a read or a write needs memory")?;
    refuse(!has_data(io.op) && has_memory, "only reads and writes have memory")?;
    let is_stuck = io.memory == MemoryKind::Lent { cancellable: false };
    let cancels = io.flags.contains(IoFlags::CANCEL_ON_TIMEOUT);
    refuse(
        is_stuck && cancels,
        "I/O on one's own memory cannot be cancelled at a timeout; use the pool's or have it copied",
    )
}

/// What is about regions of one request.
fn check_together(io: &Io<'_>, regions: &[Region]) -> Result<(), Error> {
    let len = regions[0].range.count();
    let is_even = regions.iter().all(|region| region.range.count() == len);
    refuse(
        has_data(io.op) && !is_even,
        "the regions differ in length, and one buffer serves all",
    )
    .map_err(Error::invalid)?;
    if !io.op.is_write() {
        return Ok(());
    }
    for (place, region) in regions.iter().enumerate() {
        let overlaps = |other: &Region| other.device == region.device && other.range.overlaps(region.range);
        let twice = regions[..place].iter().any(overlaps);
        refuse(twice, "it overlaps an earlier region of the write")
            .map_err(|why| Error::invalid(why).at_region(place))?;
    }
    Ok(())
}

fn has_data(op: Operation) -> bool {
    matches!(op, Operation::Read | Operation::Write)
}

fn refuse(is_bad: bool, why: Why) -> Result<(), Why> {
    if is_bad { Err(why) } else { Ok(()) }
}
