//! Random reads of 4 KiB on a disk without a frontend, so many at a time, and what each took:
//! `cargo run --release -p vbd --example requests -- IMAGE DEPTH COUNT`.
#![allow(clippy::print_stdout, reason = "an example talks to whoever runs it")]

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use iomgr_core::manager::{Intake, Registry};
use iomgr_core::{
    Device, Lane, Lease, OpQueue, Operation, Owner, Pass, QueueContext, Request, RequestFlags, Sector, SectorCount,
    SectorRange, Tag, Waker,
};
use tqueue::{Config, Queue};
use vbd::{Cache, Disk, DiskOptions};

const SECTORS: SectorCount = SectorCount(8);

/// A frontend's thread, but for the frontend: a queue, and a disk's part on it, behind the managers' hooks.
struct Loop {
    queue: Queue,
    lane: Lane,
    /// By tag.
    leases: Vec<Lease>,
    blocks: u64,
    random: fastrand::Rng,
}

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [image, depth, count] = words.as_slice() else {
        return Err("usage: requests IMAGE DEPTH COUNT".into());
    };
    let options = DiskOptions {
        read_only: true,
        cache: Cache::None,
        ..DiskOptions::default()
    };
    let disk = Disk::open(Path::new(image), &options)?;
    let mut work = Loop::new(&disk, &Registry::new(), depth.parse()?)?;
    let (start, count) = (Instant::now(), count.parse()?);
    work.run(count)?;
    println!(
        "{:.1} ns per request",
        start.elapsed().as_secs_f64() * 1e9 / f64::from(count)
    );
    work.close();
    Ok(())
}

impl Loop {
    fn new(disk: &Disk, registry: &Registry, depth: u32) -> Result<Self, Box<dyn Error>> {
        let mut queue = Queue::new(&Config::default())?;
        let lease = |_| queue.alloc(4096).ok_or("the arena is too small");
        let leases = (0..depth).map(lease).collect::<Result<Vec<_>, _>>()?;
        let context = QueueContext {
            index: 0,
            count: 1,
            owner: Owner(1),
            depth,
            waker: Waker::none(),
            io: &mut queue,
        };
        let device = disk.open_queue(context).map_err(|error| error.to_string())?;
        let intake = Intake::new(&registry.attach(disk.name())?, depth, Waker::none());
        Ok(Self {
            lane: Lane::new(device, intake, depth),
            queue,
            leases,
            blocks: disk.limits().size.0 / SECTORS.0,
            random: fastrand::Rng::with_seed(1),
        })
    }

    fn run(&mut self, count: u32) -> Result<(), Box<dyn Error>> {
        let mut left = count;
        for tag in (0..).take(self.leases.len().min(left as usize)) {
            self.push(Tag(tag));
            left -= 1;
        }
        self.work(&mut left)?;
        while self.lane.in_flight() > 0 {
            self.queue.submit_and_wait(None)?;
            let now = self.queue.now();
            self.lane.begin_pass(&mut Pass {
                now,
                io: &mut self.queue,
            });
            while let Some(done) = self.queue.next_completion() {
                self.lane.op_done(
                    &mut Pass {
                        now,
                        io: &mut self.queue,
                    },
                    done.op_done(),
                );
            }
            self.work(&mut left)?;
        }
        Ok(())
    }

    /// Everything that can be done without waiting: what ends lets another one come.
    fn work(&mut self, left: &mut u32) -> Result<(), Box<dyn Error>> {
        let now = self.queue.now();
        loop {
            self.lane.admit(&mut Pass {
                now,
                io: &mut self.queue,
            });
            let mut any = false;
            while let Some(ended) = self.lane.poll_ended(now) {
                ended.result?;
                if *left > 0 {
                    *left -= 1;
                    self.push(ended.request.tag);
                    any = true;
                }
            }
            if !any {
                return Ok(());
            }
        }
    }

    fn push(&mut self, tag: Tag) {
        let start = Sector(self.random.u64(..self.blocks) * SECTORS.0);
        self.lane.push(Request {
            tag,
            op: Operation::Read,
            flags: RequestFlags::empty(),
            range: SectorRange::new(start, SECTORS).expect("below the disk's end"),
            data: self.leases[tag.0 as usize].data(),
            arrival: self.queue.now(),
            deadline: None,
        });
    }

    fn close(mut self) {
        self.lane.close(&mut self.queue);
        self.leases.into_iter().for_each(|lease| self.queue.free(lease));
    }
}
