//! Serves 64 MiB of memory on a unix socket: for a number of seconds, or until it is killed.
//!
//! ```text
//! cargo run -p blkdev-nbd --features test-utils --example serve_memory -- /tmp/memory.sock [SECONDS] [null]
//! nbdinfo 'nbd+unix:///?socket=/tmp/memory.sock'
//! ```
#![allow(clippy::print_stdout, reason = "an example talks to whoever runs it")]

use std::error::Error;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use blkdev_nbd::test_utils::MemDevice;
use blkdev_nbd::{Export, Server, ServerConfig};
use iomgr_core::SectorCount;
use iomgr_core::manager::Registry;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let socket = args.next().unwrap_or_else(|| "/tmp/memory.sock".to_owned());
    let seconds = args.next().map(|text| text.parse()).transpose()?;
    let device = match args.next().as_deref() {
        Some("null") => MemDevice::null("null", SectorCount(1 << 30)),
        _ => MemDevice::new("memory", 64 << 20),
    };
    let registry = Registry::new();
    let export = Export {
        name: String::new(),
        description: "64 MiB of memory".to_owned(),
        managed: registry.attach("memory")?,
        device: Arc::new(device),
    };
    let server = Server::start(ServerConfig::new(UnixListener::bind(&socket)?, vec![export]))?;
    println!("uri: nbd+unix:///?socket={socket}");
    match seconds {
        Some(seconds) => thread::sleep(Duration::from_secs(seconds)),
        None => loop {
            thread::park();
        },
    }
    server.stop()?;
    std::fs::remove_file(socket)?;
    Ok(())
}
