//! Serves an image on an NBD socket: `cargo run -p vbd --example serve -- disk.vhd [SECONDS]`.
//!
//! Ends by `iomgr stop`, by any program that sends `{"v":1,"verb":"stop"}` to the control socket, or after so many seconds.
#![allow(clippy::print_stdout, reason = "an example speaks to its user")]

use std::path::PathBuf;
use std::time::Duration;

use vbd::{Disk, DiskOptions, Server, ServerOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let image = PathBuf::from(args.next().ok_or("usage: serve IMAGE [SECONDS]")?);
    let seconds = args.next().map(|text| text.parse()).transpose()?;

    let disk = Disk::open(&image, &DiskOptions::default())?;
    disk.warnings()
        .iter()
        .for_each(|warning| println!("warning: {warning}"));
    let server = Server::start(disk, &ServerOptions::default())?;
    println!("uri: {}", server.uri());
    println!("control: {}", server.control().display());

    let stopper = server.stopper();
    if let Some(seconds) = seconds {
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_secs(seconds));
            stopper.stop();
        });
    }
    server.wait()?;
    server.stop()?;
    Ok(())
}
