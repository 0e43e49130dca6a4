//! The pool: memory that devices work on directly, and that can be given up.

use iomgr_core::{Data, Lease, OpQueue};

use super::Client;

impl Client {
    /// Leases `len` bytes of the pool, aligned to 4096. `None` when there are none now.
    pub fn alloc(&mut self, len: u32) -> Option<Lease> {
        self.queue.alloc(len)
    }

    /// Gives a lease back.
    pub fn free(&mut self, lease: Lease) {
        self.queue.free(lease);
    }

    /// Looks at memory of the pool. `None` while a device fills it.
    pub fn bytes(&self, data: Data) -> Option<&[u8]> {
        self.queue.bytes(data)
    }

    /// Changes memory of the pool. `None` while a device has it.
    pub fn bytes_mut(&mut self, data: Data) -> Option<&mut [u8]> {
        self.queue.bytes_mut(data)
    }
}
