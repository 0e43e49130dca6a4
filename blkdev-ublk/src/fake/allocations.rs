//! Allocations of each thread, those of the driver that is played apart: a test can tell that to serve makes none.
#![allow(unsafe_code, reason = "a counting allocator is unsafe by its trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static SO_FAR: Cell<u64> = const { Cell::new(0) };
}

/// Does what the driver would do in the kernel; it is told what the thread had allocated before, and that stays so.
pub(super) fn apart<T>(drive: impl FnOnce(u64) -> T) -> T {
    let before = SO_FAR.get();
    let done = drive(before);
    SO_FAR.set(before);
    done
}

fn count() {
    // A thread that is ending has no locals any more; it serves nothing.
    let _ = SO_FAR.try_with(|so_far| so_far.set(so_far.get() + 1));
}

struct Counting;

// SAFETY: everything is handed to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps `GlobalAlloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps `GlobalAlloc`'s contract.
        unsafe { System.realloc(memory, layout, new_size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `GlobalAlloc`'s contract.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;
