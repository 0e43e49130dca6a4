//! The sockets of a server: made here, or taken over from who started it.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use blkdev_nbd::Listener;
use rustix::net::{SocketAddrUnix, SocketType, getsockname, sockopt};

use super::{Address, ServerOptions};
use crate::error::{Error, ErrorKind};
use crate::patience::wait_until;
use crate::runtime::make_runtime_dir;
use crate::socket::{BACKLOG, BoundSocket};

/// Sockets that listen already, from a service manager or another program that starts servers. They are left as they are at
/// the end: who passed them keeps them.
#[derive(Clone, Debug, Default)]
pub struct Inherited {
    /// Where NBD clients connect. With one of these, no unix socket is made unless [`ServerOptions::socket`] names it.
    pub nbd: Vec<Arc<OwnedFd>>,
    /// The control socket.
    pub control: Option<Arc<OwnedFd>>,
}

/// Where NBD clients come in.
#[derive(Debug)]
pub(super) struct Doors {
    /// Unix first: it is what who asks for one address is told.
    pub(super) addresses: Vec<Address>,
    pub(super) listeners: Vec<Listener>,
    /// The unix socket that this server has made.
    pub(super) socket: Option<BoundSocket>,
}

impl Doors {
    pub(super) fn open(options: &ServerOptions, name: &str, deadline: Instant) -> Result<Self, Error> {
        let mut doors = Self {
            addresses: Vec::new(),
            listeners: Vec::new(),
            socket: None,
        };
        if options.socket.is_some() || options.inherited.nbd.is_empty() {
            let (socket, listener) = bind(options.socket.as_deref(), name, "sock", deadline)?;
            doors.add(Address::Unix(socket.path().to_owned()), listener);
            doors.socket = Some(socket);
        }
        for fd in &options.inherited.nbd {
            let (address, listener) = adopt(fd)?;
            check_reach(&address, options.insecure)?;
            doors.add(address, listener);
        }
        for &address in &options.listen {
            let (address, listener) = listen(address, deadline)?;
            doors.add(Address::Tcp(address), listener);
        }
        Ok(doors)
    }

    fn add(&mut self, address: Address, listener: impl Into<Listener>) {
        self.addresses.push(address);
        self.listeners.push(listener.into());
    }
}

/// The control socket.
#[derive(Debug)]
pub(crate) struct ControlDoor {
    pub(crate) path: PathBuf,
    pub(crate) listener: UnixListener,
    /// If it was made here.
    pub(crate) socket: Option<BoundSocket>,
}

impl ControlDoor {
    pub(super) fn open(options: &ServerOptions, name: &str, deadline: Instant) -> Result<Self, Error> {
        if let Some(fd) = &options.inherited.control {
            return match adopt(fd)? {
                (Address::Unix(path), Listener::Unix(listener)) => Ok(Self {
                    path,
                    listener,
                    socket: None,
                }),
                _ => Err(refuse("the control socket that was passed is no unix socket")),
            };
        }
        Self::make(options.control.as_deref(), name, deadline)
    }

    /// Makes one where it was asked for, or by that name in the runtime folder.
    pub(super) fn make(given: Option<&Path>, name: &str, deadline: Instant) -> Result<Self, Error> {
        let (socket, listener) = bind(given, name, "ctl", deadline)?;
        Ok(Self {
            path: socket.path().to_owned(),
            listener,
            socket: Some(socket),
        })
    }
}

fn bind(
    given: Option<&Path>,
    name: &str,
    extension: &str,
    deadline: Instant,
) -> Result<(BoundSocket, UnixListener), Error> {
    match given {
        Some(path) => BoundSocket::bind(path, deadline),
        None => BoundSocket::bind(&make_runtime_dir()?.join(format!("{name}.{extension}")), deadline),
    }
}

/// Whoever reaches a TCP address reads and writes the disks.
pub(super) fn check_reach(address: &Address, insecure: bool) -> Result<(), Error> {
    match address {
        Address::Tcp(address) if !address.ip().to_canonical().is_loopback() && !insecure => Err(Error::new(
            ErrorKind::InvalidOption,
            format!(
                "{address} can be reached from other machines, and there is no TLS yet: everybody there could read and write \
             the disks; listen on 127.0.0.1 behind a tunnel (as by ssh -L), or say --insecure"
            ),
        )),
        _ => Ok(()),
    }
}

/// Listens, and tells where: port 0 is any that is free. One that another server has is waited for until the deadline, as a unix
/// socket is.
fn listen(address: SocketAddr, deadline: Instant) -> Result<(SocketAddr, TcpListener), Error> {
    let attempt = || match try_listen(address) {
        Ok(listening) => Ok(Some(listening)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
        Err(error) => Err(cannot_listen(address, error)),
    };
    let tell = || tracing::warn!(%address, "address_taken: waiting for who listens there to end");
    wait_until(deadline, attempt, tell)?.ok_or_else(|| cannot_listen(address, rustix::io::Errno::ADDRINUSE.into()))
}

fn try_listen(address: SocketAddr) -> io::Result<(SocketAddr, TcpListener)> {
    let listener = TcpListener::bind(address)?;
    // The standard library lets 128 clients wait.
    rustix::net::listen(&listener, BACKLOG)?;
    Ok((listener.local_addr()?, listener))
}

fn cannot_listen(address: SocketAddr, error: io::Error) -> Error {
    let way_out = match error.kind() {
        io::ErrorKind::AddrInUse => "another program listens there; choose another port, or 0 for any that is free",
        io::ErrorKind::AddrNotAvailable => "this machine does not have that address; `ip address` lists those it has",
        io::ErrorKind::PermissionDenied => "ports below 1024 need privilege; choose a higher one",
        _ => "choose another address",
    };
    let what = format!("cannot listen on {address}: {way_out}");
    Error::new(ErrorKind::Server, what).because(error)
}

/// Takes a descriptor of a socket that listens.
fn adopt(fd: &OwnedFd) -> Result<(Address, Listener), Error> {
    let fail = |error: io::Error| refuse("a descriptor that was passed is no socket that can be used").because(error);
    // A descriptor of our own for the same socket, not to be inherited.
    let fd = fd.try_clone().map_err(fail)?;
    let is_stream = sockopt::socket_type(&fd).map_err(|errno| fail(errno.into()))? == SocketType::STREAM;
    if !is_stream || !sockopt::socket_acceptconn(&fd).map_err(|errno| fail(errno.into()))? {
        return Err(refuse("a socket that was passed does not listen for streams"));
    }
    let name = getsockname(&fd).map_err(|errno| fail(errno.into()))?;
    if let Ok(address) = SocketAddr::try_from(name.clone()) {
        return Ok((Address::Tcp(address), TcpListener::from(fd).into()));
    }
    let unix = SocketAddrUnix::try_from(name).ok();
    match unix.as_ref().and_then(SocketAddrUnix::path) {
        Some(path) => {
            use std::os::unix::ffi::OsStrExt;
            let path = PathBuf::from(std::ffi::OsStr::from_bytes(path.to_bytes()));
            Ok((Address::Unix(path), UnixListener::from(fd).into()))
        }
        None => Err(refuse(
            "a socket that was passed is neither TCP nor a unix socket with a path",
        )),
    }
}

fn refuse(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Server, what)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;
    use std::sync::Mutex;
    use std::time::Duration;

    use super::*;
    use crate::test_log::hearing;

    fn options() -> ServerOptions {
        ServerOptions::default()
    }

    fn tcp(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn only_loopback_is_listened_on_without_being_told_to() {
        for (text, ok) in [
            ("127.0.0.1:1", true),
            ("127.8.9.1:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("192.0.2.1:1", false),
        ] {
            let address = Address::Tcp(tcp(text));
            assert_eq!(check_reach(&address, false).is_ok(), ok, "{text}");
            assert!(check_reach(&address, true).is_ok(), "{text}");
        }
    }

    #[test]
    fn any_free_port_is_told() {
        let (address, _listener) = listen(tcp("127.0.0.1:0"), Instant::now()).unwrap();
        assert_ne!(address.port(), 0);
        let taken = listen(address, Instant::now()).unwrap_err().to_string();
        assert!(
            taken.contains(&address.to_string()) && taken.contains("another port"),
            "{taken}"
        );
    }

    #[test]
    fn a_port_that_is_about_to_be_free_is_waited_for() {
        let dying = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = dying.local_addr().unwrap();
        let dying = Mutex::new(Some(dying));
        let end = move |said: &str| {
            assert!(said.contains("address_taken"), "{said}");
            *dying.lock().unwrap() = None;
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        let listening = hearing(end, || listen(address, deadline));
        assert_eq!(listening.unwrap().0, address);
    }

    #[test]
    fn what_listens_already_is_taken_over_and_left_to_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let unix: Arc<OwnedFd> = Arc::new(UnixListener::bind(&path).unwrap().into());
        let net = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = net.local_addr().unwrap();
        let inherited = Inherited {
            nbd: vec![Arc::clone(&unix), Arc::new(net.into())],
            control: Some(unix),
        };
        let options = ServerOptions { inherited, ..options() };
        let doors = Doors::open(&options, "a", Instant::now()).unwrap();
        assert_eq!(doors.addresses, [Address::Unix(path.clone()), Address::Tcp(there)]);
        assert_eq!(ControlDoor::open(&options, "a", Instant::now()).unwrap().path, path);
        drop(doors);
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn what_cannot_be_served_is_refused() {
        let (stream, _peer) = UnixStream::pair().unwrap();
        let datagram = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let abstract_name = {
            use std::os::linux::net::SocketAddrExt;
            let name = format!("iomgr-doors-{}", std::process::id());
            let address = std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap();
            UnixListener::bind_addr(&address).unwrap()
        };
        for fd in [
            OwnedFd::from(stream),
            datagram.into(),
            file.into(),
            abstract_name.into(),
        ] {
            assert!(adopt(&fd).is_err(), "{fd:?}");
        }
    }
}
