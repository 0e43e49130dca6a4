//! Everything at once: too little memory, too few slots, and clients that ask for anything and go at any moment.

use std::io::{Read as _, Write as _};
use std::thread;
use std::time::Duration;

use blkdev_nbd::proto::{CommandHeader, CommandType};
use blkdev_nbd::test_utils::MemDevice;

use crate::client::{Client, header, pattern};
use crate::server::{MIB, TestServer};

/// A generator that needs no crate: xorshift.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    fn command(&mut self) -> CommandHeader {
        use CommandType::{BlockStatus, Cache, Flush, Read, Trim, Write, WriteZeroes};
        let kinds = [
            Read,
            Read,
            Read,
            Write,
            Write,
            Trim,
            WriteZeroes,
            Cache,
            Flush,
            BlockStatus,
        ];
        let kind = kinds[usize::try_from(self.below(10)).unwrap()];
        let lens = [512, 4096, 65536, 65536 + 512, 300 << 10, MIB, 2 * MIB, 4 * MIB];
        let len = lens[usize::try_from(self.below(8)).unwrap()];
        match kind {
            Flush => header(kind, 1, 0, 0),
            _ => header(kind, 1, self.below(8) << 19, len),
        }
    }

    /// Says some things, hears some of what it is told, and goes.
    fn visit(&mut self, client: &mut Client) -> std::io::Result<()> {
        let zeros = vec![self.below(256).to_le_bytes()[0]; 4 << 20];
        for _ in 0..self.below(12) {
            let command = self.command();
            client.stream.write_all(&command.emit())?;
            let payload = &zeros[..command.payload_len() as usize];
            let said = match self.below(8) {
                0 => &payload[..payload.len() / 2],
                _ => payload,
            };
            client.stream.write_all(said)?;
            if said.len() < payload.len() {
                break;
            }
        }
        let heard = self.below(3) * self.below(3 << 20);
        (&mut client.stream).take(heard).read_to_end(&mut Vec::new())?;
        Ok(())
    }
}

#[test]
fn clients_that_do_anything_and_go_leave_all_of_the_memory_behind() {
    let soon = Some(Duration::from_millis(20));
    let server = TestServer::with(MemDevice::new("disk", 8 << 20), |config| {
        config.queue.arena_bytes = 3 << 20;
        config.depth = 3;
        // However late the server hears that they went.
        config.limits.connections = 8 * 60 + 1;
        config.limits.in_flight = 5;
        config.limits.stall_timeout = Duration::from_millis(50);
    });
    let visitor = |seed: u64| {
        let mut dice = Dice(seed);
        let server = &server;
        move || {
            for _ in 0..60 {
                let mut client = match dice.below(2) {
                    0 => server.client(),
                    _ => server.structured_client(),
                };
                client.set_patience(soon);
                if dice.below(8) == 0 {
                    server.device.hold();
                }
                // It may be dropped, or lose its patience.
                let _any_end = dice.visit(&mut client);
                server.device.release();
            }
        }
    };
    thread::scope(|scope| {
        for seed in 1..9 {
            scope.spawn(visitor(seed * 7919));
        }
    });
    let mut client = server.client();
    let bytes = pattern(2 * MIB, 3);
    client.write(0, &bytes);
    assert!(client.read(0, 2 * MIB) == bytes, "the largest payload finds room");
    server.stop();
}
