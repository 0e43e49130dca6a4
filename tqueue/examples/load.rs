//! Ops of 4 KiB on a file or block device, so many at a time, and what each took:
//! `cargo run --release -p tqueue --example load -- FILE random-read DEPTH COUNT direct`.
#![allow(clippy::print_stdout, reason = "an example talks to whoever runs it")]

use std::error::Error;
use std::fs::OpenOptions;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Instant;

use iomgr_core::{Action, FileHandle, FileSlot, Lease, Op, OpQueue, Owner, Token};
use tqueue::{Config, Queue};

const LEN: u32 = 4096;
const USAGE: &str = "usage: load FILE random-read|random-write|sequential-read|sequential-write DEPTH COUNT [direct]";

/// What is done, and how far it has come.
struct Load {
    file: FileSlot,
    random: bool,
    write: bool,
    blocks: u64,
    next: u64,
    started: u64,
    count: u64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [path, pattern, depth, count, rest @ ..] = words.as_slice() else {
        return Err(USAGE.into());
    };
    let (order, kind) = pattern.split_once('-').ok_or(USAGE)?;
    let write = kind == "write";
    let direct = if rest.is_empty() { 0 } else { libc::O_DIRECT };
    let mut file = OpenOptions::new()
        .read(true)
        .write(write)
        .custom_flags(direct)
        .open(path)?;
    let blocks = file.seek(SeekFrom::End(0))? / u64::from(LEN);
    let mut queue = Queue::new(&Config::default())?;
    let mut load = Load {
        file: queue.add_file(&FileHandle::new(file))?,
        random: order == "random",
        write,
        blocks,
        next: 0,
        started: 0,
        count: count.parse()?,
    };
    let leases = leases(&mut queue, depth.parse()?)?;
    let (start, before) = (Instant::now(), queue.counters());
    load.run(&mut queue, &leases)?;
    let (time, after) = (start.elapsed(), queue.counters());
    leases.into_iter().for_each(|lease| queue.free(lease));
    let each = |total: f64| total / load.count as f64;
    println!(
        "{:.1} ns and {:.4} enters per op, on {}",
        each(time.as_secs_f64() * 1e9),
        each((after.enters - before.enters) as f64),
        queue.info()
    );
    Ok(())
}

/// Memory for each op under way.
fn leases(queue: &mut Queue, depth: u32) -> Result<Vec<Lease>, Box<dyn Error>> {
    let lease = |_| queue.alloc(LEN).ok_or("the arena is too small");
    Ok((0..depth).map(lease).collect::<Result<_, _>>()?)
}

impl Load {
    fn run(&mut self, queue: &mut Queue, leases: &[Lease]) -> Result<(), Box<dyn Error>> {
        for index in 0..leases.len() {
            self.push(queue, leases, index)?;
        }
        while !queue.is_idle() {
            queue.submit_and_wait(None)?;
            while let Some(done) = queue.next_completion() {
                done.result?;
                self.push(queue, leases, usize::try_from(done.token.value())?)?;
            }
        }
        Ok(())
    }

    /// The next op, in the memory of one that is done; none when all were started.
    fn push(&mut self, queue: &mut Queue, leases: &[Lease], index: usize) -> Result<(), Box<dyn Error>> {
        if self.started == self.count {
            return Ok(());
        }
        self.started += 1;
        let (offset, data) = (self.offset(), leases[index].data());
        let action = if self.write {
            let durable = false;
            Action::Write { offset, data, durable }
        } else {
            Action::Read { offset, data }
        };
        let (token, file) = (Token::new(Owner(0), index as u64), self.file);
        let op = Op { token, file, action };
        queue.push(op).map_err(|_| "the queue is full".into())
    }

    fn offset(&mut self) -> u64 {
        self.next = if self.random {
            // Knuth's linear congruential generator: the upper bits are random enough for places on a disk.
            self.next
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407)
        } else {
            self.next + 1
        };
        let block = if self.random {
            ((u128::from(self.next) * u128::from(self.blocks)) >> 64) as u64
        } else {
            self.next % self.blocks
        };
        block * u64::from(LEN)
    }
}
