//! Zero copy: the pages of a request are in the ring's table, and nobody here has their bytes.

use std::sync::Arc;

use iomgr_core::test_utils::MemDevice;

use super::file_device::{BLOCK, FileDevice};
use super::rig::{Rig, limits};
use crate::fake::Habits;
use crate::{Error, ErrorKind, Features, IoOp, Server, ServerConfig};

/// What Linux 7.3 has.
fn new_kernel() -> Habits {
    Habits {
        features: Features::from_bits_retain(0x1f_ffff),
        ..Habits::default()
    }
}

fn config(rig: &Rig, device: &Arc<FileDevice>) -> ServerConfig {
    ServerConfig {
        device: Arc::clone(device) as Arc<dyn iomgr_core::Device>,
        zero_copy: true,
        ..rig.config()
    }
}

fn served(habits: Habits) -> (Rig, Arc<FileDevice>, Result<Server, Error>) {
    let rig = Rig::of(MemDevice::new("disk", 1 << 20), habits);
    let device = Arc::new(FileDevice::new(1 << 20, limits()));
    let server = Server::start_on(&rig.driver, config(&rig, &device));
    (rig, device, server)
}

/// The driver that is played registers pages of junk for a read.
#[test]
fn requests_over_several_extents_are_split_by_offsets_and_holes_are_zeros() {
    let (rig, device, server) = served(new_kernel());
    let server = server.unwrap();
    let bytes: Vec<u8> = (0..512 * 24).map(|at| (at % 251) as u8).collect();
    device.fill(0, &bytes);
    let read = rig.driver.request(0, IoOp::Read, 4, 16).unwrap();
    assert_eq!(read[..2048], bytes[2048..4096], "up to the end of the first block");
    assert_eq!(read[2048..6144], [0; 4096], "the second is a hole");
    assert_eq!(read[6144..], bytes[8192..10240]);
    let pattern: Vec<u8> = (0..512 * 20).map(|at| (at % 239) as u8).collect();
    rig.driver.write(0, 3 * BLOCK - 5, &pattern).unwrap();
    assert_eq!(device.bytes(3 * BLOCK - 5, 20), pattern);
    rig.end(server);
}

#[test]
fn what_goes_on_in_the_image_is_not_merged() {
    let (rig, device, server) = served(new_kernel());
    let mut server = server.unwrap();
    let tags = together(&rig, &device, &[(0, 2), (2, 2), (4, 2)]);
    for tag in tags {
        assert_eq!(rig.driver.answer(0, tag).unwrap().len(), 1024);
    }
    assert_eq!(merges(&mut server), 0);
    rig.end(server);
}

/// Requests that the driver delivers in one pass go to the image as one, into their tags' buffers.
#[test]
fn copies_of_what_goes_on_in_the_image_are_merged() {
    let rig = Rig::new();
    let device = Arc::new(FileDevice::new(1 << 20, limits()));
    let config = ServerConfig {
        zero_copy: false,
        ..config(&rig, &device)
    };
    let mut server = Server::start_on(&rig.driver, config).unwrap();
    device.fill(0, &(0..8).flat_map(|sector| [sector; 512]).collect::<Vec<u8>>());
    let tags = together(&rig, &device, &[(4, 2), (0, 2), (2, 2)]);
    for (tag, first) in tags.into_iter().zip([4, 0, 2]) {
        let bytes = rig.driver.answer(0, tag).unwrap();
        assert_eq!((bytes[0], bytes[512], bytes.len()), (first, first + 1, 1024));
    }
    assert_eq!(merges(&mut server), 2, "three reads in one");
    rig.end(server);
}

/// What was counted, when the thread has told all of it.
fn merges(server: &mut Server) -> u64 {
    server.stop().unwrap();
    server.stats().merges_total
}

/// Reads that come while the thread is busy.
fn together(rig: &Rig, device: &FileDevice, reads: &[(u64, u32)]) -> Vec<usize> {
    let mut tags = Vec::new();
    let flush = rig.driver.send(0, IoOp::Flush, 0, 0);
    device.in_a_flush(|| {
        let send = |&(start, sectors): &(u64, u32)| rig.driver.send(0, IoOp::Read, start, sectors);
        tags = reads.iter().map(send).collect();
    });
    rig.driver.answer(0, flush).unwrap();
    tags
}

/// Requests go to the image in the memory that they have, perhaps past the page cache.
#[test]
fn memory_is_aligned_to_sectors() {
    let (rig, _, server) = served(new_kernel());
    let server = server.unwrap();
    assert_eq!(rig.driver.params(0).unwrap().dma_alignment, Some(511));
    assert!(server.info().features.contains(Features::AUTO_BUF_REG));
    rig.end(server);
}

#[test]
fn an_old_kernel_is_told_from_a_new_one() {
    let (rig, _, server) = served(Habits::default());
    let error = server.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(
        error.to_string(),
        "the ublk driver lacks SUPPORT_ZERO_COPY | AUTO_BUF_REG, which Linux 6.16 brought"
    );
    rig.assert_clean();
}

#[test]
fn a_device_that_needs_the_bytes_is_refused_before_anything_is_made() {
    let rig = Rig::of(MemDevice::new("disk", 1 << 20), new_kernel());
    let config = ServerConfig {
        zero_copy: true,
        ..rig.config()
    };
    let error = Server::start_on(&rig.driver, config).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert_eq!(
        error.to_string(),
        "\"disk\" needs the bytes of requests, which zero copy keeps from it"
    );
    assert!(rig.driver.log().is_empty());
}

#[test]
fn a_filter_that_needs_the_bytes_is_refused_and_others_are_not() {
    for (filter, is_refused) in [("checksum:size=1MiB", true), ("trace", false)] {
        let rig = Rig::of(MemDevice::new("disk", 1 << 20), new_kernel());
        let device = Arc::new(FileDevice::new(1 << 20, limits()));
        let mut config = config(&rig, &device);
        config.queue.filters = vec![filter.parse().unwrap()];
        match Server::start_on(&rig.driver, config) {
            Ok(server) if !is_refused => {
                // A part of it is a hole, which is no op of the image's.
                rig.driver.request(0, IoOp::Read, 0, 16).unwrap();
                rig.end(server);
            }
            Err(error) if is_refused => {
                let expected =
                    format!("the filter {filter} needs the bytes of requests, which zero copy keeps from it");
                assert_eq!((error.kind(), error.to_string()), (ErrorKind::Config, expected));
                rig.assert_clean();
            }
            other => panic!("{filter}: {other:?}"),
        }
    }
}

/// The pages that a dead server had are registered with the next one's ring.
#[test]
fn the_next_server_gets_the_pages_anew() {
    let (rig, device, server) = served(new_kernel());
    let mut server = server.unwrap();
    device.explode();
    let tag = rig.driver.send_write(0, 8, &[7; 512]);
    rig.ends.wait();
    server.stop().unwrap_err();
    server.delete().unwrap_err();
    let copying = ServerConfig {
        zero_copy: false,
        ..config(&rig, &device)
    };
    let error = rig.recover(copying).unwrap_err();
    assert!(error.to_string().contains("another mode"), "{error}");
    let server = rig.recover(config(&rig, &device)).unwrap();
    rig.driver.answer(0, tag).unwrap();
    assert_eq!(device.bytes(8, 1), [7; 512]);
    rig.end_recovered(server);
}

/// What no memory was registered for has none to be looked at; and what comes short of the image ends its request alone, by an
/// error: the driver that is played accuses whoever commits less than all.
#[test]
fn requests_without_data_and_errors_are_as_ever() {
    for zero_copy in [true, false] {
        let rig = Rig::of(MemDevice::new("disk", 1 << 20), new_kernel());
        let device = Arc::new(FileDevice::new((1 << 20) + 512, limits()));
        let config = ServerConfig {
            zero_copy,
            ..config(&rig, &device)
        };
        let server = Server::start_on(&rig.driver, config).unwrap();
        rig.driver.request(0, IoOp::Discard, 0, 8).unwrap();
        device.fill(0, &[7; 512]);
        let half_beyond = rig.driver.request(0, IoOp::Read, 1 << 11, 2);
        assert_eq!(half_beyond, Err(iomgr_core::Errno::IO.raw_os_error()));
        assert_eq!(rig.driver.request(0, IoOp::Read, 0, 1).unwrap(), [7; 512]);
        rig.end(server);
    }
}
