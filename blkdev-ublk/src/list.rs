//! Which devices there are.

use std::io;
use std::path::Path;

/// Where the driver's character devices are listed.
const CLASS: &str = "/sys/class/ublk-char";

/// The numbers of all ublk devices, whoever serves them, sorted; none without a driver.
pub fn device_ids() -> io::Result<Vec<u32>> {
    ids_in(Path::new(CLASS))
}

fn ids_in(class: &Path) -> io::Result<Vec<u32>> {
    let entries = match std::fs::read_dir(class) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let id = |entry: io::Result<std::fs::DirEntry>| {
        let name = entry.ok()?.file_name();
        name.to_str()?.strip_prefix("ublkc")?.parse().ok()
    };
    let mut ids: Vec<u32> = entries.filter_map(id).collect();
    ids.sort_unstable();
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_found_by_their_names_alone() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(ids_in(&dir.path().join("none")).unwrap(), [0; 0]);
        for name in ["ublkc10", "ublkc2", "ublkb3", "ublkcx", "ublk-control"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(ids_in(dir.path()).unwrap(), [2, 10]);
    }
}
