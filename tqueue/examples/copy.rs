//! Copies a file, 32 pieces at a time: `cargo run --release -p tqueue --example copy -- FROM TO`.
#![allow(clippy::print_stdout, reason = "an example talks to whoever runs it")]

use std::error::Error;
use std::fs::File;
use std::time::Instant;

use iomgr_core::{Action, FileHandle, FileSlot, Lease, Op, OpQueue, Owner, Token};
use tqueue::{Config, Queue};

const PIECE: u32 = 128 << 10;
const DEPTH: u32 = 32;

/// Both files, and how far the copy has come.
struct Copy {
    from: FileSlot,
    to: FileSlot,
    len: u64,
    next: u64,
}

/// A piece under way: its memory, and where it belongs.
struct Piece {
    lease: Lease,
    offset: u64,
    len: u32,
    writing: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let paths: Vec<String> = std::env::args().skip(1).collect();
    let [from, to] = paths.as_slice() else {
        return Err("usage: copy FROM TO".into());
    };
    let source = File::open(from)?;
    let len = source.metadata()?.len();
    let mut queue = Queue::new(&Config::default())?;
    let mut copy = Copy {
        from: queue.add_file(&FileHandle::new(source))?,
        to: queue.add_file(&FileHandle::new(File::create(to)?))?,
        len,
        next: 0,
    };
    let start = Instant::now();
    copy.run(&mut queue)?;
    let seconds = start.elapsed().as_secs_f64();
    let rate = len as f64 / seconds / f64::from(1 << 20);
    println!("{len} bytes in {seconds:.3} s, {rate:.0} MiB/s, on {}", queue.info());
    Ok(())
}

impl Copy {
    fn run(&mut self, queue: &mut Queue) -> Result<(), Box<dyn Error>> {
        let mut pieces: Vec<Piece> = Vec::new();
        for index in 0..DEPTH {
            let lease = queue.alloc(PIECE).ok_or("the arena is too small")?;
            pieces.push(Piece {
                lease,
                offset: 0,
                len: 0,
                writing: false,
            });
            self.read_next(queue, &mut pieces, index)?;
        }
        while !queue.is_idle() {
            queue.submit_and_wait(None)?;
            while let Some(done) = queue.next_completion() {
                done.result?;
                let index = u32::try_from(done.token.value())?;
                let piece = &mut pieces[index as usize];
                if piece.writing {
                    self.read_next(queue, &mut pieces, index)?;
                } else {
                    piece.writing = true;
                    let data = piece.lease.data().slice(0, piece.len);
                    let action = Action::Write {
                        offset: piece.offset,
                        data,
                        durable: false,
                    };
                    push(queue, index, self.to, action)?;
                }
            }
        }
        pieces.into_iter().for_each(|piece| queue.free(piece.lease));
        Ok(())
    }

    /// Starts the next piece in a free place, if there is any left.
    fn read_next(&mut self, queue: &mut Queue, pieces: &mut [Piece], index: u32) -> Result<(), Box<dyn Error>> {
        let piece = &mut pieces[index as usize];
        let left = self.len - self.next;
        if left == 0 {
            return Ok(());
        }
        piece.len = u32::try_from(left).unwrap_or(PIECE).min(PIECE);
        piece.offset = self.next;
        piece.writing = false;
        self.next += u64::from(piece.len);
        let data = piece.lease.data().slice(0, piece.len);
        push(
            queue,
            index,
            self.from,
            Action::Read {
                offset: piece.offset,
                data,
            },
        )
    }
}

fn push(queue: &mut Queue, index: u32, file: FileSlot, action: Action) -> Result<(), Box<dyn Error>> {
    let token = Token::new(Owner(0), u64::from(index));
    queue
        .push(Op { token, file, action })
        .map_err(|_| "the queue is full".into())
}
