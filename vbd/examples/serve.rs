//! Serves an image until Enter is pressed: `cargo run -p vbd --example serve -- disk.vhd`.
#![allow(clippy::print_stdout, reason = "an example talks to whoever runs it")]

use std::error::Error;
use std::path::Path;

use vbd::{Disk, DiskOptions, Server, ServerOptions};

fn main() -> Result<(), Box<dyn Error>> {
    let image = std::env::args().nth(1).ok_or("which image?")?;
    let disk = Disk::open(Path::new(&image), &DiskOptions::default())?;
    let server = Server::start(disk, &ServerOptions::default())?;
    println!("{}\nEnter ends it", server.uri());
    std::io::stdin().read_line(&mut String::new())?;
    let stats = server.disk().stats();
    println!("{} reads, {} writes", stats.read.ops, stats.write.ops);
    Ok(server.stop()?)
}
