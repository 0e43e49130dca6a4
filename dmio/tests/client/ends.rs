//! How clients end whose devices work on their own.

use std::error::Error;
use std::rc::Rc;
use std::sync::Arc;

use dmio::{Client, ClientConfig, ErrorKind, FileDevice, FileOptions, IoRequest, Notification, Notify};
use iomgr_core::{
    Action, Busy, CancelOutcome, Device, DeviceQueue, Done, FileHandle, FileSlot, Limits, Op, OpDone, OpQueue, Owner,
    Pass, QueueContext, Request, Tag, Token,
};
use tqueue::EngineKind;

use crate::rig::{Rig, region};

/// Goes on with an op of its own after a request: a device that reserves space ahead, say.
#[derive(Debug)]
struct Tidy {
    below: Arc<dyn Device>,
    file: FileHandle,
}

#[derive(Debug)]
struct TidyQueue {
    below: Box<dyn DeviceQueue>,
    owner: Owner,
    file: FileSlot,
    is_tidying: bool,
}

/// Its own op.
const OWN: u64 = u64::MAX >> 16;

impl Device for Tidy {
    fn name(&self) -> &str {
        "tidy"
    }

    fn limits(&self) -> Limits {
        self.below.limits()
    }

    fn open_queue(&self, cx: QueueContext<'_>) -> Result<Box<dyn DeviceQueue>, Box<dyn Error + Send + Sync>> {
        Ok(Box::new(TidyQueue {
            owner: cx.owner,
            file: cx.io.add_file(&self.file)?,
            below: self.below.open_queue(cx)?,
            is_tidying: false,
        }))
    }
}

impl DeviceQueue for TidyQueue {
    fn submit(&mut self, pass: &mut Pass<'_>, request: Request) -> Result<(), Busy> {
        self.below.submit(pass, request)
    }

    fn op_done(&mut self, pass: &mut Pass<'_>, done: OpDone) {
        self.is_tidying = done.token.value() != OWN;
        if !self.is_tidying {
            return;
        }
        self.below.op_done(pass, done);
        let op = Op {
            token: Token::new(self.owner, OWN),
            file: self.file,
            action: Action::Flush,
        };
        pass.io.push(op).unwrap();
    }

    fn kick(&mut self, pass: &mut Pass<'_>) {
        self.below.kick(pass);
    }

    fn poll_done(&mut self) -> Option<Done> {
        self.below.poll_done()
    }

    fn busy(&self) -> bool {
        self.below.busy()
    }

    fn cancel(&mut self, pass: &mut Pass<'_>, tag: Tag) -> CancelOutcome {
        self.below.cancel(pass, tag)
    }

    fn is_idle(&self) -> bool {
        !self.is_tidying && self.below.is_idle()
    }

    fn close(self: Box<Self>, io: &mut dyn OpQueue) {
        io.remove_file(self.file);
        self.below.close(io);
    }
}

#[test]
fn what_devices_do_on_their_own_is_waited_for() {
    for engine in [EngineKind::Auto, EngineKind::Sync] {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let below = Arc::new(FileDevice::open(file.path(), FileOptions::default()).unwrap());
        let config = ClientConfig {
            devices: vec![Arc::new(Tidy {
                below,
                file: FileHandle::new(file.reopen().unwrap()),
            })],
            engine,
            ..ClientConfig::default()
        };
        let mut client = Client::new(config).unwrap();
        let at = [region(0, 0, 8)];
        client.io_sync(IoRequest::write_zeroes(&at), None).unwrap();
        let busy = client.destroy().unwrap_err();
        assert_eq!(busy.error.to_string(), "devices have work of their own to end");
        // It hangs, where a client sleeps until there is something to tell.
        busy.client.destroy_wait(None).unwrap();
    }
}

#[test]
fn a_client_is_not_destroyed_by_its_own_notification() {
    struct Destroys;
    impl Notify for Destroys {
        fn notify(&self, client: &mut Client, _: Notification) {
            let own = std::mem::replace(client, Rig::new(1).client);
            let refused = own.destroy_wait(None).unwrap_err();
            assert_eq!(refused.error.kind(), ErrorKind::Deadlock);
            *client = *refused.client;
        }
    }
    let mut rig = Rig::new(1);
    let at = [region(0, 0, 8)];
    let handle = rig
        .client
        .io(IoRequest::write_zeroes(&at), Some(Rc::new(Destroys)))
        .unwrap();
    rig.client.wait(&handle, None).unwrap();
}
