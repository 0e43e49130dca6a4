//! The modes of memory, and their shapes.

use std::io::{IoSlice, IoSliceMut};
use std::time::Duration;

use dmio::{
    AlignedBuf, Borrowed, Buffers, Client, ClientConfig, ErrorKind, FileDevice, FileOptions, IoRequest, Memory, Refused,
};
use iomgr_core::{Errno, SectorCount};
use tqueue::EngineKind;
use tqueue::sim::{Fault, SimConfig};

use crate::rig::{Notes, Rig, region};

/// Sixteen sectors, each with its own number.
fn sectors(from: u8) -> Vec<u8> {
    (from..from + 16).flat_map(|number| [number; 512]).collect()
}

fn owned(bytes: &[u8]) -> AlignedBuf {
    AlignedBuf::copied_from(bytes).unwrap()
}

/// Every mode and shape that writes `bytes`.
fn all_shapes(client: &mut Client, bytes: &[u8]) -> Vec<Memory> {
    let lease = client.alloc(8192).unwrap();
    client.bytes_mut(lease.data()).unwrap().copy_from_slice(bytes);
    let halves = || vec![bytes[..1000].to_vec(), Vec::new(), bytes[1000..].to_vec()];
    let pages = || {
        let first = [&[99; 300], &bytes[..724]].concat();
        vec![first, bytes[724..].to_vec()]
    };
    vec![
        Memory::Pool(lease),
        Memory::Bounce(Buffers::One(bytes.to_vec())),
        Memory::Bounce(Buffers::Vector(halves())),
        Memory::Bounce(Buffers::Pages {
            pages: pages(),
            offset: 300,
        }),
        Memory::Owned(Buffers::One(owned(bytes))),
        Memory::Owned(Buffers::Vector(vec![
            owned(&bytes[..512]),
            owned(&bytes[512..2048]),
            owned(&bytes[2048..]),
        ])),
        Memory::Owned(Buffers::Pages {
            pages: vec![
                owned(&[&[99; 512], &bytes[..3584]].concat()),
                owned(&[&bytes[3584..], &[98; 512]].concat()),
            ],
            offset: 512,
        }),
    ]
}

/// What a request was given, as one run without what was left out at the start.
fn content(client: &mut Client, memory: Memory) -> Vec<u8> {
    fn join<B: std::ops::Deref<Target = [u8]>>(buffers: &Buffers<B>) -> Vec<u8> {
        match buffers {
            Buffers::One(one) => one.to_vec(),
            Buffers::Vector(list) => list.iter().flat_map(|part| part.to_vec()).collect(),
            Buffers::Pages { pages, offset } => {
                let all: Vec<u8> = pages.iter().flat_map(|part| part.to_vec()).collect();
                all[*offset..].to_vec()
            }
        }
    }
    match memory {
        Memory::Pool(lease) => {
            let bytes = client.bytes(lease.data()).unwrap().to_vec();
            client.free(lease);
            bytes
        }
        Memory::Bounce(buffers) => join(&buffers),
        Memory::Owned(buffers) => join(&buffers),
        Memory::None => panic!("nothing came back"),
    }
}

#[test]
fn all_modes_and_shapes_write_and_read_the_same() {
    let mut rig = Rig::new(2);
    let legs = [region(0, 32, 16), region(1, 64, 16)];
    for round in 0..7 {
        let bytes = sectors(round * 20);
        let memory = all_shapes(&mut rig.client, &bytes).swap_remove(round.into());
        let outcome = rig.client.io_sync(IoRequest::write(&legs, memory), None).unwrap();
        assert_eq!(outcome.error_mask, 0, "{round}");
        let back = content(&mut rig.client, outcome.memory);
        assert_eq!(back[..8192], bytes, "{round}: as it was");
        assert!(
            rig.bytes(0, 32, 16) == bytes && rig.bytes(1, 64, 16) == bytes,
            "{round}"
        );
        let empty = all_shapes(&mut rig.client, &[0; 8192]).swap_remove(round.into());
        let outcome = rig.client.io_sync(IoRequest::read(&legs[..1], empty), None).unwrap();
        let back = content(&mut rig.client, outcome.memory);
        assert_eq!(back[..8192], bytes, "{round}");
        assert!(
            back[8192..].iter().all(|&byte| byte == 98),
            "{round}: behind it nothing changes"
        );
    }
}

#[test]
fn a_list_of_many_parts_is_merged_below() {
    let mut rig = Rig::new(1);
    let parts: Vec<_> = (0..16).map(|number| owned(&[number; 512])).collect();
    let at = [region(0, 0, 16)];
    let request = IoRequest::write(&at, Memory::Owned(Buffers::Vector(parts)));
    assert_eq!(rig.client.io_sync(request, None).unwrap().error_mask, 0);
    assert_eq!(rig.bytes(0, 0, 16), sectors(0));
    assert!(rig.client.queue_counters().merges > 0);
}

#[test]
fn a_part_that_fails_fails_its_region_once() {
    let mut rig = Rig::new(1);
    rig.disks[0].inject(Fault::error(Errno::IO).within(512 * 5..512 * 6));
    let notes = Notes::default();
    let parts: Vec<_> = (0..16).map(|number| owned(&[number; 512])).collect();
    let at = [region(0, 0, 16)];
    let request = IoRequest::write(&at, Memory::Owned(Buffers::Vector(parts)));
    let outcome = rig.client.io_sync(request, Some(notes.listener())).unwrap();
    assert_eq!((outcome.error_mask, notes.states().len()), (1, 1));
    assert!(matches!(outcome.memory, Memory::Owned(Buffers::Vector(parts)) if parts.len() == 16));
}

#[test]
fn owned_memory_is_not_given_up_while_a_device_has_it() {
    let mut rig = Rig::new(1);
    rig.disks[0].stall();
    let notes = Notes::default();
    let memory = Memory::Owned(Buffers::One(owned(&[1; 4096])));
    let at = [region(0, 0, 8)];
    let handle = rig
        .client
        .io(IoRequest::write(&at, memory), Some(notes.listener()))
        .unwrap();
    rig.client.poll(Some(Duration::from_millis(1))).unwrap();
    assert_eq!(handle.cancel().unwrap_err().kind(), ErrorKind::WouldBlock);
    assert!(notes.states().is_empty());
    rig.disks[0].release();
    rig.client.wait(&handle, None).unwrap();
    assert!(matches!(
        notes.take().pop().unwrap().memory,
        Memory::Owned(Buffers::One(_))
    ));
}

#[test]
fn pool_memory_of_an_orphan_returns_to_the_pool_by_itself() {
    let mut rig = Rig::new(1);
    rig.disks[0].stall();
    let leases: Vec<_> = std::iter::from_fn(|| rig.client.alloc(4096)).collect();
    let mut leases = leases.into_iter();
    let notes = Notes::default();
    let at = [region(0, 0, 8)];
    let memory = Memory::Pool(leases.next().unwrap());
    let handle = rig
        .client
        .io(IoRequest::read(&at, memory), Some(notes.listener()))
        .unwrap();
    rig.client.poll(Some(Duration::ZERO)).unwrap();
    handle.cancel().unwrap();
    rig.pass_time(Duration::from_millis(1));
    assert!(
        matches!(notes.take().pop().unwrap().memory, Memory::None),
        "the orphan has it"
    );
    assert!(rig.client.alloc(4096).is_none());
    rig.disks[0].release();
    rig.pass_time(Duration::from_secs(1));
    let lease = rig.client.alloc(4096).unwrap();
    leases.chain([lease]).for_each(|lease| rig.client.free(lease));
    drop(handle);
    assert!(rig.client.destroy().is_ok());
}

#[test]
fn borrowed_memory_is_used_where_it_is() {
    let mut rig = Rig::new(2);
    let bytes = sectors(3);
    let legs = [region(0, 0, 16), region(1, 0, 16)];
    let parts = [IoSlice::new(&bytes[..512]), IoSlice::new(&bytes[512..])];
    let request = IoRequest::write(&legs, Memory::None);
    let outcome = rig
        .client
        .io_sync_borrowed(request, Borrowed::Shared(&parts), None)
        .unwrap();
    assert_eq!(outcome.error_mask, 0);
    assert!(rig.bytes(0, 0, 16) == bytes && rig.bytes(1, 0, 16) == bytes);
    let mut read = vec![0; 8192];
    let (front, back) = read.split_at_mut(4096);
    let mut parts = [IoSliceMut::new(front), IoSliceMut::new(back)];
    let request = IoRequest::read(&legs[..1], Memory::None);
    rig.client
        .io_sync_borrowed(request, Borrowed::Mut(&mut parts), None)
        .unwrap();
    assert_eq!(read, bytes);
}

#[test]
fn borrowed_memory_allows_for_no_timeout_and_whole_blocks_only() {
    let mut rig = Rig::new(1);
    let at = [region(0, 0, 2)];
    let mut refusal = |request, parts: &[IoSlice<'_>]| {
        let outcome = rig.client.io_sync_borrowed(request, Borrowed::Shared(parts), None);
        outcome.unwrap_err().error.kind()
    };
    let bytes = [1; 1024];
    let timed = IoRequest::write(&at, Memory::None).timeout(Duration::from_secs(1));
    assert_eq!(refusal(timed, &[IoSlice::new(&bytes)]), ErrorKind::Invalid);
    let uneven = [IoSlice::new(&bytes[..100]), IoSlice::new(&bytes[100..])];
    assert_eq!(
        refusal(IoRequest::write(&at, Memory::None), &uneven),
        ErrorKind::Invalid
    );
    assert_eq!(
        refusal(IoRequest::write(&at, Memory::None), &[IoSlice::new(&bytes[..512])]),
        ErrorKind::Invalid
    );
}

#[test]
fn real_files_are_written_and_read_by_every_engine() {
    for engine in [EngineKind::Auto, EngineKind::Sync] {
        let files = [
            tempfile::NamedTempFile::new().unwrap(),
            tempfile::NamedTempFile::new().unwrap(),
        ];
        let open = |file: &tempfile::NamedTempFile| {
            file.as_file().set_len(1 << 20).unwrap();
            std::sync::Arc::new(FileDevice::open(file.path(), FileOptions::default()).unwrap()) as _
        };
        let config = ClientConfig {
            devices: files.iter().map(open).collect(),
            max_size: SectorCount(64),
            engine,
            ..ClientConfig::default()
        };
        let mut client = Client::new(config).unwrap();
        for round in 0..7 {
            let bytes = sectors(round * 20);
            let legs = [region(0, 32, 16), region(1, 64, 16)];
            let memory = all_shapes(&mut client, &bytes).swap_remove(round.into());
            let outcome = client.io_sync(IoRequest::write(&legs, memory), None).unwrap();
            if let Memory::Pool(lease) = outcome.memory {
                client.free(lease);
            }
            let lease = client.alloc(8192).unwrap();
            let outcome = client
                .io_sync(IoRequest::read(&legs[1..], Memory::Pool(lease)), None)
                .unwrap();
            assert_eq!(
                (outcome.error_mask, content(&mut client, outcome.memory)),
                (0, bytes),
                "{round}"
            );
        }
        assert!(client.destroy().is_ok());
    }
}

#[test]
fn what_comes_with_a_refused_request_on_borrowed_memory_comes_back() {
    let mut rig = Rig::new(1);
    let at = [region(0, 0, 1)];
    let parts = [IoSlice::new(&[1; 512])];
    let lease = rig.client.alloc(4096).unwrap();
    let request = IoRequest::write(&at, Memory::Pool(lease));
    let refused = rig.client.io_sync_borrowed(request, Borrowed::Shared(&parts), None);
    let Err(Refused {
        error,
        memory: Memory::Pool(lease),
    }) = refused
    else {
        panic!("{refused:?}")
    };
    assert_eq!(error.kind(), ErrorKind::Invalid);
    rig.client.free(lease);
}

#[test]
fn borrowed_memory_waits_for_room_that_others_take_or_never_gets_it() {
    let mut rig = Rig::with(SimConfig::calm(1), 1, |config| ClientConfig { lent: 2, ..config });
    rig.disks[0].stall();
    let at = [region(0, 8, 2)];
    let others = Memory::Owned(Buffers::Vector(vec![owned(&[1; 512]), owned(&[2; 512])]));
    let handle = rig.client.io(IoRequest::write(&at, others), None).unwrap();
    rig.client.poll(Some(Duration::ZERO)).unwrap();
    let at = [region(0, 0, 1)];
    let parts = [IoSlice::new(&[3; 512]); 3];
    let write = |rig: &mut Rig, count: usize| {
        let request = IoRequest::write(&at, Memory::None);
        let ended = rig
            .client
            .io_sync_borrowed(request, Borrowed::Shared(&parts[..count]), None);
        ended.map(drop).map_err(|refused| refused.error.kind())
    };
    assert_eq!(write(&mut rig, 3), Err(ErrorKind::Invalid), "never");
    assert_eq!(write(&mut rig, 1), Err(ErrorKind::Full));
    rig.disks[0].release();
    rig.client.wait(&handle, None).unwrap();
    assert_eq!(write(&mut rig, 1), Ok(()));
}
