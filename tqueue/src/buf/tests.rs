use super::*;

fn arena() -> Arena {
    Arena::new(1 << 20, 0, false).unwrap()
}

#[test]
fn leases_hold_the_length_asked_for() {
    let mut arena = arena();
    let lease = arena.alloc(5000).unwrap();
    assert_eq!(lease.len_bytes(), 5000);
    assert_eq!(arena.bytes_mut(lease.data()).unwrap().len(), 5000);
    assert_eq!(arena.address(arena.resolve(lease.data()).unwrap().1).addr() % 4096, 0);
    let past = Data {
        len: 5001,
        ..lease.data()
    };
    assert!(arena.bytes(past).is_none(), "the slack of the last page is not ours");
    arena.free(lease);
}

#[test]
fn held_memory_is_out_of_reach() {
    let mut arena = arena();
    let lease = arena.alloc(4096).unwrap();
    let (_, reads) = arena.hold(lease.data().slice(0, 10), Access::Reads).unwrap();
    assert!(arena.bytes(lease.data()).is_some() && arena.bytes_mut(lease.data()).is_none());
    let (_, fills) = arena.hold(lease.data().slice(20, 10), Access::Fills).unwrap();
    assert!(arena.bytes(lease.data()).is_none());
    arena.release(fills.unwrap());
    assert!(arena.bytes(lease.data()).is_some());
    arena.release(reads.unwrap());
    assert!(arena.bytes_mut(lease.data()).is_some());
    arena.free(lease);
}

#[test]
fn pages_given_back_early_are_free_only_after_the_last_hold() {
    let mut arena = arena();
    let before = arena.free_bytes();
    let lease = arena.alloc(4096).unwrap();
    let data = lease.data();
    let (_, held) = arena.hold(data, Access::Fills).unwrap();
    arena.free(lease);
    assert_eq!(arena.free_bytes(), before - 4096);
    assert!(arena.hold(data, Access::Reads).is_none(), "a zombie takes no new holds");
    arena.release(held.unwrap());
    assert_eq!(arena.free_bytes(), before);
}

#[test]
fn a_name_out_of_date_names_nothing() {
    let mut arena = arena();
    let old = arena.alloc(4096).unwrap();
    let data = old.data();
    arena.free(old);
    let new = arena.alloc(4096).unwrap();
    assert!(arena.bytes(data).is_none() && arena.bytes(new.data()).is_some());
    for home in [
        DataHome::Registered(0),
        DataHome::None,
        DataHome::Buffer(BufId(u32::MAX)),
    ] {
        assert!(
            arena
                .bytes(Data {
                    home,
                    offset: 0,
                    len: 1
                })
                .is_none()
        );
    }
    arena.free(new);
}

#[test]
fn short_leases_come_from_the_window() {
    let mut arena = Arena::new(48 << 20, 0, false).unwrap();
    let leases: Vec<Lease> = (0..256).map(|_| arena.alloc(16 << 10).unwrap()).collect();
    for lease in leases {
        assert!(arena.in_window(arena.resolve(lease.data()).unwrap().1));
        arena.free(lease);
    }
    let long = arena.alloc(32 << 20).unwrap();
    assert!(!arena.in_window(arena.resolve(long.data()).unwrap().1));
    arena.free(long);
}

#[test]
fn large_leases_have_pages_of_their_own() {
    let mut arena = Arena::new(1 << 20, 2 << 20, false).unwrap();
    let before = arena.free_bytes();
    let large = arena.alloc_large(2 << 20).unwrap();
    assert_eq!(arena.alloc_large(1), None);
    let leases: Vec<Lease> = std::iter::from_fn(|| arena.alloc(4096)).collect();
    assert_eq!(leases.len(), 256, "all of the rest, and nothing more");
    let runs = leases
        .iter()
        .chain([&large])
        .map(|lease| arena.resolve(lease.data()).unwrap().1);
    let mut runs: Vec<_> = runs.map(|run| (run.start(), u64::from(run.len()))).collect();
    runs.sort_unstable();
    assert!(
        runs.windows(2).all(|two| two[0].0 + two[0].1 == two[1].0),
        "they do not overlap"
    );
    leases.into_iter().chain([large]).for_each(|lease| arena.free(lease));
    assert_eq!((arena.free_bytes(), arena.largest_free_bytes()), (before, 2 << 20));
}

#[test]
fn a_foreign_lease_frees_nothing() {
    let mut arena = arena();
    let before = arena.free_bytes();
    arena.free(Lease::new(BufId(7), 4096));
    assert_eq!(arena.free_bytes(), before);
}

#[test]
fn all_of_the_arena_can_be_leased_and_comes_back() {
    let mut arena = arena();
    let before = arena.free_bytes();
    let leases: Vec<Lease> = std::iter::from_fn(|| arena.alloc(1)).collect();
    assert_eq!(leases.len() as u64, before / 4096);
    assert!(arena.take_starved() && !arena.take_starved());
    leases.into_iter().for_each(|lease| arena.free(lease));
    assert_eq!(arena.largest_free_bytes(), 1 << 20, "merged again");
}
