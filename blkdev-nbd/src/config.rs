//! How a server is made, and the numbers that follow from it.

use std::sync::Arc;
use std::time::Duration;

use iomgr_core::Waker;
use tqueue::Watchdog;

use crate::proto::{Handshake, PAYLOAD_BYTES_MAX};
use crate::{Error, ErrorKind, Export, Listener};

/// What to serve, to whom, with how much.
#[derive(Debug)]
pub struct ServerConfig {
    /// Where clients connect, one place at least.
    pub listeners: Vec<Listener>,
    /// What they find. The first is the default export.
    pub exports: Vec<Export>,
    /// Room for exports that are attached later, besides those.
    pub spare_exports: u16,
    /// Threads, each with a queue of its own; connections are dealt among them.
    pub threads: u16,
    /// Requests outstanding on each export and thread, those that wait for their turn included. So many if they are all of
    /// one class, and a few more otherwise: what a manager holds of one class leaves room for the others.
    pub depth: u32,
    /// The queue of each thread. Its arena is for payloads of up to 1 MiB; room for longer ones and for the connections is
    /// added. All of it is address space until it is used.
    pub queue: tqueue::Config,
    /// Bounds on what clients may take.
    pub limits: ConnectionLimits,
    /// Woken when a thread has ended although nobody stopped the server ([`Server::failed`](crate::Server::failed)).
    pub on_failure: Waker,
    /// Who tells of managers' hooks that do not return; the server has one of its own if not given.
    pub watchdog: Option<Arc<Watchdog>>,
}

impl ServerConfig {
    /// One listener, one thread, 128 requests outstanding, and everything else as by default.
    pub fn new(listener: impl Into<Listener>, exports: Vec<Export>) -> Self {
        Self {
            listeners: vec![listener.into()],
            exports,
            spare_exports: 64,
            threads: 1,
            depth: 128,
            queue: tqueue::Config::default(),
            limits: ConnectionLimits::default(),
            on_failure: Waker::none(),
            watchdog: None,
        }
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let bad = |text: &str| Err(Error::new(ErrorKind::Config, text));
        if self.exports.is_empty() {
            return bad("there is no export");
        }
        if self.exports_max() > EXPORTS_MAX {
            return bad("a server has room for at most 32768 exports");
        }
        if self.listeners.is_empty() || self.listeners.len() > LISTENERS_MAX {
            return bad("a server has 1 to 64 listeners");
        }
        if self.threads == 0 || self.threads > 64 {
            return bad("a server has 1 to 64 threads");
        }
        if !(1..=4096).contains(&self.depth) {
            return bad("the depth is 1 to 4096");
        }
        if !(1..=4000).contains(&self.limits.connections) {
            return bad("a server takes 1 to 4000 connections");
        }
        if !(1..=4096).contains(&self.limits.in_flight) {
            return bad("a connection has 1 to 4096 requests in flight");
        }
        let times = [self.limits.handshake_timeout, self.limits.stall_timeout];
        if times
            .into_iter()
            .chain(self.limits.idle_timeout)
            .any(|time| time.is_zero())
        {
            return bad("a timeout is longer than nothing");
        }
        Ok(())
    }

    /// Exports at the same time.
    pub(crate) fn exports_max(&self) -> usize {
        self.exports.len() + usize::from(self.spare_exports)
    }

    /// Connections that one thread has room for.
    pub(crate) fn connections_per_thread(&self) -> u32 {
        self.limits.connections.div_ceil(u32::from(self.threads))
    }

    /// The queue of one thread. Added are room for long payloads, and for each connection its buffers, a receive and a send,
    /// a file; and for the listeners, the waker and timers.
    pub(crate) fn queue_config(&self) -> tqueue::Config {
        let connections = self.connections_per_thread();
        let listeners = u32::try_from(self.listeners.len()).expect("there are few");
        let long = self.payload_max() as usize;
        let mut queue = self.queue.clone();
        queue.large_bytes = long + connections as usize * CONNECTION_BYTES as usize;
        queue.net_ops = queue.net_ops.max(2 * connections + listeners + 8);
        queue.sends = queue.sends.max(connections);
        queue.files = queue.files.saturating_add(connections + listeners + 1);
        queue
    }

    /// How the memory for payloads is divided.
    pub(crate) fn memory_sizes(&self) -> MemorySizes {
        let long_bytes = u64::from(self.payload_max());
        let short_bytes = self.queue.arena_bytes as u64;
        let short_max = 1 << (short_bytes / 8).clamp(4096, SHORT_BYTES_MAX).ilog2();
        MemorySizes {
            short_bytes,
            long_bytes,
            short_max,
        }
    }

    /// The largest payload: two thirds of the arena at most, and a power of two.
    pub(crate) fn payload_max(&self) -> u32 {
        let arena = self.queue.arena_bytes as u64;
        let whole = 1 << arena.max(2).ilog2();
        let largest = if arena - whole >= whole / 2 { whole } else { whole / 2 };
        u32::try_from(largest).map_or(PAYLOAD_BYTES_MAX, |largest| largest.min(PAYLOAD_BYTES_MAX))
    }
}

/// Bytes for payloads on one thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MemorySizes {
    /// For all short payloads.
    pub(crate) short_bytes: u64,
    /// For all long ones.
    pub(crate) long_bytes: u64,
    /// The longest payload that is short.
    pub(crate) short_max: u32,
}

/// Bounds on what clients may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Connections at the same time; one more is closed at once.
    pub connections: u32,
    /// Commands of one connection that are not answered yet; beyond, nothing is received from it.
    pub in_flight: u32,
    /// How long a client may take from connecting to choosing an export, whatever it says meanwhile.
    pub handshake_timeout: Duration,
    /// How long a client may ask for nothing; `None` for as long as it likes.
    pub idle_timeout: Option<Duration>,
    /// How long others wait for memory that a client holds without moving: one that takes longer than this to send a payload
    /// or to take its replies is dropped once somebody has waited that long.
    pub stall_timeout: Duration,
    /// How long a server that stops waits for clients to take their replies.
    pub stop_timeout: Duration,
}

impl Default for ConnectionLimits {
    /// 64 connections, 128 commands in flight on each; 10 seconds for the handshake, 30 to move on, 10 to stop.
    fn default() -> Self {
        Self {
            connections: 64,
            in_flight: 128,
            handshake_timeout: Duration::from_secs(10),
            idle_timeout: None,
            stall_timeout: Duration::from_secs(30),
            stop_timeout: Duration::from_secs(10),
        }
    }
}

/// Exports at the same time: each needs the number of an owner.
const EXPORTS_MAX: usize = 32768;
/// Places where clients connect.
const LISTENERS_MAX: usize = 64;
/// Bytes that one receive may bring. Holds the longest option and some 15 writes of 4 KiB.
pub(crate) const STAGING_BYTES: u32 = 64 << 10;
/// Room for what is written in front of data: reply headers, or messages of the handshake.
pub(crate) const HEADER_BYTES: u32 = 16 << 10;
/// What a unix client's socket is asked to hold of unread replies (`SO_SNDBUF`, which Linux doubles for its own needs): some 60 of
/// 4 KiB. More than a quarter of that unread, and the client is behind.
pub(crate) const SEND_BUFFER_BYTES: usize = 160 << 10;
/// A payload that a connection can always have. Most are no longer.
pub(crate) const SPARE_BYTES: u32 = 64 << 10;
/// The buffers of a connection. They are address space, and memory only as far as they have ever been used.
const CONNECTION_BYTES: u32 = STAGING_BYTES + HEADER_BYTES + SPARE_BYTES;
/// Payloads that clients send one of at a time; longer ones are rare and may take their time.
const SHORT_BYTES_MAX: u64 = 1 << 20;
const _: () = assert!(HEADER_BYTES as usize >= Handshake::OUTPUT_BYTES);
const _: () = assert!(STAGING_BYTES as usize >= Handshake::INPUT_BYTES);
