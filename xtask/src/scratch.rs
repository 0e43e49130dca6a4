//! Folders that a task works in and leaves no trace of.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::Result;

/// Removed when dropped; what a killed run left is removed by the next.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// A folder in `base` whose name is the prefix and our process id.
    pub(crate) fn new(base: &Path, prefix: &str) -> Result<Scratch> {
        fs::create_dir_all(base)?;
        for entry in fs::read_dir(base)?.filter_map(std::result::Result::ok) {
            let name = entry.file_name();
            let pid = name.to_str().and_then(|name| name.strip_prefix(prefix));
            if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let folder = base.join(format!("{prefix}{}", std::process::id()));
        fs::create_dir(&folder)?;
        Ok(Scratch(folder))
    }

    /// The folder itself.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A name that no earlier call gave.
    pub(crate) fn fresh(&self, name: &str) -> PathBuf {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        self.0.join(format!("{}-{name}", NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    /// A file without a single sector of zeros.
    pub(crate) fn random_file(&self, path: &Path, size_bytes: u64) -> Result {
        let mut random = File::open("/dev/urandom")?.take(size_bytes);
        std::io::copy(&mut random, &mut File::create(path)?)?;
        Ok(())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
