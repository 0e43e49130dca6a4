use proptest::prelude::*;
use tqueue::{Config, EngineKind};

use super::*;

const KIB: u32 = 1 << 10;
const MIB: u32 = 1 << 20;
const NOW: Timestamp = Timestamp::ZERO;
const SIZES: MemorySizes = MemorySizes {
    short_bytes: 2 << 20,
    long_bytes: 8 << 20,
    short_max: 256 << 10,
};

/// Memory for 5 connections, each behind the queue that it is from.
fn memory() -> (Queue, Memory) {
    let config = Config {
        arena_bytes: 2 << 20,
        large_bytes: (8 << 20) + 5 * SPARE_BYTES as usize,
        engine: EngineKind::Sync,
        ..Config::default()
    };
    let mut queue = Queue::new(&config).unwrap();
    let memory = Memory::new(&mut queue, &SIZES, 5).unwrap();
    (queue, memory)
}

/// All that a connection gets when it takes and takes.
fn grab(queue: &mut Queue, memory: &mut Memory, conn: u32, len: u32) -> Vec<Lease> {
    let leases = std::iter::from_fn(|| memory.lease(queue, conn, len, NOW)).collect();
    memory.leave(conn);
    leases
}

fn give(queue: &mut Queue, memory: &mut Memory, conn: u32, leases: Vec<Lease>) {
    leases.into_iter().for_each(|lease| memory.free(queue, conn, lease));
}

#[test]
fn a_hog_leaves_as_much_as_it_takes() {
    let (mut queue, mut memory) = memory();
    let hog = grab(&mut queue, &mut memory, 0, 128 * KIB);
    assert_eq!((hog.len(), memory.held(0, Class::Short)), (8, 1 << 20));
    let other = grab(&mut queue, &mut memory, 1, 128 * KIB);
    assert_eq!(other.len(), 4, "half of what is left");
    give(&mut queue, &mut memory, 0, hog);
    assert_eq!(
        grab(&mut queue, &mut memory, 1, 128 * KIB).len(),
        4,
        "half of all in all"
    );
}

#[test]
fn whatever_others_hold_and_wait_for_a_small_payload_finds_room() {
    let (mut queue, mut memory) = memory();
    let hogs = [0, 1].map(|conn| grab(&mut queue, &mut memory, conn, 4 * KIB));
    let some = memory.lease(&mut queue, 3, 128 * KIB, NOW).unwrap();
    assert_eq!(memory.lease(&mut queue, 2, 256 * KIB, NOW), None);
    assert!(memory.has_line(), "it is kept for the one who waits");
    let own = memory.lease(&mut queue, 3, SPARE_BYTES, NOW).unwrap();
    assert_eq!((own.id(), memory.has_line()), (memory.accounts[3].spare_id, true));
    assert_eq!(
        memory.lease(&mut queue, 3, 4 * KIB, NOW),
        None,
        "it has one such buffer"
    );
    memory.free(&mut queue, 3, own);
    assert_eq!(memory.poll_ready(), Some(3));
    assert!(memory.lease(&mut queue, 3, 4 * KIB, NOW).is_some());
    give(&mut queue, &mut memory, 3, vec![some]);
    hogs.into_iter()
        .zip(0..)
        .for_each(|(leases, conn)| give(&mut queue, &mut memory, conn, leases));
}

#[test]
fn the_longest_payload_waits_for_all_others_and_none_passes() {
    let (mut queue, mut memory) = memory();
    let first = memory.lease(&mut queue, 0, MIB, NOW).unwrap();
    assert_eq!(memory.lease(&mut queue, 1, 8 * MIB, NOW), None);
    assert_eq!(
        memory.lease(&mut queue, 2, MIB, NOW),
        None,
        "there is room, but it is not its turn"
    );
    let short = memory.lease(&mut queue, 3, 128 * KIB, NOW);
    assert!(short.is_some(), "short ones have their own memory");
    assert_eq!((memory.has_news(), memory.is_wanted()), (false, true));
    memory.free(&mut queue, 0, first);
    assert_eq!(memory.poll_ready(), Some(1));
    assert_eq!(memory.lease(&mut queue, 2, MIB, NOW), None);
    let largest = memory.lease(&mut queue, 1, 8 * MIB, NOW).unwrap();
    assert_eq!(memory.poll_ready(), Some(2), "now it is its turn");
    assert_eq!(memory.lease(&mut queue, 2, MIB, NOW), None);
    memory.free(&mut queue, 1, largest);
    assert_eq!(memory.poll_ready(), Some(2));
    assert!(memory.lease(&mut queue, 2, MIB, NOW).is_some());
    assert!(!memory.is_wanted() && !memory.has_line());
}

#[test]
fn one_that_leaves_makes_way() {
    let (mut queue, mut memory) = memory();
    let largest = memory.lease(&mut queue, 0, 8 * MIB, NOW).unwrap();
    for conn in [1, 2] {
        assert_eq!(memory.lease(&mut queue, conn, MIB, NOW), None);
    }
    memory.leave(1);
    assert_eq!((memory.has_news(), memory.poll_ready()), (true, Some(2)));
    memory.free(&mut queue, 0, largest);
    assert!(memory.lease(&mut queue, 2, MIB, NOW).is_some());
}

#[test]
fn the_first_in_line_is_overdue_after_a_while_and_who_waits_for_itself_never() {
    let (mut queue, mut memory) = memory();
    let second = Duration::from_secs(1);
    let hog = grab(&mut queue, &mut memory, 0, MIB);
    assert_eq!(memory.lease(&mut queue, 0, MIB, NOW), None);
    assert!(memory.is_wanted() && !memory.has_line(), "it has its share");
    assert_eq!(memory.lease(&mut queue, 1, 8 * MIB, NOW + second), None);
    assert!(!memory.is_overdue(Class::Long, second, NOW + second));
    assert!(memory.is_overdue(Class::Long, second, NOW + 2 * second));
    assert!(!memory.is_overdue(Class::Short, second, NOW + 2 * second));
    give(&mut queue, &mut memory, 0, hog);
}

/// Whatever it was that let it be served: the line's front is for those who wait.
#[test]
fn who_was_served_stands_in_line_no_more() {
    let (mut queue, mut memory) = memory();
    let hogs = [0, 1, 4].map(|conn| grab(&mut queue, &mut memory, conn, 4 * KIB));
    assert_eq!(memory.lease(&mut queue, 3, 256 * KIB, NOW), None);
    let own = memory.lease(&mut queue, 2, SPARE_BYTES, NOW).unwrap();
    assert_eq!(own.id(), memory.accounts[2].spare_id);
    assert_eq!(memory.lease(&mut queue, 2, 256 * KIB, NOW), None);
    memory.leave(3);
    // Both come back in one pass: what it waits for, and memory of its own.
    hogs.into_iter()
        .zip([0, 1, 4])
        .for_each(|(leases, conn)| give(&mut queue, &mut memory, conn, leases));
    memory.free(&mut queue, 2, own);
    assert_eq!(memory.poll_ready(), Some(2));
    assert!(memory.lease(&mut queue, 2, 256 * KIB, NOW).is_some());
    assert!(!memory.has_line() && !memory.is_wanted());
    assert!(
        memory.lease(&mut queue, 3, 256 * KIB, NOW).is_some(),
        "nobody is in the way"
    );
}

/// What a client may do to the memory.
#[derive(Clone, Debug)]
enum Step {
    Ask { conn: u32, len: u32 },
    GiveBack { conn: u32, pick: prop::sample::Index },
    Go { conn: u32 },
}

fn step() -> impl Strategy<Value = Step> {
    let conn = 0..4u32;
    let len = prop_oneof![
        4 => 1..=SPARE_BYTES,
        4 => 1..=256 * KIB,
        2 => 1..=2 * MIB,
        1 => 1..=8 * MIB,
    ];
    prop_oneof![
        6 => (conn.clone(), len).prop_map(|(conn, len)| Step::Ask { conn, len }),
        4 => (conn.clone(), any::<prop::sample::Index>()).prop_map(|(conn, pick)| Step::GiveBack { conn, pick }),
        1 => conn.prop_map(|conn| Step::Go { conn }),
    ]
}

/// The naive model: who has what, and who wants what.
struct Model {
    queue: Queue,
    memory: Memory,
    leases: [Vec<Lease>; 4],
    wants: [Option<u32>; 4],
}

impl Model {
    fn new() -> Self {
        let (queue, memory) = memory();
        Self {
            queue,
            memory,
            leases: Default::default(),
            wants: [None; 4],
        }
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Ask { conn, len } if self.wants[conn as usize].is_none() => {
                self.wants[conn as usize] = Some(len);
                self.try_for(conn);
            }
            Step::Ask { .. } => {}
            Step::GiveBack { conn, ref pick } => {
                let leases = &mut self.leases[conn as usize];
                if !leases.is_empty() {
                    let lease = leases.swap_remove(pick.index(leases.len()));
                    self.memory.free(&mut self.queue, conn, lease);
                }
            }
            Step::Go { conn } => {
                self.wants[conn as usize] = None;
                self.memory.leave(conn);
                give(
                    &mut self.queue,
                    &mut self.memory,
                    conn,
                    std::mem::take(&mut self.leases[conn as usize]),
                );
            }
        }
        self.check();
    }

    /// The end of a pass: who may find something tries again.
    fn settle(&mut self) {
        while let Some(conn) = self.memory.poll_ready() {
            self.try_for(conn);
        }
        self.check();
    }

    fn try_for(&mut self, conn: u32) {
        let Some(len) = self.wants[conn as usize] else { return };
        let spare_id = self.memory.accounts[conn as usize].spare_id;
        let has_spare = !self.leases[conn as usize].iter().any(|lease| lease.id() == spare_id);
        let lease = self.memory.lease(&mut self.queue, conn, len, NOW);
        assert!(
            lease.is_some() || !has_spare || len > SPARE_BYTES,
            "a small payload finds room"
        );
        if let Some(lease) = lease {
            assert_eq!(lease.len_bytes(), len);
            self.wants[conn as usize] = None;
            self.leases[conn as usize].push(lease);
        }
    }

    fn check(&mut self) {
        let waiting = self.wants.iter().flatten().count();
        assert_eq!(self.memory.waiting, waiting, "who wants waits, and nobody else does");
        for class in Class::ALL {
            let mut all = 0;
            for (conn, leases) in (0u32..).zip(&self.leases) {
                let spare_id = self.memory.accounts[conn as usize].spare_id;
                let shared = leases.iter().filter(|lease| lease.id() != spare_id);
                let own = shared.filter(|lease| self.memory.class(lease.len_bytes()) == class);
                let held: u64 = own.map(|lease| footprint(lease.len_bytes())).sum();
                assert_eq!(held, self.memory.held(conn, class));
                all += held;
            }
            let pool = &self.memory.pools[class as usize];
            assert_eq!(pool.held, all);
            assert!(all <= pool.bytes, "bounded");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Against the model: bounded; a small payload always finds room; and when everybody gives back what they have, sooner or
    /// later everybody gets what they want, in whatever order that happens.
    #[test]
    fn everybody_gets_their_turn(
        passes in prop::collection::vec(prop::collection::vec(step(), 1..5), 0..120),
        order in prop::collection::vec((0..4u32, any::<prop::sample::Index>()), 400),
    ) {
        let mut model = Model::new();
        for steps in &passes {
            steps.iter().for_each(|step| model.run(step));
            model.settle();
        }
        for &(conn, pick) in &order {
            model.run(&Step::GiveBack { conn, pick });
            model.settle();
        }
        while let Some(conn) = (0..4u32).find(|conn| !model.leases[*conn as usize].is_empty()) {
            model.run(&Step::GiveBack { conn, pick: order[0].1 });
            model.settle();
        }
        prop_assert_eq!(model.wants, [None; 4]);
        prop_assert!(!model.memory.is_wanted() && !model.memory.has_line());
        let largest = model.memory.lease(&mut model.queue, 0, 8 * MIB, NOW);
        prop_assert!(largest.is_some(), "all of it is one run again");
    }

    /// While one waits in line, the others ask for more and more: it is served as soon as what they had before is back.
    #[test]
    fn who_stands_in_line_is_not_starved(lens in prop::collection::vec(256 * KIB + 1..=2 * MIB, 1..40)) {
        let (mut queue, mut memory) = memory();
        let mut before: Vec<_> = [0, 1].into_iter().flat_map(|conn| {
            let leases = grab(&mut queue, &mut memory, conn, MIB);
            leases.into_iter().map(move |lease| (conn, lease))
        }).collect();
        prop_assert!(memory.lease(&mut queue, 2, 8 * MIB, NOW).is_none());
        for len in lens {
            for conn in [0, 1, 3] {
                prop_assert!(memory.lease(&mut queue, conn, len, NOW).is_none(), "nobody passes");
            }
            if let Some((conn, lease)) = before.pop() {
                memory.free(&mut queue, conn, lease);
            }
        }
        before.drain(..).for_each(|(conn, lease)| memory.free(&mut queue, conn, lease));
        prop_assert!(memory.lease(&mut queue, 2, 8 * MIB, NOW).is_some());
    }
}
