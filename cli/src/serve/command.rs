//! `--run`: a command, and a server that lasts as long as it does.
//!
//! Whatever ends first, command or server, the other one ends as well, the server last: so what the command has written is
//! flushed and the image closed, however the command ended.

use std::process::{Command, ExitCode};
use std::sync::Arc;

use vbd::{Address, Server};

use super::{ABANDONED, activation, notify};
use crate::failure::Failure;
use crate::running::{Running, Words, exit_code};
use crate::signals::Caught;

const WORDS: Words = Words {
    option: "--run: the shell",
    asked: "the command is asked to end, and the server ends after it; once more to kill the command",
    closing: "closing; once more to end at once",
    abandoned: ABANDONED,
};

/// Runs `line` by the shell while `server` serves; its exit code becomes ours.
pub(super) fn run(server: Server, line: &str, caught: Caught, manager: &notify::Manager) -> Result<ExitCode, Failure> {
    let stopper = server.stopper();
    let running = Running::new(WORDS, move || stopper.stop());
    let signalled = Arc::clone(&running);
    caught.handle_each(move |signal| signalled.signal(signal))?;
    let Some((mut child, waiter)) = running.start(shell(line, &server))? else {
        server.stop()?;
        return Ok(ExitCode::from(running.code()));
    };
    let served = manager.wait(&server);
    running.end_if_it_runs(
        "the server ends while the command still runs: the command is asked to end (SIGTERM) and waited for",
    );
    // If it panicked, its last words said so; the child is waited for all the same.
    let _waited = waiter.join();
    let status = running.reap(&mut child)?;
    manager.stopping();
    let stopped = server.stop();
    let code = exit_code(status);
    match served.and(stopped) {
        Ok(()) => Ok(ExitCode::from(code)),
        Err(error) => Err(Failure::from(error).exit(code.max(1))),
    }
}

/// The command, with what it needs to know in its environment: the names are nbdkit's.
fn shell(line: &str, server: &Server) -> Command {
    let (mut unixsocket, mut port) = (String::new(), String::new());
    for address in server.addresses() {
        match address {
            Address::Unix(path) => unixsocket = path.to_string_lossy().into_owned(),
            Address::Tcp(address) => port = address.port().to_string(),
        }
    }
    let names: Vec<_> = server.disks().iter().map(|disk| disk.info().name).collect();
    let uris: Vec<_> = names.iter().map(|name| server.addresses()[0].uri(name)).collect();
    let mut command = Command::new("sh");
    command
        .args(["-c", line])
        .env("uri", server.uri())
        .env("uris", uris.join(" "))
        .env("unixsocket", unixsocket)
        .env("port", port)
        .env("exportname", &names[0])
        .env("iomgr_control", server.control());
    for name in activation::VARIABLES.iter().chain(&notify::VARIABLES) {
        command.env_remove(name);
    }
    command
}
