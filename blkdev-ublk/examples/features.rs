//! Reads an answer to `GET_FEATURES`, as a number: which features are in it, and which kernel they take.
//!
//! `cargo run -p blkdev-ublk --example features -- 0x1fe`
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;

use blkdev_ublk::Features;

fn main() -> Result<(), Box<dyn Error>> {
    let answer = std::env::args().nth(1).unwrap_or_else(|| "0x1fe".into());
    let bits = u64::from_str_radix(answer.trim_start_matches("0x"), 16)?;
    for (name, feature) in Features::from_bits_retain(bits).iter_names() {
        let since = feature.since().ok_or("every named feature has its kernel")?;
        println!("{name:24} {since}");
    }
    Ok(())
}
