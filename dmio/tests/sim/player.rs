//! Plays one seed.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use dmio::{Client, DeviceIndex, ErrorKind, Memory};
use fastrand::Rng;

use crate::asking::{run, start};
use crate::book::{Asked, Book, Key};
use crate::overlap;
use crate::told::{Watcher, cancel, check_canary, give_up};
use crate::world::World;

pub(crate) struct Player {
    world: World,
    client: Client,
    book: Rc<RefCell<Book>>,
    rng: Rng,
    cells: u32,
    is_short_of_memory: bool,
}

impl Player {
    pub(crate) fn new(seed: u64, is_short_of_memory: bool) -> Self {
        let mut rng = Rng::with_seed(seed);
        let world = World::new(&mut rng);
        let mut client = world.client(&mut rng);
        let book = Rc::new(RefCell::new(Book::new(rng.fork(), world.current.clone())));
        client.set_watch(Some(Rc::new(Watcher(Rc::clone(&book)))));
        let cells = client.occupancy().cells_free;
        Self {
            world,
            client,
            book,
            rng,
            cells,
            is_short_of_memory,
        }
    }

    /// Random steps, then a good end: one seed more.
    pub(crate) fn play(mut self) -> u64 {
        let steps = self.rng.u64(50..400);
        for _ in 0..steps {
            self.step();
            self.check();
        }
        self.end();
        1
    }

    fn step(&mut self) {
        match self.rng.u8(..32) {
            0..12 => start(&self.book, &mut self.client),
            12..15 => run(&self.book, &mut self.client),
            15..22 => {
                let time = Duration::from_micros(self.rng.u64(..50_000));
                self.client.poll(Some(time)).unwrap();
            }
            22..25 => self.cancel(),
            25 => give_up(&mut self.book.borrow_mut()),
            26 => self.give_up_device(),
            27 => self.wait(),
            28 if self.rng.u8(..4) == 0 => self.replace(),
            29 if self.is_short_of_memory => self.change_hoard(),
            _ => self.world.disturb(&mut self.rng),
        }
    }

    /// S3-7: each cell is free, used, or an orphan's.
    fn check(&mut self) {
        let taken = self.client.occupancy();
        assert_eq!(
            taken.cells_free + taken.cells_used + taken.cells_orphaned,
            self.cells,
            "{taken:?}"
        );
    }

    /// S3-11: what is cancelled is told in the next pass, whatever devices do.
    fn cancel(&mut self) {
        cancel(&mut self.book.borrow_mut());
        let is_due = |(key, asked): (&Key, &Asked)| (asked.is_due && !asked.is_done).then_some(*key);
        let due: Vec<Key> = self.book.borrow().asked.iter().filter_map(is_due).collect();
        let before = self.client.now();
        self.client.poll(Some(Duration::ZERO)).unwrap();
        assert!(self.client.now().since(before) < Duration::from_millis(1));
        let book = self.book.borrow();
        let late = due.iter().find(|key| !book.asked[key].is_done);
        assert!(late.is_none(), "not told: {:?}", late.map(|key| &book.asked[key]));
    }

    fn give_up_device(&mut self) {
        let device = self.device();
        let fence = self.rng.bool();
        self.client.cancel_device(device, fence).unwrap();
        if fence && self.rng.u8(..3) > 0 {
            self.client.unfence(device).unwrap();
        }
    }

    fn wait(&mut self) {
        let handle = {
            let book = &mut *self.book.borrow_mut();
            let count = book.handles.len();
            (count > 0).then(|| book.handles[book.rng.usize(..count)].1.clone())
        };
        if let Some(handle) = handle {
            let deadline = self.client.now() + Duration::from_millis(self.rng.u64(1..50));
            let is_told = self.client.wait(&handle, Some(deadline)).unwrap();
            assert!(!is_told || handle.is_over());
        }
    }

    /// Another disk in the place of one.
    fn replace(&mut self) {
        let device = self.device();
        let disk = self.world.add_disk(&mut self.rng);
        let next = self.world.device(disk);
        if let Err(error) = self.client.replace(device, &next) {
            assert_eq!(error.kind(), ErrorKind::Memory, "{error}");
            return;
        }
        // What the old one keeps is replaced, too.
        let taken = self.client.occupancy();
        let cells = taken.cells_free + taken.cells_used + taken.cells_orphaned;
        assert!(cells >= self.cells);
        self.cells = cells;
        self.world.current[usize::from(device.0)] = disk;
        self.book.borrow_mut().disks.clone_from(&self.world.current);
    }

    /// Takes all of the pool, or gives some of it back: leases fail at random.
    fn change_hoard(&mut self) {
        let book = &mut *self.book.borrow_mut();
        if self.rng.bool() {
            while let Some(lease) = self.client.alloc(4096) {
                book.hoard.push(lease);
            }
        }
        let keep = self.rng.usize(..=book.hoard.len());
        book.hoard.drain(keep..).for_each(|lease| self.client.free(lease));
    }

    fn device(&mut self) -> DeviceIndex {
        DeviceIndex(u16::try_from(self.rng.usize(..self.world.current.len())).unwrap())
    }

    /// All is well again: everything ends, and disks hold what they may.
    fn end(mut self) {
        self.book.borrow_mut().is_ending = true;
        self.world.mend();
        for device in 0..self.world.current.len() {
            self.client
                .unfence(DeviceIndex(u16::try_from(device).unwrap()))
                .unwrap();
        }
        self.book.borrow_mut().handles.clear();
        let late = self.client.now() + Duration::from_secs(600);
        while self.client.occupancy().requests > 0 {
            assert!(self.client.now() < late, "stuck: {}", self.client.dump());
            self.client.poll(Some(Duration::from_secs(1))).unwrap();
        }
        self.check();
        assert_eq!(self.client.occupancy().cells_free, self.cells);
        let book = &mut *self.book.borrow_mut();
        assert_eq!(book.running(), 0, "each region ends");
        let canaries: Vec<Memory> = std::mem::take(&mut book.canaries);
        canaries
            .into_iter()
            .for_each(|memory| check_canary(&mut self.client, memory));
        let counters = self.client.counters();
        assert_eq!(
            counters.regions,
            counters.ok + counters.failed + counters.cancelled,
            "{counters:?}"
        );
        assert!(self.client.destroy().is_ok());
        for after_cut in [false, true] {
            if after_cut {
                self.world.machine.cut_power(self.rng.u64(..));
            }
            for disk in 0..self.world.disks.len() {
                book.oracle.check_at_end(disk, &self.world.read(disk), after_cut);
            }
        }
        overlap::check(&self.world.machine.trace());
    }
}
