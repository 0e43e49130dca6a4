//! The allocator's promises one by one, where a random session would only meet them by chance.

use std::cell::RefCell;
use std::rc::Rc;

use fastrand::Rng;
use iomgr_core::{Errno, Sector, SectorCount};
use vhd::layout::{BatmapRepr, batmap_checksum};
use vhd::{Allocator, CreateOptions, Extent, Step, StepAction, create};

use crate::disk::{Disk, Keep};
use crate::handmade::{Block, Foreign};
use crate::rig::Epochs;
use crate::session::Session;

fn ours(blocks: u64) -> Disk {
    let disk = Disk::new(Vec::new());
    let options = CreateOptions {
        block_bytes: 4096,
        ..CreateOptions::dynamic(blocks * 4096, [9; 16], 77)
    };
    create(&disk, &options).unwrap();
    disk
}

fn session(disk: Disk) -> Session<Disk> {
    Session::open(disk, false).unwrap()
}

fn steps(allocator: &mut Allocator) -> Vec<Step> {
    std::iter::from_fn(|| allocator.poll_step()).collect()
}

/// Ends every step well until none is left; what they were.
fn run(allocator: &mut Allocator) -> Vec<StepAction> {
    let mut done = Vec::new();
    loop {
        let steps = steps(allocator);
        if steps.is_empty() {
            return done;
        }
        for step in steps {
            if let StepAction::Read { len, .. } = step.action {
                allocator.read_done(step.id, &vec![0xFF; len]);
            }
            allocator.step_done(step.id, Ok(()));
            done.push(step.action);
        }
    }
}

#[test]
fn an_allocator_may_be_made_on_one_thread_and_used_on_another() {
    fn is_send<T: Send>() {}
    is_send::<Allocator>();
}

#[test]
fn a_first_batch_is_a_flush_then_footer_heads_flush_and_the_table() {
    let mut session = session(ours(24));
    let allocator = session.allocator.as_mut().unwrap();
    allocator.want(3, 1).unwrap();
    let mut seen = Vec::new();
    for _ in 0..5 {
        let phase = steps(allocator);
        seen.push(phase.iter().map(|step| step.action).collect::<Vec<_>>());
        assert_eq!(allocator.poll_event(), None);
        for step in phase {
            allocator.step_done(step.id, Ok(()));
        }
    }
    insta::assert_debug_snapshot!("steps_of_a_first_allocation", seen);
    assert_eq!(allocator.poll_event().unwrap().result, Ok(()));
}

#[test]
fn the_next_slots_cost_no_flush_of_their_own() {
    let mut session = session(ours(64));
    let allocator = session.allocator.as_mut().unwrap();
    let mut flushes = 0;
    for block in 0..60 {
        allocator.want(block, block).unwrap();
        let actions = run(allocator);
        flushes += actions.iter().filter(|action| **action == StepAction::Flush).count();
        assert_eq!(allocator.poll_event().unwrap().cookie, block);
    }
    assert!(
        flushes <= 6,
        "one since open, and batches double: 4, 8, 16, 32, 32; not {flushes} flushes"
    );
}

#[test]
fn entries_of_one_page_are_written_together() {
    let mut session = session(ours(64));
    let allocator = session.allocator.as_mut().unwrap();
    allocator.want(0, 0).unwrap();
    run(allocator);
    for block in 1..3 {
        allocator.want(block, block).unwrap();
    }
    let writes = |steps: &[Step]| {
        steps
            .iter()
            .filter(|step| matches!(step.action, StepAction::Write { offset: 4096, .. }))
            .count()
    };
    let first = steps(allocator);
    assert_eq!(writes(&first), 1, "one write for all that were queued");
    allocator.want(3, 3).unwrap();
    assert_eq!(writes(&steps(allocator)), 0, "the page is being written");
    for step in first {
        allocator.step_done(step.id, Ok(()));
    }
    assert_eq!(writes(&steps(allocator)), 1, "what came meanwhile goes with the next");
}

#[test]
fn after_a_failed_flush_everything_fails_and_goes_on_failing() {
    let mut session = session(ours(24));
    session.write(0, &[1; 512]).unwrap();
    let allocator = session.allocator.as_mut().unwrap();
    run(allocator);
    for block in 5..24 {
        allocator.want(block, block).ok();
    }
    let ticket = allocator.flush_started();
    allocator.flush_done(ticket, Err(Errno::IO));
    assert!(allocator.is_broken());
    assert_eq!(allocator.poll_step(), None);
    while let Some(event) = allocator.poll_event() {
        assert_eq!(event.result, Err(Errno::IO));
    }
    allocator.want(2, 2).unwrap();
    assert_eq!(allocator.poll_event().unwrap().result, Err(Errno::IO));
    let ticket = allocator.flush_started();
    allocator.flush_done(ticket, Ok(()));
    assert!(allocator.is_broken(), "a later success proves nothing");
    let before = session.storage.bytes();
    assert!(session.allocator.take().unwrap().close(&session.storage).is_err());
    assert!(session.storage.bytes() == before);
}

#[test]
fn steps_under_way_when_a_flush_fails_may_still_end() {
    let mut session = session(ours(24));
    let allocator = session.allocator.as_mut().unwrap();
    allocator.want(2, 2).unwrap();
    let steps = steps(allocator);
    let ticket = allocator.flush_started();
    allocator.flush_done(ticket, Err(Errno::IO));
    for step in steps {
        allocator.step_done(step.id, Ok(()));
    }
    assert_eq!(allocator.in_flight(), 0);
}

#[test]
fn a_block_whose_release_failed_is_held_until_its_entry_is_certain() {
    let mut session = session(ours(24));
    session.write(0, &[1; 4096]).unwrap();
    let allocator = session.allocator.as_mut().unwrap();
    run(allocator);
    allocator.release(0, 7).unwrap();
    let step = allocator.poll_step().unwrap();
    allocator.step_done(step.id, Err(Errno::IO));
    assert_eq!(allocator.poll_event().unwrap().result, Err(Errno::IO));
    let lookup = |session: &Session<Disk>| session.map().lookup(Sector(0), SectorCount(8));
    assert!(
        matches!(lookup(&session), Extent::NeedBitmap { .. }),
        "not to be written in place"
    );
    assert!(matches!(session.extent(0, 8), Extent::Data { .. }), "but to be read");
    assert!(
        matches!(lookup(&session), Extent::NeedBitmap { .. }),
        "and no bitmap changes that"
    );
    session.write(512, &[2; 512]).unwrap();
    assert!(matches!(lookup(&session), Extent::Data { .. }));
    let disk = session.close();
    let mut bytes = [0; 1024];
    Session::open(disk, true).unwrap().read(0, &mut bytes).unwrap();
    assert_eq!((bytes[0], bytes[512]), (1, 2));
}

#[test]
fn a_session_without_changes_writes_nothing() {
    let blocks = vec![Block {
        number: 0,
        present: 0xFF,
        byte: 1,
    }];
    let foreign = Foreign {
        size: 8 * 4096,
        block_bytes: 4096,
        blocks,
    }
    .build();
    for disk in [ours(24), Disk::new(foreign)] {
        let before = disk.bytes();
        let mut session = session(disk);
        session.read(0, &mut [0; 4096]).unwrap();
        session.flush();
        assert!(session.close().bytes() == before);
    }
}

#[test]
fn a_clean_close_gives_unused_slots_back_and_the_next_session_lands_there() {
    let disk = ours(24);
    let empty = disk.bytes().len();
    let mut first = session(disk);
    first.write(0, &[1; 4096]).unwrap();
    let disk = first.close();
    assert_eq!(disk.bytes().len(), empty + 8192, "one slot of 4 KiB and its head");
    let mut second = session(disk);
    second.release(0).unwrap();
    assert_eq!(second.close().bytes().len(), empty);
}

#[test]
fn slots_that_a_crash_left_behind_are_found_again() {
    let mut first = session(ours(24));
    for block in 0..8 {
        first.write(block * 4096, &[1; 4096]).unwrap();
    }
    for block in 2..6 {
        first.release(block).unwrap();
    }
    let disk = Disk::new(first.storage.bytes()); // no close
    let len = disk.bytes().len();
    let found = vhd::check(&disk).unwrap();
    assert_eq!(found.stats.free_bytes, 4 * 8192, "{found:?}");
    let mut second = session(disk);
    for block in 10..14 {
        second.write(block * 4096, &[2; 512]).unwrap();
    }
    assert!(
        second.storage.bytes().len() <= len,
        "what was freed has room for four blocks"
    );
    let mut bytes = [7; 4096];
    second.read(10 * 4096, &mut bytes).unwrap();
    assert!(
        bytes[512..].iter().all(|&byte| byte == 0),
        "and nothing of what it held"
    );
}

#[test]
fn the_batmap_is_emptied_before_a_change_and_made_anew_at_close() {
    let map_of = |bytes: &[u8]| {
        let header = BatmapRepr::parse(&bytes[4096 + 512..]).unwrap();
        let map = bytes[header.map_offset as usize..][..512].to_vec();
        assert_eq!(header.checksum, batmap_checksum(header.version, &map, 24 * 4096));
        map
    };
    let mut first = session(ours(24));
    first.write(4096, &[1; 4096]).unwrap();
    let disk = first.close();
    assert_eq!(map_of(&disk.bytes())[0], 0b0100_0000);
    let mut second = session(disk);
    second.write(3 * 4096, &[1; 512]).unwrap();
    assert!(map_of(&second.storage.bytes()).iter().all(|&byte| byte == 0));
    // A block that nobody looked at is not claimed, though it is full.
    assert_eq!(map_of(&second.close().bytes())[0], 0b0001_0000);
}

#[test]
fn a_batmap_that_a_power_cut_left_behind_its_header_is_emptied_and_made_anew() {
    let map_at = |bytes: &[u8]| BatmapRepr::parse(&bytes[4096 + 512..]).unwrap().map_offset as usize;
    let mut first = session(ours(24));
    first.write(4096, &[1; 4096]).unwrap();
    let mut bytes = first.close().bytes();
    // The map of one moment with the header of another: block 5 is called full, which it is not.
    let map = map_at(&bytes);
    bytes[map] |= 0b0000_0100;
    let disk = Disk::new(bytes);
    let found = vhd::check(&disk).unwrap();
    let codes: Vec<_> = found.findings.iter().map(|finding| finding.code).collect();
    assert_eq!(
        (found.verdict(), &codes[..]),
        (vhd::Verdict::Clean, &["batmap-stale"][..])
    );
    let mut second = session(disk);
    second.write(3 * 4096, &[1; 512]).unwrap();
    assert_eq!(second.storage.bytes()[map], 0, "emptied before the first change");
    let disk = second.close();
    assert_eq!(vhd::check(&disk).unwrap().findings, []);
    assert_eq!(disk.bytes()[map], 0b0001_0000);
}

#[test]
fn a_stale_batmap_that_blocks_lie_on_is_none() {
    let mut first = session(ours(24));
    first.write(4096, &[1; 4096]).unwrap();
    let mut bytes = first.close().bytes();
    let header = BatmapRepr::parse(&bytes[4096 + 512..]).unwrap();
    let entry = u32::from_be_bytes(bytes[4096 + 4..][..4].try_into().unwrap()) as usize * 512;
    let slot = bytes[entry..entry + 512 + 4096].to_vec();
    // The block moves to where the map was; its bitmap is no map of blocks.
    let at = header.map_offset as usize;
    bytes.resize(bytes.len().max(at + slot.len() + 4096), 0);
    bytes[at..at + slot.len()].copy_from_slice(&slot);
    bytes[4096 + 4..][..4].copy_from_slice(&u32::try_from(at / 512).unwrap().to_be_bytes());
    let len = bytes.len();
    let footer = bytes[..512].to_vec();
    bytes[len - 512..].copy_from_slice(&footer);
    let mut second = session(Disk::new(bytes));
    let mut block = [0; 4096];
    second.read(4096, &mut block).unwrap();
    assert_eq!(block, [1; 4096]);
}

#[test]
fn slots_between_others_are_free_and_no_leak() {
    let mut first = session(ours(24));
    for block in 0..8 {
        first.write(block * 4096, &[1; 4096]).unwrap();
    }
    for block in 2..6 {
        first.release(block).unwrap();
    }
    let found = vhd::check(&first.close()).unwrap();
    assert_eq!(found.verdict(), vhd::Verdict::Clean, "{found:?}");
    assert_eq!((found.stats.free_bytes, found.stats.leaked_bytes), (4 * 8192, 0));
}

#[test]
fn a_device_without_room_uses_what_is_freed() {
    let disk = Disk::with_device(vec![0xA7; 20 * 4096], true);
    let options = CreateOptions {
        block_bytes: 4096,
        ..CreateOptions::dynamic(24 * 4096, [9; 16], 77)
    };
    create(&disk, &options).unwrap();
    let mut session = session(disk);
    let room = (0..24)
        .take_while(|&block| session.write(block * 4096, &[1; 512]).is_ok())
        .count() as u64;
    assert!((5..12).contains(&room), "{room}");
    assert_eq!(session.write(20 * 4096, &[2; 512]), Err(Errno::NOSPC));
    session.release(0).unwrap();
    session.write(20 * 4096, &[2; 512]).unwrap();
    let mut bytes = [7; 4096];
    session.read(20 * 4096, &mut bytes).unwrap();
    assert!(bytes[512..].iter().all(|&byte| byte == 0));
    assert_eq!(session.write(21 * 4096, &[2; 512]), Err(Errno::NOSPC));
    assert_eq!(vhd::check(&session.close()).unwrap().verdict(), vhd::Verdict::Clean);
}

/// Did the allocator begin to zero what lies at `offset`?
fn punches(actions: &[StepAction], offset: u64) -> bool {
    let over = |action: &StepAction| matches!(*action, StepAction::Zero { offset: from, len, .. } if (from..from + len).contains(&offset));
    actions.iter().any(over)
}

#[test]
fn a_freed_slot_is_left_alone_until_its_entry_is_durable_and_nobody_looks_at_it() {
    for flush_first in [true, false] {
        let epochs = Epochs::default();
        let mut session = Session::open_with(ours(24), false, Box::new(epochs.clone())).unwrap();
        session.write(0, &[1; 512]).unwrap();
        let Extent::Data { file_offset, .. } = session.extent(0, 1) else {
            panic!("it was just written")
        };
        let pin = epochs.enter();
        session.release(0).unwrap();
        let allocator = session.allocator.as_mut().unwrap();
        let mut seen = run(allocator);
        let flush = |allocator: &mut Allocator| {
            let ticket = allocator.flush_started();
            allocator.flush_done(ticket, Ok(()));
        };
        if flush_first {
            flush(allocator);
        } else {
            epochs.exit(pin);
        }
        seen.extend(run(allocator));
        assert!(!punches(&seen, file_offset), "one of the two conditions does not do");
        if flush_first {
            epochs.exit(pin);
        } else {
            flush(allocator);
        }
        assert!(punches(&run(allocator), file_offset), "both do");
    }
}

#[test]
fn a_close_makes_frees_durable_before_the_footer_goes_where_they_were() {
    let blocks = vec![Block {
        number: 0,
        present: u64::MAX,
        byte: 0x11,
    }];
    let disk = Disk::new(
        Foreign {
            size: 2 * 8192,
            block_bytes: 8192,
            blocks,
        }
        .build(),
    );
    let images = Rc::new(RefCell::new(Vec::new()));
    let (taken, mut rng) = (Rc::clone(&images), Rng::with_seed(1));
    let mut session = session(disk);
    session.release(0).unwrap();
    *session.storage.watch.borrow_mut() = Some(Box::new(move |disk: &Disk| {
        taken
            .borrow_mut()
            .extend((0..50).map(|_| disk.crash(Keep::Some, &mut rng)));
    }));
    session.close();
    assert!(!images.borrow().is_empty());
    for image in images.take() {
        let mut bytes = [7; 8192];
        Session::open(Disk::new(image), true)
            .unwrap()
            .read(0, &mut bytes)
            .unwrap();
        assert!(bytes.iter().all(|&byte| byte == 0 || byte == 0x11), "old or zeros");
    }
}

#[test]
fn a_flush_is_made_for_many_freed_slots() {
    let mut session = session(ours(64));
    for block in 0..40 {
        session.write(block * 4096, &[1; 512]).unwrap();
    }
    run(session.allocator.as_mut().unwrap());
    let mut seen = Vec::new();
    for block in 0..40 {
        let allocator = session.allocator.as_mut().unwrap();
        allocator.release(block, block).unwrap();
        seen.extend(run(allocator));
        allocator.poll_event().unwrap().result.unwrap();
    }
    assert_eq!(seen.iter().filter(|action| **action == StepAction::Flush).count(), 1);
}
