//! Message headers: what a send of several parts gathers.

use crate::buf::Arena;
use crate::net::MAX_SEND_PARTS;
use crate::run::Run;

/// A message header and the vector it points to.
pub(super) struct Header {
    message: libc::msghdr,
    vector: [libc::iovec; MAX_SEND_PARTS],
}

impl Header {
    pub(super) fn new() -> Self {
        // SAFETY: a message header of zeros is valid: no name, no vector, no control data.
        let message = unsafe { std::mem::zeroed() };
        let nothing = libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        };
        Self {
            message,
            vector: [nothing; MAX_SEND_PARTS],
        }
    }

    /// Points it at `runs`.
    pub(super) fn fill(&mut self, runs: impl Iterator<Item = Run>, arena: &Arena) -> *const libc::msghdr {
        let mut count = 0;
        for (part, run) in self.vector.iter_mut().zip(runs) {
            *part = libc::iovec {
                iov_base: arena.address(run).cast(),
                iov_len: run.len() as usize,
            };
            count += 1;
        }
        self.message.msg_iov = self.vector.as_mut_ptr();
        self.message.msg_iovlen = count;
        &raw const self.message
    }
}
