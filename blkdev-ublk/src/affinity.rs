//! Where queue threads run: on the processors whose requests the kernel sends to their queue.

use iomgr_core::Errno;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Of the kernel's map of processors, of which no configuration has more than 8192.
pub(crate) const AFFINITY_BYTES: usize = 1024;

/// The map as the kernel tells it: a bit for each processor, in its `long`s.
pub(crate) fn parse(map: &[u8; AFFINITY_BYTES]) -> CpuSet {
    let mut cpus = CpuSet::new();
    for (word, bytes) in map.chunks_exact(size_of::<usize>()).enumerate() {
        let bits = usize::from_ne_bytes(bytes.try_into().expect("chunks are exact"));
        let set = (0..usize::BITS as usize).filter(|bit| bits >> bit & 1 == 1);
        set.map(|bit| word * usize::BITS as usize + bit)
            .filter(|&cpu| cpu < CpuSet::MAX_CPU)
            .for_each(|cpu| cpus.set(cpu));
    }
    cpus
}

/// Keeps the calling thread to those of `cpus` that it may run on; if that is none of them, it stays where it is.
pub(crate) fn keep_to(cpus: &CpuSet) -> Result<(), Errno> {
    let allowed = sched_getaffinity(None)?;
    let mut chosen = CpuSet::new();
    (0..CpuSet::MAX_CPU)
        .filter(|&cpu| allowed.is_set(cpu) && cpus.is_set(cpu))
        .for_each(|cpu| chosen.set(cpu));
    match chosen.count() {
        0 => Ok(()),
        _ => sched_setaffinity(None, &chosen),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(cpus: &[usize]) -> CpuSet {
        let mut set = CpuSet::new();
        cpus.iter().for_each(|&cpu| set.set(cpu));
        set
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn the_map_is_read_bit_by_bit() {
        let mut map = [0; AFFINITY_BYTES];
        (map[0], map[9], map[AFFINITY_BYTES - 1]) = (0b101, 0x80, 0xff);
        assert_eq!(parse(&map), set(&[0, 2, 79]));
        assert_eq!(parse(&[0; AFFINITY_BYTES]), set(&[]));
    }

    /// `taskset` and the container have the last word.
    #[test]
    fn nobody_runs_where_he_may_not() {
        let allowed = sched_getaffinity(None).unwrap();
        keep_to(&set(&[CpuSet::MAX_CPU - 1])).unwrap();
        assert_eq!(sched_getaffinity(None).unwrap(), allowed);
        let last = (0..CpuSet::MAX_CPU).rfind(|&cpu| allowed.is_set(cpu)).unwrap();
        keep_to(&set(&[last, CpuSet::MAX_CPU - 1])).unwrap();
        assert_eq!(sched_getaffinity(None).unwrap(), set(&[last]));
        sched_setaffinity(None, &allowed).unwrap();
    }
}
