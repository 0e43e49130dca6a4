//! Reads a table and says which target a sector goes to.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use dm_rq::{Error, Table};
use iomgr_core::Sector;

fn main() -> Result<(), Error> {
    let table: Table = "0 2048 linear /images/a.img 0\n2048 1024 zero\n".parse()?;
    println!("{} sectors", table.size().0);
    for sector in [0, 2047, 2048, 3072].map(Sector) {
        match table.find(sector) {
            Some(line) => println!("{sector}: {}", line.target),
            None => println!("{sector}: past the end"),
        }
    }
    match "0 8 zero\n4 8 zero".parse::<Table>() {
        Ok(_) => println!("lines may overlap"),
        Err(error) => println!("{error}"),
    }
    Ok(())
}
