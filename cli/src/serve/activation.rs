//! Sockets that a service manager has opened for us (`LISTEN_FDS`).
//!
//! One that is called `control` becomes the control socket, all others are for NBD clients.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::{FdFlags, fcntl_setfd};
use vbd::Inherited;

use crate::failure::Failure;

/// The variables of the protocol, for who starts a process of ours: they are not meant for that one.
pub(super) const VARIABLES: [&str; 4] = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID"];

/// The name of the control socket, as by `FileDescriptorName=`.
const CONTROL: &str = "control";
/// A service manager passes a handful.
const SOCKETS_MAX: u32 = 64;
/// The first of them, by the protocol.
const FIRST: u32 = 3;

/// Takes what was passed to this very process; nothing, as a rule. To be called before anything is opened: a descriptor that
/// was announced and is not there would be somebody else's by then.
pub(super) fn take() -> Result<Inherited, Failure> {
    let var = |name| std::env::var(name).ok();
    let Some(count) = announced(var("LISTEN_PID"), var("LISTEN_FDS"), std::process::id())? else {
        return Ok(Inherited::default());
    };
    let missing = |fd: &u32| !std::path::Path::new(&format!("/proc/self/fd/{fd}")).exists();
    if let Some(fd) = (FIRST..FIRST + count).find(missing) {
        return Err(wrong(&format!("descriptor {fd} is not open")));
    }
    let passed = sd_listen_fds::get().map_err(|error| wrong("it makes no sense").because(error))?;
    let mut inherited = Inherited::default();
    for (name, fd) in passed {
        let fd: OwnedFd = fd.into_std();
        fcntl_setfd(&fd, FdFlags::CLOEXEC).map_err(|errno| wrong("a descriptor cannot be used").because(errno))?;
        match name.as_deref() {
            Some(CONTROL) if inherited.control.is_some() => return Err(wrong("two sockets are called control")),
            Some(CONTROL) => inherited.control = Some(Arc::new(fd)),
            _ => inherited.nbd.push(Arc::new(fd)),
        }
    }
    Ok(inherited)
}

/// How many descriptors are passed to the process `own`.
fn announced(pid: Option<String>, fds: Option<String>, own: u32) -> Result<Option<u32>, Failure> {
    match (pid, fds) {
        (Some(pid), Some(fds)) if pid.parse() == Ok(own) => match fds.parse() {
            Ok(0) => Ok(None),
            Ok(count @ 1..=SOCKETS_MAX) => Ok(Some(count)),
            _ => Err(wrong(&format!("{fds:?} is no number from 0 to {SOCKETS_MAX}"))),
        },
        _ => Ok(None),
    }
}

fn wrong(what: &str) -> Failure {
    Failure::new(format!(
        "LISTEN_FDS, the sockets passed by a service manager: {what}; unset it to have none"
    ))
}

#[cfg(test)]
mod tests {
    fn announced(pid: &str, fds: &str) -> Result<Option<u32>, String> {
        super::announced(Some(pid.into()), Some(fds.into()), 42).map_err(|failure| failure.to_string())
    }

    #[test]
    fn only_what_is_meant_for_this_process_is_taken() {
        assert_eq!(announced("42", "2"), Ok(Some(2)));
        assert_eq!(announced("41", "2"), Ok(None));
        assert_eq!(announced("", "2"), Ok(None));
        assert_eq!(announced("42", "0"), Ok(None));
        assert!(super::announced(None, Some("2".into()), 42).unwrap().is_none());
    }

    #[test]
    fn an_absurd_number_is_refused() {
        for absurd in ["4294967295", "65", "-1", "many"] {
            assert!(
                announced("42", absurd).unwrap_err().contains("from 0 to 64"),
                "{absurd}"
            );
        }
    }
}
