//! Any bytes, in any pieces, to the NBD protocol core: it says what its model says, and never panics.
#![no_main]

use blkdev_nbd::test_utils::conversation::check_fuzzed;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| check_fuzzed(data));
