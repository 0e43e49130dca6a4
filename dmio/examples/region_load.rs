//! Requests of 4 KiB of the pool's memory on files or block devices, so many at a time, and what each took:
//! `cargo run --release -p iomgr-dmio --example region_load -- FILE[,FILE...] random-read DEPTH COUNT [direct] [timeout]`.
//!
//! Writes go to all files. What `tqueue`'s example of this name does without regions.
#![allow(clippy::print_stdout, reason = "an example talks to whoever runs it")]

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dmio::{
    Client, ClientConfig, DeviceIndex, FileDevice, FileOptions, IoRequest, Memory, Notification, Notify, Region,
    RegionState,
};
use iomgr_core::{Device, Lease, Sector, SectorCount, SectorRange};

const SECTORS: u64 = 8;
const USAGE: &str = "usage: region_load FILE[,FILE...] random-read|random-write|sequential-read|sequential-write DEPTH COUNT [direct] [timeout]";

/// What is done, and how far it has come.
struct Load {
    devices: u16,
    random: bool,
    write: bool,
    timeout: Option<Duration>,
    blocks: u64,
    next: Cell<u64>,
    started: Cell<u64>,
    ended: Cell<u64>,
    count: u64,
    failure: RefCell<Option<String>>,
    this: RefCell<Option<Rc<dyn Notify>>>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [paths, pattern, depth, count, rest @ ..] = words.as_slice() else {
        return Err(USAGE.into());
    };
    let (order, kind) = pattern.split_once('-').ok_or(USAGE)?;
    let has = |word: &str| rest.iter().any(|other| other == word);
    let options = FileOptions {
        read_only: kind != "write",
        buffered: !has("direct"),
    };
    let devices = paths.split(',').map(|path| FileDevice::open(path.as_ref(), options));
    let devices: Vec<_> = devices.collect::<Result<_, _>>()?;
    let size = devices.iter().map(|device| device.limits().size.0).min().ok_or(USAGE)?;
    let load = Rc::new(Load {
        devices: if kind == "write" {
            u16::try_from(devices.len())?
        } else {
            1
        },
        random: order == "random",
        write: kind == "write",
        timeout: has("timeout").then_some(Duration::from_secs(60)),
        blocks: size / SECTORS,
        next: Cell::new(0),
        started: Cell::new(0),
        ended: Cell::new(0),
        count: count.parse()?,
        failure: RefCell::default(),
        this: RefCell::default(),
    });
    let config = ClientConfig {
        devices: devices.into_iter().map(|device| Arc::new(device) as _).collect(),
        ..ClientConfig::default()
    };
    run(&mut Client::new(config)?, &load, depth.parse()?)
}

fn run(client: &mut Client, load: &Rc<Load>, depth: u32) -> Result<(), Box<dyn Error>> {
    *load.this.borrow_mut() = Some(Rc::new(Next(Rc::clone(load))));
    let lease = |_| client.alloc(4096).ok_or("the pool is too small");
    let leases: Vec<Lease> = (0..depth).map(lease).collect::<Result<_, _>>()?;
    let (start, before) = (Instant::now(), client.queue_counters());
    leases
        .into_iter()
        .for_each(|lease| load.start(client, Memory::Pool(lease)));
    while load.ended.get() < load.count && load.failure.borrow().is_none() {
        client.poll(None)?;
    }
    let (time, after) = (start.elapsed(), client.queue_counters());
    load.this.borrow_mut().take();
    if let Some(failure) = load.failure.take() {
        return Err(failure.into());
    }
    let each = |total: f64| total / load.count as f64;
    println!(
        "{:.1} ns and {:.4} enters per request",
        each(time.as_secs_f64() * 1e9),
        each((after.enters - before.enters) as f64),
    );
    Ok(())
}

/// Starts the next request in the memory of one that has ended.
struct Next(Rc<Load>);

impl Notify for Next {
    fn notify(&self, client: &mut Client, note: Notification) {
        let Self(load) = self;
        if note.state != RegionState::Ok {
            *load.failure.borrow_mut() = Some(format!("region {}: {:?}", note.region, note.state));
        }
        if note.is_last {
            load.ended.set(load.ended.get() + 1);
            load.start(client, note.memory);
        }
    }
}

impl Load {
    /// The next request; none when all were started.
    fn start(&self, client: &mut Client, memory: Memory) {
        if self.started.get() == self.count {
            return;
        }
        self.started.set(self.started.get() + 1);
        let range = SectorRange::new(self.place(), SectorCount(SECTORS)).expect("within the device");
        let region = |device| Region {
            device: DeviceIndex(device),
            range,
        };
        let regions = [region(0), region(1), region(2), region(3)];
        let regions = &regions[..usize::from(self.devices).min(4)];
        let mut request = match self.write {
            true => IoRequest::write(regions, memory),
            false => IoRequest::read(regions, memory),
        };
        request.timeout = self.timeout;
        if let Err(refused) = client.start(request, self.this.borrow().clone()) {
            *self.failure.borrow_mut() = Some(refused.error.to_string());
        }
    }

    fn place(&self) -> Sector {
        let last = self.next.get();
        // Knuth's linear congruential generator: the upper bits are random enough for places on a disk.
        let (next, block) = if self.random {
            let next = last
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (next, ((u128::from(next) * u128::from(self.blocks)) >> 64) as u64)
        } else {
            (last + 1, (last + 1) % self.blocks)
        };
        self.next.set(next);
        Sector(block * SECTORS)
    }
}
