//! The queue inside another event loop: counts a file's lines, and a timer of the loop's own tells how far it is.
//! `cargo run --release -p tqueue --example embed -- FILE`.
//!
//! A loop needs three things of the queue: its descriptor to sleep on, `submit` when that is readable or something was
//! pushed, and its completions.
#![allow(clippy::print_stdout, reason = "an example talks to whoever runs it")]

use std::error::Error;
use std::fs::File;
use std::os::fd::AsFd;

use iomgr_core::{Action, FileHandle, FileSlot, Lease, Op, OpQueue, Owner, Token};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tqueue::{Config, Queue};

const PIECE: u32 = 256 << 10;
const DEPTH: u32 = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: embed FILE")?;
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    let mut queue = Queue::new(&Config::default())?;
    let mut count = Count {
        file: queue.add_file(&FileHandle::new(file))?,
        len,
        next: 0,
        done: 0,
        lines: 0,
        pieces: Vec::new(),
    };
    count.begin(&mut queue)?;
    let ticks = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
    let tenth = Timespec {
        tv_sec: 0,
        tv_nsec: 100_000_000,
    };
    let every = Itimerspec {
        it_interval: tenth,
        it_value: tenth,
    };
    timerfd_settime(&ticks, TimerfdTimerFlags::empty(), &every)?;
    while !queue.is_idle() {
        queue.submit()?;
        if count.take_completions(&mut queue)? > 0 {
            continue; // they made room, and new ops
        }
        let mut fds = vec![PollFd::new(&ticks, PollFlags::IN)];
        fds.extend(
            queue
                .completion_fd()
                .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)),
        );
        poll(&mut fds, None)?;
        if fds[0].revents().contains(PollFlags::IN) {
            rustix::io::read(ticks.as_fd(), &mut [0; 8])?;
            println!("{} of {len} bytes, {} lines", count.done, count.lines);
        }
    }
    println!("{} lines", count.lines);
    Ok(())
}

/// A file that is being counted.
struct Count {
    file: FileSlot,
    len: u64,
    next: u64,
    done: u64,
    lines: usize,
    pieces: Vec<Lease>,
}

impl Count {
    fn begin(&mut self, queue: &mut Queue) -> Result<(), Box<dyn Error>> {
        for index in 0..DEPTH {
            self.pieces.push(queue.alloc(PIECE).ok_or("the arena is too small")?);
            self.read_next(queue, index)?;
        }
        Ok(())
    }

    /// Counts what was read, and reads on; says how many reads had ended.
    fn take_completions(&mut self, queue: &mut Queue) -> Result<usize, Box<dyn Error>> {
        let mut taken = 0;
        while let Some(completion) = queue.next_completion() {
            taken += 1;
            let (len, index) = (completion.result?, u32::try_from(completion.token.value())?);
            let data = self.pieces[index as usize].data().slice(0, len);
            let bytes = queue.bytes(data).ok_or("the read has ended")?;
            self.lines += bytes.iter().filter(|&&byte| byte == b'\n').count();
            self.done += u64::from(len);
            self.read_next(queue, index)?;
        }
        Ok(taken)
    }

    fn read_next(&mut self, queue: &mut Queue, index: u32) -> Result<(), Box<dyn Error>> {
        let len = u32::try_from(self.len - self.next).unwrap_or(PIECE).min(PIECE);
        if len == 0 {
            return Ok(());
        }
        let action = Action::Read {
            offset: self.next,
            data: self.pieces[index as usize].data().slice(0, len),
        };
        self.next += u64::from(len);
        let op = Op {
            token: Token::new(Owner(0), index.into()),
            file: self.file,
            action,
        };
        queue.push(op).map_err(|_| "the queue is full".into())
    }
}
