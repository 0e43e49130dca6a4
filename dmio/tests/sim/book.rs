//! What was asked for, and what was told of it.

use std::collections::HashMap;

use dmio::{AlignedBuf, Buffers, Handle, Memory, RequestId};
use fastrand::Rng;
use iomgr_core::{Lease, Operation};

use crate::oracle::{CANARY, Oracle, WriteId};

/// The name of a request, given before the client has one for it.
pub(crate) type Key = u64;

/// A region of a request.
#[derive(Clone, Debug)]
pub(crate) struct Leg {
    pub(crate) disk: usize,
    pub(crate) first: u64,
    pub(crate) write: Option<WriteId>,
    pub(crate) is_timed_out: bool,
    pub(crate) is_over: bool,
    /// A late answer was told.
    pub(crate) is_late: bool,
}

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) op: Operation,
    /// It is to survive a power cut.
    pub(crate) is_fua: bool,
    pub(crate) started: u64,
    pub(crate) legs: Vec<Leg>,
    /// What a read's memory had in it before.
    pub(crate) filling: u8,
    /// Some region was read.
    pub(crate) is_read: Option<usize>,
    pub(crate) is_done: bool,
    /// Its memory comes back with the call.
    pub(crate) is_sync: bool,
    /// Cancelled from outside a pass: it has to be told in the next one.
    pub(crate) is_due: bool,
}

/// Everything that notifications and the player share.
pub(crate) struct Book {
    pub(crate) rng: Rng,
    pub(crate) oracle: Oracle,
    pub(crate) asked: HashMap<Key, Asked>,
    pub(crate) names: HashMap<RequestId, Key>,
    pub(crate) handles: Vec<(Key, Handle)>,
    /// Memory that came back, full of canaries.
    pub(crate) canaries: Vec<Memory>,
    /// Which disk each device number has.
    pub(crate) disks: Vec<usize>,
    /// Leases that keep the pool small.
    pub(crate) hoard: Vec<Lease>,
    pub(crate) keys: Key,
    /// One write in so many is to be durable; none, if 0.
    pub(crate) fua_every: u8,
    /// Notifications start nothing any more.
    pub(crate) is_ending: bool,
    pub(crate) told: u64,
}

impl Book {
    pub(crate) fn new(mut rng: Rng, disks: Vec<usize>) -> Self {
        Self {
            // An error makes such a write a device's last.
            fua_every: *rng.choice(&[0, 3, 20]).unwrap(),
            rng,
            oracle: Oracle::default(),
            asked: HashMap::new(),
            names: HashMap::new(),
            handles: Vec::new(),
            canaries: Vec::new(),
            disks,
            hoard: Vec::new(),
            keys: 0,
            is_ending: false,
            told: 0,
        }
    }

    /// The request behind a key.
    pub(crate) fn asked(&mut self, key: Key) -> &mut Asked {
        self.asked.get_mut(&key).expect("it was asked for")
    }

    /// Requests that have not ended.
    pub(crate) fn running(&self) -> usize {
        self.asked.values().filter(|asked| !asked.is_done).count()
    }
}

/// The bytes of memory that is not the pool's, one behind the other, without what is left out.
pub(crate) fn bytes(memory: &Memory) -> Vec<u8> {
    fn join<B: std::ops::Deref<Target = [u8]>>(buffers: &Buffers<B>) -> Vec<u8> {
        match buffers {
            Buffers::One(one) => one.to_vec(),
            Buffers::Vector(parts) => parts.iter().flat_map(|part| part.to_vec()).collect(),
            Buffers::Pages { pages, offset } => pages.iter().flat_map(|part| part.to_vec()).skip(*offset).collect(),
        }
    }
    match memory {
        Memory::Bounce(buffers) => join(buffers),
        Memory::Owned(buffers) => join(buffers),
        Memory::None | Memory::Pool(_) => Vec::new(),
    }
}

/// Puts canaries into it.
pub(crate) fn poison(memory: &mut Memory) {
    fn fill<B: std::ops::DerefMut<Target = [u8]>>(buffers: &mut Buffers<B>) {
        match buffers {
            Buffers::One(one) => one.fill(CANARY),
            Buffers::Vector(parts) | Buffers::Pages { pages: parts, .. } => {
                parts.iter_mut().for_each(|part| part.fill(CANARY));
            }
        }
    }
    match memory {
        Memory::Bounce(buffers) => fill(buffers),
        Memory::Owned(buffers) => fill(buffers),
        Memory::None | Memory::Pool(_) => {}
    }
}

/// `bytes` as bounce memory of a random shape.
pub(crate) fn bounce(rng: &mut Rng, bytes: &[u8]) -> Memory {
    let cut = rng.usize(..=bytes.len());
    Memory::Bounce(match rng.u8(..3) {
        0 => Buffers::One(bytes.to_vec()),
        1 => Buffers::Vector(vec![bytes[..cut].to_vec(), bytes[cut..].to_vec()]),
        _ => {
            let offset = rng.usize(..600);
            let first = [&vec![0; offset], &bytes[..cut]].concat();
            Buffers::Pages {
                pages: vec![first, bytes[cut..].to_vec()],
                offset,
            }
        }
    })
}

/// `bytes`, whole sectors, as owned memory of a random shape.
pub(crate) fn owned(rng: &mut Rng, bytes: &[u8]) -> Memory {
    let buf = |bytes: &[u8]| AlignedBuf::copied_from(bytes).unwrap();
    let sectors = bytes.len() / 512;
    let cut = rng.usize(..sectors) * 512;
    Memory::Owned(match rng.u8(..3) {
        1 if cut > 0 => Buffers::Vector(vec![buf(&bytes[..cut]), buf(&bytes[cut..])]),
        2 => {
            let first = [&[0; 512], &bytes[..cut]].concat();
            Buffers::Pages {
                pages: vec![buf(&first), buf(&bytes[cut..])],
                offset: 512,
            }
        }
        _ => Buffers::One(buf(bytes)),
    })
}
