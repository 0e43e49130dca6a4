use std::io::Write;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use iomgr_core::{Action, Data, DataHome, Errno, FileHandle, FileSlot, OpError, OpQueue, SimFile};
use tqueue::Config;

use super::rig::{bytes, filled, finish, on_each_engine, open, push, run, small, small_ring, temp_file, token};

#[test]
fn what_is_written_is_read_back() {
    on_each_engine(&small(), |queue| {
        let (file, _) = temp_file(queue);
        let content: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        let lease = filled(queue, &content);
        assert_eq!(
            run(
                queue,
                file,
                Action::Write {
                    offset: 513,
                    data: lease.data(),
                    durable: false
                }
            ),
            Ok(100_000)
        );
        assert_eq!(
            run(
                queue,
                file,
                Action::Write {
                    offset: 0,
                    data: lease.data().slice(0, 513),
                    durable: true
                }
            ),
            Ok(513)
        );
        assert_eq!(run(queue, file, Action::Flush), Ok(0));
        queue.bytes_mut(lease.data()).unwrap().fill(0);
        assert_eq!(
            run(
                queue,
                file,
                Action::Read {
                    offset: 513,
                    data: lease.data()
                }
            ),
            Ok(100_000)
        );
        assert_eq!(bytes(queue, lease.data()), content);
        queue.free(lease);
    });
}

#[test]
fn a_read_past_the_end_says_so() {
    on_each_engine(&small(), |queue| {
        let (file, real) = temp_file(queue);
        real.write_all_at(&[9; 700], 0).unwrap();
        let lease = filled(queue, &[1; 1000]);
        assert_eq!(
            run(
                queue,
                file,
                Action::Read {
                    offset: 0,
                    data: lease.data()
                }
            ),
            Err(OpError::EndOfFile)
        );
        assert_eq!(
            bytes(queue, lease.data().slice(0, 700)),
            [9; 700],
            "what there was has been read"
        );
        assert_eq!(
            run(
                queue,
                file,
                Action::Read {
                    offset: 700,
                    data: lease.data()
                }
            ),
            Err(OpError::EndOfFile)
        );
        queue.free(lease);
    });
}

#[test]
fn more_ops_than_the_kernel_takes_are_deferred_and_more_than_that_handed_back() {
    on_each_engine(&small(), |queue| {
        let (file, _) = temp_file(queue);
        let lease = filled(queue, &[5; 4096]);
        for i in 0..32 {
            push(
                queue,
                i,
                file,
                Action::Write {
                    offset: i * 4096,
                    data: lease.data(),
                    durable: false,
                },
            );
        }
        let op = iomgr_core::Op {
            token: token(99),
            file,
            action: Action::Flush,
        };
        assert_eq!(queue.push(op).unwrap_err().0, op);
        let results = finish(queue);
        assert_eq!(results.len(), 32);
        assert!(results.values().all(|result| *result == Ok(4096)));
        let counters = queue.counters();
        assert_eq!((counters.handed_back, counters.pushed, counters.completed), (1, 32, 32));
        assert!(counters.deferrals >= 28 && counters.max_in_kernel <= 4, "{counters:?}");
        queue.free(lease);
    });
}

#[test]
fn what_names_nothing_fails_alone() {
    on_each_engine(&small(), |queue| {
        let (file, _) = temp_file(queue);
        let lease = filled(queue, &[5; 512]);
        let good = lease.data();
        let bad = [
            Data { offset: 1, ..good },
            Data { len: 513, ..good },
            Data {
                offset: u32::MAX,
                len: u32::MAX,
                ..good
            },
            Data {
                home: DataHome::Registered(0),
                ..good
            },
            Data {
                home: DataHome::None,
                ..good
            },
        ];
        for (i, data) in (0..).zip(bad) {
            push(queue, i, file, Action::Read { offset: 0, data });
        }
        push(queue, 10, FileSlot(file.0 + 1), Action::Flush);
        push(
            queue,
            11,
            file,
            Action::Write {
                offset: 0,
                data: good,
                durable: false,
            },
        );
        push(
            queue,
            12,
            file,
            Action::Read {
                offset: 0,
                data: Data::NONE,
            },
        );
        let results = finish(queue);
        for i in 0..5 {
            assert_eq!(results[&i], Err(OpError::Os(Errno::INVAL)));
        }
        assert_eq!(results[&10], Err(OpError::Os(Errno::BADF)));
        assert_eq!((results[&11], results[&12]), (Ok(512), Ok(0)));
        queue.free(lease);
        assert_eq!(queue.add_file(&FileHandle::Simulated(SimFile(0))), Err(Errno::NFILE));
    });
}

#[test]
fn zeroing_and_discarding_never_change_the_size() {
    on_each_engine(&small(), |queue| {
        let (file, real) = temp_file(queue);
        for (unmap, discard) in [(true, false), (false, false), (true, true)] {
            real.write_all_at(&[7; 16384], 0).unwrap();
            let (offset, len) = (4096, 1 << 20);
            let action = if discard {
                Action::Discard { offset, len }
            } else {
                let fast = false;
                Action::WriteZeroes {
                    offset,
                    len,
                    unmap,
                    fast,
                }
            };
            assert_eq!(run(queue, file, action), Ok(0));
            let mut now = vec![1; 16384];
            real.read_exact_at(&mut now, 0).unwrap();
            assert!(now[..4096].iter().all(|&b| b == 7));
            assert!(now[4096..].iter().all(|&b| b == 0));
            assert_eq!(real.metadata().unwrap().len(), 16384);
        }
    });
}

/// On tmpfs a hole can be punched; there is no other way to zero a range than to write it.
#[test]
fn zeros_that_would_have_to_be_written_are_refused_when_they_are_to_be_fast() {
    let zeros = |unmap| Action::WriteZeroes {
        offset: 4096,
        len: 4096,
        unmap,
        fast: true,
    };
    on_each_engine(&small(), |queue| {
        let real = tempfile::tempfile_in("/dev/shm").unwrap();
        real.write_all_at(&[7; 16384], 0).unwrap();
        let file = queue.add_file(&FileHandle::new(real.try_clone().unwrap())).unwrap();
        let mut now = vec![1; 16384];
        assert_eq!(run(queue, file, zeros(false)), Err(OpError::Os(Errno::NOTSUP)));
        real.read_exact_at(&mut now, 0).unwrap();
        assert!(now.iter().all(|&b| b == 7), "nothing was changed");
        assert_eq!(run(queue, file, zeros(true)), Ok(0));
        real.read_exact_at(&mut now, 0).unwrap();
        assert!(now[4096..8192].iter().all(|&b| b == 0));
    });
}

#[test]
fn a_prefetch_ends_well_whatever_the_file_is() {
    on_each_engine(&small(), |queue| {
        let (file, real) = temp_file(queue);
        real.write_all_at(&[7; 16384], 0).unwrap();
        let (pipe, _writer) = std::io::pipe().unwrap();
        let pipe = queue.add_file(&FileHandle::new(pipe)).unwrap();
        for (offset, len) in [(0, 16384), (4096, u64::MAX), (1 << 40, 1), (0, 0)] {
            for file in [file, pipe] {
                assert_eq!(run(queue, file, Action::Prefetch { offset, len }), Ok(0));
            }
        }
    });
}

#[test]
fn an_op_that_has_not_started_can_be_taken_back() {
    on_each_engine(&small(), |queue| {
        let (file, real) = temp_file(queue);
        let lease = filled(queue, &[5; 512]);
        for i in 0..6 {
            push(
                queue,
                i % 2,
                file,
                Action::Write {
                    offset: i * 512,
                    data: lease.data(),
                    durable: false,
                },
            );
        }
        assert_eq!(queue.cancel(token(0)).never_started, 3);
        assert_eq!(queue.cancel(token(0)).never_started, 0);
        let mut never = 0;
        while !queue.is_idle() {
            queue.submit_and_wait(None).unwrap();
            while let Some(done) = queue.next_completion() {
                never += u32::from(done.result == Err(OpError::NeverStarted));
                assert_eq!(done.token == token(0), done.result.is_err());
            }
        }
        assert_eq!((never, real.metadata().unwrap().len()), (3, 6 * 512));
        queue.free(lease);
    });
}

#[test]
fn a_file_taken_away_serves_what_was_pushed_before() {
    on_each_engine(&small(), |queue| {
        let (file, real) = temp_file(queue);
        let lease = filled(queue, &[5; 512]);
        for i in 0..8 {
            push(
                queue,
                i,
                file,
                Action::Write {
                    offset: i * 512,
                    data: lease.data(),
                    durable: false,
                },
            );
        }
        queue.remove_file(file);
        push(queue, 8, file, Action::Flush);
        let results = finish(queue);
        assert!((0..8).all(|i| results[&i] == Ok(512)));
        assert_eq!(results[&8], Err(OpError::Os(Errno::BADF)));
        assert_eq!(real.metadata().unwrap().len(), 8 * 512);
        for _ in 0..20 {
            let (slot, _) = temp_file(queue);
            queue.remove_file(slot);
        }
        queue.free(lease);
    });
}

#[test]
fn without_registered_buffers_everything_works() {
    let config = Config {
        mask: tqueue::Features::REGISTERED_BUFFERS,
        ..small_ring()
    };
    let Some(mut queue) = open(&config) else { return };
    assert!(!queue.info().features.contains(tqueue::Features::REGISTERED_BUFFERS));
    let (file, _) = temp_file(&mut queue);
    let lease = filled(&mut queue, &[3; 4096]);
    assert_eq!(
        run(
            &mut queue,
            file,
            Action::Write {
                offset: 0,
                data: lease.data(),
                durable: false
            }
        ),
        Ok(4096)
    );
    queue.free(lease);
}

/// An empty pipe stands for a disk that hangs: io_uring reads it as a stream, and waits.
#[test]
fn leases_registered_in_part_are_read_and_written_like_any() {
    let config = Config {
        large_bytes: 1 << 20,
        registered_leases: 1,
        ..small()
    };
    on_each_engine(&config, |queue| {
        let (file, _) = temp_file(queue);
        let content: Vec<u8> = (0..16384u32).map(|i| (i % 251) as u8).collect();
        for _ in 0..2 {
            let (from, to) = (queue.alloc_large(16384).unwrap(), queue.alloc_large(16384).unwrap());
            // There is room for one, once.
            queue.register(&from, 8192);
            queue.register(&to, 8192);
            queue.bytes_mut(from.data()).unwrap().copy_from_slice(&content);
            // Registered, in part, not at all.
            for (at, len) in [(0, 8192), (512, 4096), (4096, 8192), (8192, 8192)] {
                let (offset, durable) = (at.into(), false);
                let data = from.data().slice(at, len);
                assert_eq!(run(queue, file, Action::Write { offset, data, durable }), Ok(len));
                for lease in [&from, &to] {
                    let data = lease.data().slice(at, len);
                    queue.bytes_mut(data).unwrap().fill(0);
                    assert_eq!(run(queue, file, Action::Read { offset, data }), Ok(len));
                    assert_eq!(bytes(queue, data), content[at as usize..][..len as usize]);
                }
            }
            queue.free(from);
            queue.free(to);
        }
    });
}

#[test]
fn memory_that_a_hung_disk_may_still_write_to_is_never_freed() {
    let config = Config {
        drain_max: Duration::from_millis(20),
        ..small_ring()
    };
    let Some(mut queue) = open(&config) else { return };
    let (reader, mut writer) = std::io::pipe().unwrap();
    let file = queue.add_file(&FileHandle::new(reader)).unwrap();
    let lease = queue.alloc(4096).unwrap();
    push(
        &mut queue,
        1,
        file,
        Action::Read {
            offset: 0,
            data: lease.data(),
        },
    );
    queue.submit().unwrap();
    assert_eq!(queue.bytes(lease.data()), None);
    queue.free(lease);
    drop(queue);
    // The read is still there, as the ring and its files are: somebody reads the pipe, so writing to it is no error.
    writer.write_all(&[1; 4096]).unwrap();
}

/// The same, without waiting: in a process that ends there is nothing to wait for.
#[test]
fn a_queue_that_is_left_to_the_kernel_waits_for_nothing() {
    let config = Config {
        // A test that waits for it fails by its own time limit.
        drain_max: Duration::from_secs(3600),
        ..small_ring()
    };
    let Some(mut queue) = open(&config) else { return };
    let (reader, mut writer) = std::io::pipe().unwrap();
    let file = queue.add_file(&FileHandle::new(reader)).unwrap();
    let lease = queue.alloc(4096).unwrap();
    let data = lease.data();
    push(&mut queue, 1, file, Action::Read { offset: 0, data });
    queue.submit().unwrap();
    queue.free(lease);
    queue.leave_to_kernel();
    writer.write_all(&[1; 4096]).unwrap();
}

#[test]
fn a_dropped_queue_waits_for_what_the_disk_is_at() {
    let config = small_ring();
    let Some(mut queue) = open(&config) else { return };
    let (file, real) = temp_file(&mut queue);
    let lease = filled(&mut queue, &[5; 4096]);
    for i in 0..4 {
        push(
            &mut queue,
            i,
            file,
            Action::Write {
                offset: i * 4096,
                data: lease.data(),
                durable: true,
            },
        );
    }
    queue.submit().unwrap();
    drop(queue);
    assert_eq!(real.metadata().unwrap().len(), 4 * 4096);
}

/// The largest number is io_uring's word for the descriptor's own position.
#[test]
fn no_offset_stands_for_a_file_s_position() {
    on_each_engine(&small(), |queue| {
        let (file, real) = temp_file(queue);
        let lease = filled(queue, &[7; 4096]);
        let data = lease.data();
        for offset in [u64::MAX, 1 << 63] {
            let durable = false;
            let results = [
                run(queue, file, Action::Write { offset, data, durable }),
                run(queue, file, Action::Read { offset, data }),
            ];
            assert_eq!(results, [Err(OpError::Os(Errno::INVAL)); 2]);
        }
        assert_eq!(real.metadata().unwrap().len(), 0);
        queue.free(lease);
    });
}
