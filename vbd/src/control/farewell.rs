//! Who wants to hear how a server ended.

use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use super::ControlAnswer;
use crate::error::Error;

/// Clients that asked for the end and wait for it. They are answered by who has ended the server, not by threads of
/// their own: those would race the end of the process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Farewell(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    clients: Vec<UnixStream>,
    /// How it ended, once it has.
    last: Option<ControlAnswer>,
}

impl Farewell {
    pub(super) fn wait(&self, mut client: UnixStream) -> std::io::Result<()> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &waiting.last {
            Some(last) => last.write(&mut client),
            None => {
                waiting.clients.push(client);
                Ok(())
            }
        }
    }

    /// Tells all of them how the server ended.
    pub(crate) fn tell(&self, result: &Result<(), Error>) {
        let last = match result {
            Ok(()) => ControlAnswer::stopped(),
            Err(error) => ControlAnswer::error(error),
        };
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for mut client in waiting.clients.drain(..) {
            // Who went away does not want to know.
            let _ = last.write(&mut client);
        }
        waiting.last = Some(last);
    }
}
