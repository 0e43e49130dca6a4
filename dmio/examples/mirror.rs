//! A mirror of two files: written as one, read from whichever answers, given up at will.
//!
//! ```console
//! $ cargo run -p iomgr-dmio --example mirror -- left.img right.img
//! ```
//!
//! Without names, two files of 1 MiB are made and removed again.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use dmio::{
    Buffers, Client, ClientConfig, DeviceIndex, FileDevice, FileOptions, IoRequest, Memory, Notification, Region,
};
use iomgr_core::{Device, Sector, SectorCount, SectorRange};

fn main() -> Result<(), Box<dyn Error>> {
    let given: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    if let [left, right] = &given[..] {
        return mirror([left, right]);
    }
    let dir = std::env::temp_dir().join(format!("dmio-mirror-{}", std::process::id()));
    std::fs::create_dir(&dir)?;
    let paths = ["left", "right"].map(|name| dir.join(name));
    let made = paths
        .iter()
        .try_for_each(|path| std::fs::File::create(path)?.set_len(1 << 20));
    let shown = made
        .map_err(Into::into)
        .and_then(|()| mirror(paths.each_ref().map(PathBuf::as_path)));
    std::fs::remove_dir_all(&dir)?;
    shown
}

fn mirror(paths: [&Path; 2]) -> Result<(), Box<dyn Error>> {
    let open = |path| -> Result<Arc<dyn Device>, dmio::Error> {
        Ok(Arc::new(FileDevice::open(path, FileOptions::default())?))
    };
    let config = ClientConfig {
        devices: vec![open(paths[0])?, open(paths[1])?],
        ..ClientConfig::default()
    };
    let mut client = Client::new(config)?;
    let range = SectorRange::new(Sector(64), SectorCount(8)).ok_or("the range ends past 64 bits")?;
    let legs = [0, 1].map(|device| Region {
        device: DeviceIndex(device),
        range,
    });
    write(&mut client, &legs)?;
    read(&mut client, &legs)?;
    give_up(&mut client, &legs)?;
    client.destroy_wait(None).map_err(|busy| busy.error)?;
    Ok(())
}

/// One write to both: it returns when both have ended.
fn write(client: &mut Client, legs: &[Region]) -> Result<(), Box<dyn Error>> {
    let hello = Memory::Bounce(Buffers::One(b"hello, mirror   ".repeat(256)));
    let request = IoRequest::write(legs, hello).fua();
    let outcome = client.io_sync(request, None).map_err(|refused| refused.error)?;
    println!("written: {:?}", &outcome.states[..]);
    Ok(())
}

/// One read from either: the second leg is tried when the first fails, or is slow.
fn read(client: &mut Client, legs: &[Region]) -> Result<(), Box<dyn Error>> {
    let empty = Memory::Bounce(Buffers::One(vec![0; 4096]));
    let request = IoRequest::read(legs, empty).timeout(Duration::from_secs(1));
    let outcome = client.io_sync(request, None).map_err(|refused| refused.error)?;
    if let Memory::Bounce(Buffers::One(bytes)) = &outcome.memory {
        println!("read: {:?}", String::from_utf8_lossy(&bytes[..13]));
    }
    Ok(())
}

/// One write that is given up: its end is told at once, and its memory is free, whatever the devices do.
fn give_up(client: &mut Client, legs: &[Region]) -> Result<(), Box<dyn Error>> {
    let tell = |_: &mut Client, note: Notification| println!("leg {}: {:?}", note.region, note.state);
    let zeros = Memory::Bounce(Buffers::One(vec![0; 4096]));
    let request = IoRequest::write(legs, zeros);
    let handle = client
        .io(request, Some(Rc::new(tell)))
        .map_err(|refused| refused.error)?;
    println!("given up: {} legs", handle.cancel()?);
    client.wait(&handle, None)?;
    Ok(())
}
