//! The data path allocates nothing: 100 000 requests through server, hooks, map and queue, and not one allocation on the
//! server's threads.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "tests")]
#![allow(
    unsafe_code,
    reason = "an allocator can only be watched from within: `GlobalAlloc` is an unsafe trait"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use iomgr_tests::TempDir;
use vbd::{CreateOptions, Disk, DiskOptions, Server, ServerOptions, create};

/// Allocations of all threads but the test's own.
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Is this a thread of the test, whose allocations are nobody's business?
    static OURS: Cell<bool> = const { Cell::new(false) };
}

struct Counting;

fn count() {
    // A thread that is ending has no locals any more; it is none of ours.
    if !OURS.try_with(Cell::get).unwrap_or(false) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every method hands its arguments to the system's allocator as they are, and returns what that returns.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract, and `ptr` came from the system's allocator.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps `realloc`'s contract, and `ptr` came from the system's allocator.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SIZE_BYTES: u64 = 256 << 20;
const REQUESTS: u64 = 100_000;
const DEPTH: u64 = 64;
const READ: u16 = 0;
const WRITE: u16 = 1;
const FLUSH: u16 = 3;
const TRIM: u16 = 4;
const CACHE: u16 = 5;
const WRITE_ZEROES: u16 = 6;
const BLOCK_STATUS: u16 = 7;

#[test]
fn hooks_no_request_allocates() {
    OURS.set(true);
    for image in ["a.img", "a.vhd"] {
        for structured in [false, true] {
            let allocations = allocations(image, structured);
            println!("{image}, structured {structured}: {allocations} allocations in {REQUESTS} requests");
            assert_eq!(allocations, 0);
        }
    }
}

/// Allocations of a server under load.
fn allocations(image: &str, structured: bool) -> u64 {
    let dir = TempDir::new();
    let (path, socket) = (dir.join(image), dir.join("nbd"));
    create(&path, &CreateOptions::new(SIZE_BYTES)).unwrap();
    let disk = Disk::open(&path, &DiskOptions::default()).unwrap();
    let options = ServerOptions {
        socket: Some(socket.clone()),
        control: Some(dir.join("control")),
        threads: 2,
        ..ServerOptions::default()
    };
    let server = Server::start(disk, &options).unwrap();
    let mut client = Client::connect(&socket, structured);
    // Whatever is made on first use (a thread's locals, say) is made now.
    client.load(2_000, 1);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    client.load(REQUESTS, 2);
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
    drop(client);
    server.stop().unwrap();
    allocations
}

/// An NBD client that keeps many requests of all sorts in flight.
struct Client {
    stream: UnixStream,
    /// Replies come in chunks.
    structured: bool,
}

impl Client {
    fn connect(socket: &Path, structured: bool) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        let mut client = Self { stream, structured };
        client.receive_exact::<18>();
        // Fixed newstyle without the 124 zeros; then EXPORT_NAME with the default name.
        client.stream.write_all(&3u32.to_be_bytes()).unwrap();
        if structured {
            client.option(8, b"");
            client.receive_exact::<20>();
            client.option(10, b"\0\0\0\0\0\0\0\x01\0\0\0\x0fbase:allocation");
            client.receive_exact::<{ 20 + 4 + 15 + 20 }>();
        }
        client.option(1, b"");
        let export = client.receive_exact::<10>();
        assert_eq!(u64::from_be_bytes(export[..8].try_into().unwrap()), SIZE_BYTES);
        client
    }

    fn option(&mut self, option: u32, data: &[u8]) {
        let len = u32::try_from(data.len()).unwrap();
        let numbers = [option.to_be_bytes(), len.to_be_bytes()].concat();
        self.stream
            .write_all(&[b"IHAVEOPT", &numbers[..], data].concat())
            .unwrap();
    }

    fn receive_exact<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Sends `requests`, at most [`DEPTH`] in flight; each reply must be a success.
    fn load(&mut self, requests: u64, seed: u64) {
        let mut random = fastrand::Rng::with_seed(seed);
        let index = |handle: u64| usize::try_from(handle).unwrap();
        let mut flights = vec![0usize; index(DEPTH)];
        let mut free: Vec<u64> = (0..DEPTH).collect();
        let (mut sent, mut ended) = (0, 0);
        while ended < requests {
            while sent < requests
                && let Some(handle) = free.pop()
            {
                flights[index(handle)] = self.send(&mut random, handle);
                sent += 1;
            }
            let handle = self.receive(&flights);
            free.push(handle);
            ended += 1;
        }
    }

    /// Sends one random request; says how many bytes its reply carries.
    fn send(&mut self, random: &mut fastrand::Rng, handle: u64) -> usize {
        let len = 512 << random.u32(0..8);
        let offset = random.u64(0..(SIZE_BYTES - len) / 512) * 512;
        let (command, flags) = match random.u8(0..100) {
            0..50 => (READ, 0),
            50..90 => (WRITE, u16::from(random.u8(..) < 8)),
            90..92 => (FLUSH, 0),
            92..95 => (TRIM, 0),
            95..97 => (WRITE_ZEROES, 0),
            97..98 => (CACHE, 0),
            _ if self.structured => (BLOCK_STATUS, 0),
            _ => (CACHE, 0),
        };
        // A flush has no range; a trim now and then covers whole blocks, which are freed and allocated again.
        let (offset, len) = match command {
            FLUSH => (0, 0),
            TRIM if random.bool() => (offset >> 21 << 21, 2 << 20),
            BLOCK_STATUS => (0, SIZE_BYTES),
            _ => (offset, len),
        };
        let mut request = Vec::with_capacity(28 + 65536);
        request.extend_from_slice(&0x2560_9513u32.to_be_bytes());
        request.extend_from_slice(&flags.to_be_bytes());
        request.extend_from_slice(&command.to_be_bytes());
        request.extend_from_slice(&handle.to_be_bytes());
        request.extend_from_slice(&offset.to_be_bytes());
        request.extend_from_slice(&u32::try_from(len).unwrap().to_be_bytes());
        if command == WRITE {
            request.resize(28 + usize::try_from(len).unwrap(), 0xA5);
        }
        self.stream.write_all(&request).unwrap();
        if command == READ {
            usize::try_from(len).unwrap()
        } else {
            0
        }
    }

    /// Takes a reply; whose it is.
    fn receive(&mut self, flights: &[usize]) -> u64 {
        if self.structured {
            return self.receive_chunks(flights);
        }
        let reply = self.receive_exact::<16>();
        assert_eq!(reply[..4], 0x6744_6698u32.to_be_bytes());
        assert_eq!(reply[4..8], [0; 4], "no request fails");
        let handle = u64::from_be_bytes(reply[8..].try_into().unwrap());
        self.skip(flights[usize::try_from(handle).unwrap()]);
        handle
    }

    fn receive_chunks(&mut self, flights: &[usize]) -> u64 {
        let mut read = 0;
        loop {
            let chunk = self.receive_exact::<20>();
            assert_eq!(chunk[..4], 0x668e_33efu32.to_be_bytes());
            let handle = u64::from_be_bytes(chunk[8..16].try_into().unwrap());
            let len = u32::from_be_bytes(chunk[16..].try_into().unwrap()) as usize;
            match chunk[6..8] {
                [0, 1] => {
                    self.skip(len);
                    read += len - 8;
                }
                [0, 2] => {
                    let hole = self.receive_exact::<12>();
                    read += u32::from_be_bytes(hole[8..].try_into().unwrap()) as usize;
                }
                [0, 0 | 5] => self.skip(len),
                ref kind => panic!("no request fails: {kind:?}"),
            }
            if chunk[5] & 1 == 1 {
                assert_eq!(read, flights[usize::try_from(handle).unwrap()]);
                return handle;
            }
        }
    }

    fn skip(&mut self, len: usize) {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).unwrap();
    }
}
