//! Borrowed memory whose queue is taken away: the process ends rather than let an op touch what the caller has back.

use std::io::IoSlice;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use iomgr_core::{Action, FileHandle, Op, OpQueue, Owner, Token};
use tqueue::{Borrowed, Config, EngineKind, Queue};

const ME: &str = "borrow::a_queue_that_is_taken_away_ends_the_process";
/// Set in the process that is to end.
const VICTIM: &str = "TQUEUE_TEST_VICTIM";

struct Owned(Queue);

impl AsMut<Queue> for Owned {
    fn as_mut(&mut self) -> &mut Queue {
        &mut self.0
    }
}

fn queue() -> Owned {
    let config = Config {
        engine: EngineKind::Sync,
        lent: 1,
        ..Config::default()
    };
    Owned(Queue::new(&config).unwrap())
}

#[test]
fn a_queue_that_is_taken_away_ends_the_process() {
    if std::env::var_os(VICTIM).is_some() {
        return take_away();
    }
    let mut victim = Command::new(std::env::current_exe().unwrap());
    victim
        .args(["--exact", ME])
        .env(VICTIM, "1")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let status = victim.status().unwrap();
    assert_eq!(status.signal(), Some(6), "SIGABRT, not {status}");
}

fn take_away() {
    let (mut ours, mut other) = (queue(), queue());
    let file = ours
        .0
        .add_file(&FileHandle::new(tempfile::tempfile().unwrap()))
        .unwrap();
    let _ended = Queue::borrowed(
        &mut ours,
        Borrowed::Shared(&[IoSlice::new(&[1; 512])]),
        |ours, parts| {
            let action = Action::Write {
                offset: 0,
                data: parts[0],
                durable: false,
            };
            let token = Token::new(Owner(0), 0);
            ours.0.push(Op { token, file, action }).unwrap();
            std::mem::swap(ours, &mut other);
        },
    );
}
