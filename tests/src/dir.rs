//! A folder in memory that is removed with its guard.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::cleanup::Cleanup;
use crate::sweep::PREFIX;

/// A fresh folder on `/dev/shm`; its name carries the process id, for [`crate::sweep`].
#[derive(Debug)]
pub struct TempDir {
    path: PathBuf,
    _cleanup: Cleanup,
}

impl TempDir {
    /// Makes the folder.
    #[expect(clippy::new_without_default, reason = "a default that makes a folder would surprise")]
    pub fn new() -> TempDir {
        let path = base().join(unique_name());
        std::fs::create_dir_all(&path).unwrap();
        let gone = path.clone();
        let cleanup = Cleanup::new(move || {
            let _ = std::fs::remove_dir_all(&gone);
        });
        TempDir {
            path,
            _cleanup: cleanup,
        }
    }

    /// The folder's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of something in the folder.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }
}

/// Memory where there is some: images of tests are sparse and short-lived.
pub(crate) fn base() -> PathBuf {
    let shm = PathBuf::from("/dev/shm");
    if shm.is_dir() { shm } else { std::env::temp_dir() }
}

/// `iomgr-test-PID-N`
pub(crate) fn unique_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!(
        "{PREFIX}{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_goes_with_its_guard() {
        let dir = TempDir::new();
        std::fs::write(dir.join("file"), "x").unwrap();
        let path = dir.path().to_owned();
        assert!(path.is_dir());
        drop(dir);
        assert!(!path.exists());
    }
}
