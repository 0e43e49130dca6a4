//! Checksums: what was changed behind the queue's back is found out, and nothing is that was not.

use std::fs::File;
use std::os::unix::fs::FileExt;

use iomgr_core::{Action, FileHandle, Op, OpError, OpQueue};
use proptest::prelude::*;

use super::rig::{Rig, config, token};
use crate::filter::FilterConfig;
use crate::filter::checksum::ChecksumConfig;
use crate::{Errno, Queue};

const WRONG: OpError = OpError::Os(Errno::ILSEQ);

fn rig() -> Rig {
    Rig::new(vec!["checksum:size=1MiB".parse().unwrap()])
}

fn flip(file: &File, at: u64) {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

fn zero(offset: u64, len: u64) -> Action {
    Action::WriteZeroes {
        offset,
        len,
        unmap: true,
        fast: false,
    }
}

#[test]
fn a_bit_that_flipped_fails_reads_of_its_sector_alone() {
    let mut rig = rig();
    assert_eq!(rig.write(512, &[7; 2048]), Ok(2048));
    flip(rig.real(), 1024 + 300);
    assert_eq!(rig.read(512, 2048), Err(WRONG));
    assert_eq!(rig.read(1024, 512), Err(WRONG), "and again");
    assert_eq!(rig.read(512, 512), Ok(vec![7; 512]));
    assert_eq!(rig.read(1536, 1024), Ok(vec![7; 1024]));
    assert!(
        rig.read(1100, 600).is_ok(),
        "a sector of which a part is read cannot be verified"
    );
    assert_eq!(rig.write(1024, &[8; 512]), Ok(512), "written anew it is well again");
    assert_eq!(rig.read(1024, 512), Ok(vec![8; 512]));
    let dump = rig.queue.dump();
    assert!(
        dump.contains("filter checksum:size=1MiB\n9 sectors verified, 2 of them wrong\n"),
        "{dump}"
    );
    assert_eq!(rig.queue.filter_of_bytes(), Some("checksum:size=1MiB"));
}

#[test]
fn zeros_are_known_and_what_was_discarded_or_written_in_part_is_not() {
    let mut rig = rig();
    assert_eq!(rig.write(0, &[7; 4096]), Ok(4096));
    assert_eq!(rig.run(zero(512, 1024)), Ok(0));
    assert_eq!(rig.run(Action::Discard { offset: 1536, len: 512 }), Ok(0));
    assert_eq!(rig.write(2048 + 100, &[9; 50]), Ok(50));
    assert!(rig.read(0, 4096).is_ok());
    for (sector, known) in [(0, true), (1, true), (2, true), (3, false), (4, false), (5, true)] {
        flip(rig.real(), sector * 512);
        assert_eq!(
            rig.read(sector * 512, 512).err(),
            known.then_some(WRONG),
            "sector {sector}"
        );
    }
}

#[test]
fn a_write_that_failed_makes_its_sectors_unknown() {
    let mut rig = Rig::new(vec![
        "checksum".parse().unwrap(),
        "fault:op=write,range=512-1024".parse().unwrap(),
    ]);
    assert_eq!(rig.write(1024, &[1; 1024]), Ok(1024));
    assert_eq!(rig.write(0, &[2; 2048]), Err(OpError::Os(Errno::IO)));
    flip(rig.real(), 1024);
    assert!(rig.read(0, 2048).is_ok());
}

#[test]
fn writes_that_overlap_leave_nothing_known() {
    let mut rig = rig();
    let lease = rig.queue.alloc(1024).unwrap();
    let data = lease.data();
    for (value, offset) in [(0, 0), (1, 512)] {
        let durable = false;
        rig.push(value, Action::Write { offset, data, durable });
    }
    rig.finish();
    rig.queue.free(lease);
    flip(rig.real(), 100);
    assert!(rig.read(0, 1024).is_ok());
}

#[test]
fn queues_of_one_configuration_know_the_same() {
    let filters: Vec<FilterConfig> = vec![FilterConfig::Checksum(ChecksumConfig::new(1 << 20))];
    let mut one = Rig::new(filters.clone());
    let mut two = Queue::new(&config(filters)).unwrap();
    let handle = FileHandle::new(one.real().try_clone().unwrap());
    let file = two.add_file(&handle).unwrap();
    assert_eq!(one.write(0, &[1; 512]), Ok(512));
    flip(one.real(), 3);
    let lease = two.alloc(512).unwrap();
    let (offset, data) = (0, lease.data());
    let op = Op {
        token: token(1),
        file,
        action: Action::Read { offset, data },
    };
    two.push(op).unwrap();
    two.submit_and_wait(None).unwrap();
    assert_eq!(two.next_completion().unwrap().result, Err(WRONG));
    drop(two);
    assert_eq!(one.read(0, 512), Err(WRONG), "one queue less is not a file less");
}

#[test]
fn a_file_that_was_away_may_have_changed() {
    let mut rig = rig();
    assert_eq!(rig.write(0, &[1; 512]), Ok(512));
    rig.queue.remove_file(rig.file);
    flip(rig.real(), 3);
    let handle = FileHandle::new(rig.real().try_clone().unwrap());
    rig.file = rig.queue.add_file(&handle).unwrap();
    assert!(rig.read(0, 512).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    /// Batches of ops of any kind, place and overlap: nothing is wrong, so nothing is said to be.
    #[test]
    fn nobody_is_accused_wrongly(batches in prop::collection::vec(prop::collection::vec((0u8..4, 0u64..20_000, 1u32..5000), 1..20), 1..8)) {
        let mut rig = rig();
        rig.set_len(32 << 10);
        for (round, batch) in (1u8..).zip(batches) {
            let mut leases = Vec::new();
            for (value, (kind, offset, len)) in (0u8..).zip(batch) {
                let lease = rig.queue.alloc(len).unwrap();
                let data = lease.data();
                rig.queue.bytes_mut(data).unwrap().fill(round * 31 + value);
                leases.push(lease);
                rig.push(value.into(), match kind {
                    0 => Action::Read { offset, data },
                    1 => Action::Write { offset, data, durable: false },
                    2 => zero(offset, len.into()),
                    _ => Action::Discard { offset, len: len.into() },
                });
            }
            prop_assert!(rig.finish().values().all(Result::is_ok));
            leases.into_iter().for_each(|lease| rig.queue.free(lease));
        }
    }
}
