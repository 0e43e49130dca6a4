//! Whole clients over simulated disks that stall, fail and answer late, under random calls from seeds.
//!
//! ```text
//!  seed ─► player ─► client ─► tqueue's simulated engine ─► disks ─► trace: no two writes overlap
//!            │  ▲                                             │
//!            │  └ notifications, which act as well            └────► content
//!            ▼                                                          │
//!           book: what was asked and told ─► oracle: what each sector may be
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "what fails here fails the test, and the seed is printed then"
)]

mod asking;
mod book;
mod oracle;
mod overlap;
mod player;
mod told;
mod world;

use iomgr_core::test_utils::Seeds;
use player::Player;

const SEEDS: Seeds = Seeds {
    command: "cargo test -p iomgr-dmio --test sim",
    ci_secs: 25,
    shares: 2,
    unit: "seeds",
    soak: 25_000,
};

/// Seeds that once failed.
const KEPT: &[u64] = &[];

#[test]
fn clients_keep_their_promises_whatever_disks_do() {
    SEEDS.run("clients_keep_their_promises_whatever_disks_do", KEPT, |seed| {
        Player::new(seed, false).play()
    });
}

#[test]
fn clients_whose_pool_is_exhausted_keep_them_too() {
    SEEDS.run("clients_whose_pool_is_exhausted_keep_them_too", KEPT, |seed| {
        Player::new(seed, true).play()
    });
}
