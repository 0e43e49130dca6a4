//! What a service manager is told (`sd_notify`): ready, alive, stopping.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use vbd::Error;

use super::service::Service;

/// The variables of the protocol, which are not meant for processes that we start.
pub(super) const VARIABLES: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"];

/// Who wants to know, if anybody does. That it cannot be told is no reason not to serve: it is logged.
#[derive(Debug)]
pub(super) struct Manager {
    /// Not kept open: a manager may start anew.
    address: Option<SocketAddr>,
    /// It wants to hear from us so often.
    watchdog: Option<Duration>,
}

impl Manager {
    pub(super) fn from_env() -> Self {
        let wanted = std::env::var_os("NOTIFY_SOCKET").filter(|value| !value.is_empty());
        let address = wanted.and_then(|text| {
            let cannot = |error: &io::Error| tracing::warn!(socket = ?text, %error, "notify_socket: cannot be used");
            address(&text).inspect_err(cannot).ok()
        });
        let var = |name| std::env::var(name).ok();
        let watchdog = interval(var("WATCHDOG_USEC"), var("WATCHDOG_PID"), std::process::id());
        Self { address, watchdog }
    }

    /// Clients can connect.
    pub(super) fn ready(&self, server: &impl Service) {
        let status = format!("serving {} at {}", server.names().join(", "), server.place());
        self.tell(&format!("READY=1\nSTATUS={}\n", status.replace(char::is_control, " ")));
    }

    /// The end has begun.
    pub(super) fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=closing\n");
    }

    /// [`Service::wait`]; meanwhile the manager is told, as often as it wants, that all queue threads are alive.
    pub(super) fn wait(&self, server: &impl Service) -> Result<(), Error> {
        let Some(often) = self.watchdog.filter(|_| self.address.is_some()) else {
            return server.wait();
        };
        std::thread::scope(|scope| {
            let (over, end) = channel::<()>();
            scope.spawn(move || {
                while end.recv_timeout(often) == Err(RecvTimeoutError::Timeout) && server.is_alive() {
                    self.tell("WATCHDOG=1\n");
                }
            });
            let ended = server.wait();
            drop(over);
            ended
        })
    }

    fn tell(&self, text: &str) {
        let Some(address) = &self.address else { return };
        let sent = UnixDatagram::unbound().and_then(|socket| socket.send_to_addr(text.as_bytes(), address));
        if let Err(error) = sent {
            tracing::warn!(%error, text, "notify: the service manager cannot be told");
        }
    }
}

/// A path, or the name of an abstract socket behind an `@`.
fn address(text: &OsStr) -> io::Result<SocketAddr> {
    match text.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(text),
        _ => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "neither a path nor an abstract socket",
        )),
    }
}

/// Half of the time after which the manager gives us up, as its documentation advises.
fn interval(usec: Option<String>, pid: Option<String>, own: u32) -> Option<Duration> {
    let usec: u64 = usec?.parse().ok().filter(|&usec| usec > 0)?;
    let for_us = pid.is_none_or(|pid| pid.parse() == Ok(own));
    for_us.then(|| Duration::from_micros(usec.div_ceil(2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watchdog_for_another_process_is_none_of_ours() {
        let usec = || Some("3000000".to_owned());
        assert_eq!(interval(usec(), None, 7), Some(Duration::from_millis(1500)));
        assert_eq!(interval(usec(), Some("7".into()), 7), Some(Duration::from_millis(1500)));
        assert_eq!(interval(usec(), Some("8".into()), 7), None);
        assert_eq!(interval(Some("0".into()), None, 7), None);
        assert_eq!(interval(Some("soon".into()), None, 7), None);
        assert_eq!(interval(None, None, 7), None);
    }

    #[test]
    fn sockets_are_paths_or_abstract() {
        assert!(address("/run/notify".as_ref()).unwrap().as_pathname().is_some());
        let hidden = address("@notify".as_ref()).unwrap();
        assert_eq!(hidden.as_abstract_name(), Some(&b"notify"[..]));
        assert!(address("vsock:2:1234".as_ref()).is_err());
    }
}
