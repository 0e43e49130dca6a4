//! Prints what a VHD image says about itself, and what a check finds: `cargo run -p iomgr-vhd --example info -- disk.vhd`.
#![allow(clippy::print_stdout, reason = "an example's way to show something")]

use std::error::Error;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use iomgr_core::Storage;

/// A file that is only read.
struct ReadOnly(File);

impl Storage for ReadOnly {
    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn is_block_device(&self) -> bool {
        false
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn zero_range(&self, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("which image?")?;
    let storage = ReadOnly(File::open(path)?);
    println!("{:#?}", vhd::info(&storage)?);
    let report = vhd::check(&storage)?;
    println!("check: {:?}", report.verdict());
    for finding in &report.findings {
        println!("  {:?} {}: {finding}", finding.severity, finding.code);
    }
    Ok(())
}
