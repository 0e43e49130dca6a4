use std::time::Duration;

use iomgr_core::{Action, Data, DataHome, Op, OpQueue, Owner, Token};

use super::*;
use crate::buf::Access;

fn arena() -> Arena {
    Arena::new(1 << 20, 0, false).unwrap().with_places(2)
}

fn buf(len: u32, byte: u8) -> AlignedBuf {
    let mut buf = AlignedBuf::new(len).unwrap();
    buf.fill(byte);
    buf
}

#[test]
fn a_buffer_works_like_a_lease_and_comes_back() {
    let mut arena = arena();
    let free = arena.free_bytes();
    let lease = arena.lend(buf(5000, 7)).unwrap();
    assert_eq!(lease.len_bytes(), 5000);
    assert_eq!(arena.bytes(lease.data()), Some(&[7; 5000][..]));
    arena.bytes_mut(lease.data().slice(4999, 1)).unwrap()[0] = 8;
    assert!(arena.fill_zeros(lease.data().slice(0, 10)));
    assert!(
        arena
            .bytes(Data {
                len: 5001,
                ..lease.data()
            })
            .is_none()
    );
    let back = arena.take_back(lease).unwrap();
    assert_eq!((back[9], back[10], back[4999]), (0, 7, 8));
    assert_eq!(arena.free_bytes(), free, "no page of the arena's was taken");
}

#[test]
fn a_buffer_stays_while_an_op_holds_it() {
    let mut arena = arena();
    let lease = arena.lend(buf(4096, 1)).unwrap();
    for access in [Access::Reads, Access::Fills] {
        let (_, held) = arena.hold(lease.data().slice(0, 512), access).unwrap();
        assert!(arena.bytes_mut(lease.data()).is_none());
        let lease = arena.take_back(Lease::new(lease.id(), 4096)).unwrap_err();
        arena.release(held.unwrap());
        assert!(arena.bytes_mut(lease.data()).is_some());
    }
    assert_eq!(arena.take_back(lease).unwrap().len(), 4096);
}

#[test]
fn a_buffer_given_up_while_it_is_held_goes_with_the_last_hold() {
    let mut arena = arena();
    let lease = arena.lend(buf(4096, 1)).unwrap();
    let data = lease.data();
    let (run, held) = arena.hold(data, Access::Reads).unwrap();
    arena.free(lease);
    assert!(arena.hold(data, Access::Reads).is_none() && arena.bytes(data).is_none());
    assert!(arena.take_back(Lease::new(BufId(0), 1)).is_err());
    assert_eq!(arena.run(run), [1; 4096], "the op's memory is still there");
    arena.release(held.unwrap());
    let places: Vec<_> = (0..3).map(|_| arena.lend(buf(1, 0))).collect();
    assert_eq!(
        places.iter().filter(|place| place.is_ok()).count(),
        2,
        "its place is free"
    );
}

#[test]
fn an_old_name_is_not_the_next_buffers() {
    let mut arena = arena();
    let lease = arena.lend(buf(4096, 1)).unwrap();
    let (old, data) = (lease.id(), lease.data());
    arena.take_back(lease).unwrap();
    let next = arena.lend(buf(4096, 2)).unwrap();
    assert!(arena.bytes(data).is_none() && arena.bytes(next.data()).is_some());
    assert!(arena.take_back(Lease::new(old, 4096)).is_err());
    assert_eq!(*arena.take_back(next).unwrap(), [2; 4096]);
}

#[test]
fn full_places_and_leases_of_the_arena_are_handed_back() {
    let mut arena = arena();
    let leases = [1, 2].map(|byte| arena.lend(buf(512, byte)).unwrap());
    assert_eq!(*arena.lend(buf(512, 3)).unwrap_err(), [3; 512]);
    let own = arena.alloc(4096).unwrap();
    let own = arena.take_back(own).unwrap_err();
    arena.free(own);
    let gone = Data {
        home: DataHome::Buffer(BufId(u32::MAX)),
        ..leases[0].data()
    };
    assert!(arena.bytes(gone).is_none());
}

#[test]
fn runs_of_places_meet_nothing_and_are_not_registered() {
    let mut arena = Arena::new(1 << 20, 0, false).unwrap().with_places(PLACES_MAX);
    let leases: Vec<_> = (0..PLACES_MAX).map(|_| arena.lend(buf(4096, 0)).unwrap()).collect();
    let runs: Vec<_> = leases
        .iter()
        .map(|lease| arena.resolve(lease.data()).unwrap().1)
        .collect();
    for two in runs.windows(2) {
        assert!(!two[0].overlaps(two[1]) && two[0].joined(two[1]).is_none() && two[1].joined(two[0]).is_none());
    }
    for run in runs {
        assert!(!arena.in_window(run) && !run.overlaps(arena.zeros()));
        assert_eq!(arena.address(run).addr() % 4096, 0);
        assert_eq!(arena.address(run.skip(100)).addr(), arena.address(run).addr() + 100);
    }
}

#[test]
fn a_leaking_arena_frees_no_buffer() {
    let mut arena = arena();
    let lease = arena.lend(buf(4096, 9)).unwrap();
    let (run, _held) = arena.hold(lease.data(), Access::Fills).unwrap();
    let address = arena.address(run);
    arena.leak();
    drop(arena);
    // SAFETY: it was leaked, so it is there for good, and nothing writes to it.
    assert_eq!(unsafe { address.read() }, 9);
}

#[test]
fn a_queue_dropped_while_the_disk_is_at_a_buffer_leaks_it() {
    let machine = crate::sim::SimHandle::new(crate::sim::SimConfig::calm(3));
    let disk = machine.create_block_device(1 << 20);
    let config = crate::Config {
        engine: crate::EngineKind::Sim(machine),
        lent: 1,
        drain_max: Duration::from_secs(1),
        ..crate::Config::default()
    };
    let mut queue = crate::Queue::new(&config).unwrap();
    let file = queue.add_file(&disk.handle()).unwrap();
    let lease = queue.lend(buf(4096, 5)).unwrap();
    let address = queue.address(lease.data()).unwrap();
    let (token, data) = (Token::new(Owner(0), 1), lease.data());
    let action = Action::Read { offset: 0, data };
    disk.stall();
    queue.push(Op { token, file, action }).unwrap();
    queue.submit().unwrap();
    drop(queue);
    let memory = std::ptr::with_exposed_provenance::<u8>(usize::try_from(address).unwrap());
    // SAFETY: it was leaked, so it is there for good; the machine is gone.
    assert_eq!(unsafe { memory.read() }, 5);
}
