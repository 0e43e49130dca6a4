//! Where clients come in, and who they are.

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use iomgr_core::Errno;
use rustix::net::{SocketFlags, accept_with, getpeername, sockopt};

use crate::config::SEND_BUFFER_BYTES;

/// A socket that clients connect to.
#[derive(Debug)]
pub enum Listener {
    /// A unix stream socket. Who may connect is up to the modes of its path.
    Unix(UnixListener),
    /// A TCP socket. There is no TLS and no authentication: whoever reaches the address reads and writes.
    Tcp(TcpListener),
}

impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        Self::Unix(listener)
    }
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(listener) => listener.as_fd(),
            Self::Tcp(listener) => listener.as_fd(),
        }
    }
}

impl Listener {
    /// Takes in the client that has waited the longest; `EAGAIN` if there is none.
    pub(crate) fn accept(&self) -> Result<Client, Errno> {
        let socket = accept_with(self, SocketFlags::CLOEXEC)?;
        let peer = match self {
            Self::Unix(_) => {
                // With another size it works as well, only not as fast.
                let _best_effort = sockopt::set_socket_send_buffer_size(&socket, SEND_BUFFER_BYTES);
                unix_peer(&socket)
            }
            Self::Tcp(_) => {
                // A connection that cannot have these is as good as gone, and the first receive will say so.
                let _best_effort = sockopt::set_tcp_nodelay(&socket, true);
                let _best_effort = keep_alive(&socket);
                tcp_peer(&socket)
            }
        };
        Ok(Client { socket, peer })
    }
}

/// The kernel's own times would leave a place to a host that was switched off for more than two hours.
fn keep_alive(socket: &OwnedFd) -> Result<(), Errno> {
    sockopt::set_tcp_keepidle(socket, PROBE_AFTER)?;
    sockopt::set_tcp_keepintvl(socket, PROBE_EVERY)?;
    sockopt::set_tcp_keepcnt(socket, PROBES)?;
    sockopt::set_socket_keepalive(socket, true)
}

/// A host that has been silent for so long is asked whether it is there; it is gone when it has not answered so many times.
const PROBE_AFTER: Duration = Duration::from_secs(60);
const PROBE_EVERY: Duration = Duration::from_secs(10);
const PROBES: u32 = 6;

/// Somebody who connected.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) socket: OwnedFd,
    pub(crate) peer: Peer,
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// The process that connected, as the kernel knows it.
    Process { pid: i32, uid: u32 },
    /// The address that it has.
    Address(SocketAddr),
    /// It went before it was asked.
    Unknown,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { pid, uid } => write!(f, "unix pid {pid} uid {uid}"),
            Self::Address(address) => address.fmt(f),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

fn unix_peer(socket: &OwnedFd) -> Peer {
    sockopt::socket_peercred(socket).map_or(Peer::Unknown, |who| Peer::Process {
        pid: who.pid.as_raw_nonzero().get(),
        uid: who.uid.as_raw(),
    })
}

fn tcp_peer(socket: &OwnedFd) -> Peer {
    let address = getpeername(socket).ok().flatten();
    let address = address.and_then(|address| SocketAddr::try_from(address).ok());
    address.map_or(Peer::Unknown, Peer::Address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_named_by_process_or_address() {
        let process = Peer::Process { pid: 123, uid: 0 };
        let address = Peer::Address(SocketAddr::from(([127, 0, 0, 1], 4000)));
        let names = [process, address, Peer::Unknown].map(|peer| peer.to_string());
        assert_eq!(names, ["unix pid 123 uid 0", "127.0.0.1:4000", "unknown"]);
    }
}
