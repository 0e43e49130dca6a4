//! Unix sockets that listen: private from the first moment, taken over from dead servers only.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Instant;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::claim::{Claim, FolderLock};
use crate::error::{Error, ErrorKind};
use crate::patience::wait_until;

/// Clients that may wait to be accepted. The kernel has a bound of its own, `net.core.somaxconn`.
pub(crate) const BACKLOG: i32 = 4096;

/// A unix socket that listens; the file goes away with it.
#[derive(Debug)]
pub struct BoundSocket(Claim);

impl BoundSocket {
    /// Listens on `path`, for the owner only (0600). A socket that a dead server left behind is replaced; a live one's,
    /// or a file of another kind, is not. A killed server's takes connections until the kernel has ended what the server had
    /// in flight, so one that takes them is asked again until the deadline.
    pub fn bind(path: &Path, deadline: Instant) -> Result<(Self, UnixListener), Error> {
        let tell = || tracing::warn!(path = %path.display(), "socket_taken: waiting for its server to end");
        wait_until(deadline, || Self::try_bind(path), tell)?
            .ok_or_else(|| refuse(path, "a server listens here already; choose another --name or --socket"))
    }

    /// `None`: a server listens there.
    fn try_bind(path: &Path) -> Result<Option<(Self, UnixListener)>, Error> {
        let lock = FolderLock::of(path)?;
        if !remove_stale(path)? {
            return Ok(None);
        }
        let fail = |error: std::io::Error| {
            let what = match error.raw_os_error() {
                Some(errno) if errno == Errno::NAMETOOLONG.raw_os_error() => {
                    "is too long for a socket, whose path has at most 107 bytes; choose a shorter one"
                }
                _ => "cannot listen here",
            };
            Error::new(ErrorKind::Server, what).at(path).because(error)
        };
        let listener = listen(path).map_err(fail)?;
        Ok(Some((Self(Claim::lay(path, &lock).map_err(fail)?), listener)))
    }

    /// Where.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

/// Takes away the socket of a server that has died; a live one's is left alone. Is the place free now?
pub(crate) fn remove_dead(path: &Path) -> Result<bool, Error> {
    let _lock = FolderLock::of(path)?;
    remove_stale(path)
}

fn listen(path: &Path) -> std::io::Result<UnixListener> {
    let address = SocketAddrUnix::new(path)?;
    let socket = socket(SocketFlags::CLOEXEC)?;
    // Linux makes the file with the mode of the socket itself: at no moment can anybody else connect.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &address)?;
    if let Err(errno) = rustix::net::listen(&socket, BACKLOG) {
        // The file that was just made, under the folder's lock; the error to tell is the one above.
        let _ = fs::remove_file(path);
        return Err(errno.into());
    }
    Ok(UnixListener::from(socket))
}

/// Is the place free, now that a dead server's socket is gone?
fn remove_stale(path: &Path) -> Result<bool, Error> {
    let Ok(meta) = fs::symlink_metadata(path) else {
        return Ok(true);
    };
    if !meta.file_type().is_socket() {
        return Err(refuse(path, "exists and is no socket; choose another path"));
    }
    match connect(path) {
        Err(Errno::CONNREFUSED) => fs::remove_file(path)
            .map(|()| true)
            .map_err(|error| refuse(path, "cannot replace the old socket").because(error)),
        Err(Errno::NOENT) => Ok(true),
        // A server that is too busy to let anybody in is alive.
        Ok(()) | Err(Errno::AGAIN) => Ok(false),
        Err(_) => {
            let what = "is a socket of another kind, or may not be connected to; choose another path";
            Err(refuse(path, what))
        }
    }
}

fn refuse(path: &Path, what: &'static str) -> Error {
    Error::new(ErrorKind::Server, what).at(path)
}

/// Tries, without waiting.
fn connect(path: &Path) -> Result<(), Errno> {
    let socket = socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)
}

fn socket(flags: SocketFlags) -> Result<std::os::fd::OwnedFd, Errno> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;
    use std::sync::Barrier;
    use std::time::Duration;

    use super::*;

    /// Who listens there is not waited for.
    fn bind(path: &Path) -> Result<(BoundSocket, UnixListener), Error> {
        BoundSocket::bind(path, Instant::now())
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_stale_socket_is_replaced_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        let (bound, _listener) = bind(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(bind(&path).unwrap_err().kind(), ErrorKind::Server);
        drop(bound);
        assert!(!path.exists());
        fs::write(&path, "no socket").unwrap();
        assert!(bind(&path).is_err());
        assert!(path.exists());
    }

    /// What the mode of the file is between bind and listen, nobody can see from here; that the socket has it, we can.
    #[test]
    fn a_socket_is_private_before_it_has_a_name() {
        let socket = socket(SocketFlags::CLOEXEC).unwrap();
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        rustix::net::bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn of_many_that_start_at_once_one_takes_over_a_stale_socket() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        for _ in 0..20 {
            drop(UnixListener::bind(&path).unwrap());
            let start = Barrier::new(4);
            let attempt = || {
                start.wait();
                bind(&path).ok()
            };
            let bound = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(attempt)).collect();
                let bound = threads.into_iter().filter_map(|thread| thread.join().unwrap());
                bound.collect::<Vec<_>>()
            });
            assert_eq!(bound.len(), 1);
            UnixStream::connect(&path).unwrap();
        }
    }

    #[test]
    fn a_busy_server_is_alive() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (_bound, listener) = bind(&path).unwrap();
        // One may wait, which Linux takes for two; nobody accepts.
        rustix::net::listen(&listener, 0).unwrap();
        let _first = UnixStream::connect(&path).unwrap();
        assert_eq!(connect(&path), Err(Errno::AGAIN));
        let refused = bind(&path).unwrap_err().to_string();
        assert!(refused.contains("listens here already"), "{refused}");
    }

    #[test]
    fn a_socket_of_another_kind_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let _log = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        assert_eq!(bind(&path).unwrap_err().kind(), ErrorKind::Server);
        assert!(path.exists());
    }

    #[test]
    fn a_socket_whose_mode_was_changed_is_removed_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (bound, _listener) = bind(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).unwrap();
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn another_servers_socket_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (bound, listener) = bind(&path).unwrap();
        drop(listener);
        let (_other, _listener) = bind(&path).unwrap();
        drop(bound);
        assert!(path.exists());
    }

    #[test]
    fn a_path_that_is_too_long_is_said_to_be() {
        let dir = tempfile::tempdir().unwrap();
        let refused = bind(&dir.path().join("s".repeat(150))).unwrap_err();
        assert!(refused.to_string().contains("107"), "{refused}");
    }

    /// As of a killed server, whose requests the kernel has yet to end.
    #[test]
    fn a_socket_that_still_takes_connections_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let dying = UnixListener::bind(&path).unwrap();
        let patience = Duration::from_secs(30);
        let (_bound, _listener) = std::thread::scope(|scope| {
            let next = scope.spawn(|| BoundSocket::bind(&path, Instant::now() + patience));
            // It was asked, so it is waited for.
            dying.accept().unwrap();
            drop(dying);
            next.join().unwrap().unwrap()
        });
        UnixStream::connect(&path).unwrap();
    }
}
