//! A thread that may not use io_uring, as in a container: a seccomp filter answers for the kernel.
#![allow(
    unsafe_code,
    reason = "the filter is installed by prctl, and holds for the calling thread only"
)]

use rustix::io::Errno;
use tqueue::{Config, EngineKind, ErrorKind, Queue};

use super::rig::small;

/// Makes `io_uring_setup` fail with `errno` on this thread, for good.
fn deny_ring(errno: Errno) {
    let statement = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let number = u32::try_from(libc::SYS_io_uring_setup).unwrap();
    let refusal = libc::SECCOMP_RET_ERRNO | u32::try_from(errno.raw_os_error()).unwrap();
    let mut filter = [
        // The number of the call is the first word of the data that the filter sees.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, number, 0, 1),
        statement(libc::BPF_RET | libc::BPF_K, refusal, 0, 0),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let program = libc::sock_fprog {
        len: 4,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: takes numbers only.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: the program and its statements outlive the call, which copies them.
    let installed = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(installed, 0);
}

#[test]
fn a_queue_that_may_not_have_a_ring_says_why_and_does_without() {
    for (errno, kind) in [(Errno::PERM, ErrorKind::Denied), (Errno::NOSYS, ErrorKind::Unsupported)] {
        let thread = std::thread::spawn(move || {
            deny_ring(errno);
            let ring = Config {
                engine: EngineKind::Uring,
                ..small()
            };
            let error = Queue::new(&ring).unwrap_err();
            assert_eq!((error.kind(), error.errno()), (kind, Some(errno)), "{error}");
            let info = Queue::new(&small()).unwrap().info();
            assert_eq!(info.engine, "sync");
            assert!(info.notes[0].contains("seccomp"), "{info}");
        });
        thread.join().unwrap();
    }
}
