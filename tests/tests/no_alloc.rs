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
const WRITE_ZEROES: u16 = 6;

#[test]
fn hooks_no_request_allocates() {
    OURS.set(true);
    for image in ["a.img", "a.vhd"] {
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
        let mut client = Client::connect(&socket);
        // Whatever is made on first use (a thread's locals, say) is made now.
        client.load(2_000, 1);
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        client.load(REQUESTS, 2);
        let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
        println!("{image}: {allocations} allocations in {REQUESTS} requests");
        assert_eq!(allocations, 0);
        drop(client);
        server.stop().unwrap();
    }
}

/// An NBD client that keeps many requests of all sorts in flight.
struct Client(UnixStream);

impl Client {
    fn connect(socket: &Path) -> Self {
        let mut stream = UnixStream::connect(socket).unwrap();
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).unwrap();
        // Fixed newstyle without the 124 zeros; then EXPORT_NAME with the default name.
        stream.write_all(&3u32.to_be_bytes()).unwrap();
        stream.write_all(b"IHAVEOPT").unwrap();
        stream
            .write_all(&[1u32.to_be_bytes(), 0u32.to_be_bytes()].concat())
            .unwrap();
        let mut export = [0; 10];
        stream.read_exact(&mut export).unwrap();
        assert_eq!(u64::from_be_bytes(export[..8].try_into().unwrap()), SIZE_BYTES);
        Self(stream)
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
            92..96 => (TRIM, 0),
            _ => (WRITE_ZEROES, 0),
        };
        // A flush has no range; a trim now and then covers whole blocks, which are freed and allocated again.
        let (offset, len) = match command {
            FLUSH => (0, 0),
            TRIM if random.bool() => (offset >> 21 << 21, 2 << 20),
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
        self.0.write_all(&request).unwrap();
        if command == READ {
            usize::try_from(len).unwrap()
        } else {
            0
        }
    }

    fn receive(&mut self, flights: &[usize]) -> u64 {
        let mut reply = [0; 16];
        self.0.read_exact(&mut reply).unwrap();
        assert_eq!(reply[..4], 0x6744_6698u32.to_be_bytes());
        assert_eq!(reply[4..8], [0; 4], "no request fails");
        let handle = u64::from_be_bytes(reply[8..].try_into().unwrap());
        let mut data = vec![0; flights[usize::try_from(handle).unwrap()]];
        self.0.read_exact(&mut data).unwrap();
        handle
    }
}
