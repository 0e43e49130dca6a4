//! Where servers put their sockets, and how the command line finds them.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::error::{Error, ErrorKind};

/// The folder for sockets: `$IOMGR_RUNTIME_DIR`, else `$XDG_RUNTIME_DIR/iomgr`, else `/run/iomgr` for root, else
/// `/tmp/iomgr-UID`.
pub fn runtime_dir() -> PathBuf {
    let from_env = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(dir) = from_env("IOMGR_RUNTIME_DIR") {
        return dir;
    }
    if let Some(dir) = from_env("XDG_RUNTIME_DIR") {
        return dir.join("iomgr");
    }
    let uid = rustix::process::geteuid().as_raw();
    if uid == 0 {
        PathBuf::from("/run/iomgr")
    } else {
        PathBuf::from(format!("/tmp/iomgr-{uid}"))
    }
}

/// Makes the runtime folder, for its owner only; refuses one that belongs to somebody else or that others may write.
pub fn make_runtime_dir() -> Result<PathBuf, Error> {
    let dir = runtime_dir();
    let fail = |what: &str| Error::new(ErrorKind::Server, what.to_owned()).at(&dir);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .map_err(|error| {
            fail("the folder for sockets cannot be made; set IOMGR_RUNTIME_DIR to one that can").because(error)
        })?;
    let meta = fs::symlink_metadata(&dir).map_err(|error| fail("cannot be looked at").because(error))?;
    if !meta.is_dir() || meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(fail(
            "is not a folder of this user's; set IOMGR_RUNTIME_DIR to one that is",
        ));
    }
    if meta.permissions().mode() & 0o022 != 0 {
        return Err(fail(
            "may be written by others; chmod go-w it, or set IOMGR_RUNTIME_DIR",
        ));
    }
    Ok(dir)
}

/// The name that a disk gets from its file.
pub fn default_name(image: &Path) -> String {
    let stem = image
        .file_stem()
        .map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
    let clean: String = stem
        .chars()
        .map(|c| {
            if c.is_alphanumeric() || "-_.".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect();
    if clean.is_empty() { "disk".to_owned() } else { clean }
}

/// A unix socket that listens; the file goes away with it.
#[derive(Debug)]
pub struct BoundSocket {
    path: PathBuf,
    identity: Identity,
}

/// An inode and its birth: its number alone is soon used again, and its other times change when somebody changes its mode.
type Identity = (u64, u64, Option<SystemTime>);

fn identity(meta: &fs::Metadata) -> Identity {
    (meta.dev(), meta.ino(), meta.created().ok())
}

impl BoundSocket {
    /// Listens on `path`, for the owner only (0600). A socket that a dead server left behind is replaced; a live one's,
    /// or a file of another kind, is not.
    pub fn bind(path: &Path) -> Result<(Self, UnixListener), Error> {
        remove_stale(path)?;
        let fail = |error| {
            Error::new(ErrorKind::Server, "cannot listen here")
                .at(path)
                .because(error)
        };
        let listener = UnixListener::bind(path).map_err(fail)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(fail)?;
        let meta = fs::symlink_metadata(path).map_err(fail)?;
        Ok((
            Self {
                path: path.to_path_buf(),
                identity: identity(&meta),
            },
            listener,
        ))
    }

    /// Where.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        // Only our own: another server may have taken the place meanwhile.
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|meta| identity(&meta) == self.identity);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "socket_left: cannot remove it");
        }
    }
}

fn remove_stale(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::FileTypeExt;
    let Ok(meta) = fs::symlink_metadata(path) else {
        return Ok(());
    };
    let refuse = |what: &str| Err(Error::new(ErrorKind::Server, what.to_owned()).at(path));
    if !meta.file_type().is_socket() {
        return refuse("exists and is no socket; choose another path");
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(_) => return refuse("is a socket of another kind, or may not be connected to; choose another path"),
        Ok(_) => return refuse("a server listens here already; choose another --name or --socket"),
    }
    fs::remove_file(path).map_err(|error| {
        Error::new(ErrorKind::Server, "cannot replace the old socket")
            .at(path)
            .because(error)
    })
}

/// The control sockets in the runtime folder, by name, sorted. Some may belong to dead servers.
pub fn control_sockets() -> Vec<(String, PathBuf)> {
    let mut found: Vec<_> = fs::read_dir(runtime_dir())
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "ctl"))
        .map(|path| (default_name(&path), path))
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_files() {
        assert_eq!(default_name(Path::new("/a/My disk.vhd")), "My_disk");
        assert_eq!(default_name(Path::new("/dev/loop0")), "loop0");
        assert_eq!(default_name(Path::new("/")), "disk");
    }

    #[test]
    fn a_stale_socket_is_replaced_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        let (bound, _listener) = BoundSocket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(BoundSocket::bind(&path).unwrap_err().kind(), ErrorKind::Server);
        drop(bound);
        assert!(!path.exists());
        fs::write(&path, "no socket").unwrap();
        assert!(BoundSocket::bind(&path).is_err());
        assert!(path.exists());
    }

    #[test]
    fn a_socket_of_another_kind_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _log = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        assert_eq!(BoundSocket::bind(&path).unwrap_err().kind(), ErrorKind::Server);
        assert!(path.exists());
    }

    #[test]
    fn a_socket_whose_mode_was_changed_is_removed_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (bound, _listener) = BoundSocket::bind(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).unwrap();
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn another_servers_socket_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (bound, listener) = BoundSocket::bind(&path).unwrap();
        drop(listener);
        let (_other, _listener) = BoundSocket::bind(&path).unwrap();
        drop(bound);
        assert!(path.exists());
    }
}
