//! The kernel's driver as the rest of this crate sees it. [`kernel`](crate::kernel) is the real one; tests bring their own,
//! which plays the kernel in the same process.

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Receiver;
use iomgr_core::{Data, Errno, OpError, Token};
use tqueue::{NetFull, Queue};

use crate::Error;
use crate::abi::{ControlOp, Descriptor};

/// What a server needs of the driver.
pub(crate) trait Driver: Debug {
    /// Opens the control device.
    fn control(&self) -> Result<Box<dyn ControlPort>, Error>;

    /// Opens the device that requests are fetched from. The driver lets go of it when the last clone is dropped.
    fn open(&self, device: u32) -> Result<Arc<dyn CharDevice>, Error>;

    /// May this process read and write at that node?
    fn may_use(&self, node: &Path) -> bool;
}

/// A control command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ControlCall {
    pub(crate) op: ControlOp,
    pub(crate) device: u32,
    /// The command's own argument.
    pub(crate) data: u64,
    /// Is the device named by the path of its character device as well? Who may use that may send the command.
    pub(crate) by_path: bool,
    /// How long it may take.
    pub(crate) timeout: Duration,
}

/// The control device.
pub(crate) trait ControlPort: Debug + Send {
    /// Runs a command; `structure` goes in, and comes back as the driver has changed it.
    fn run(&mut self, call: ControlCall, structure: &mut [u8]) -> Result<(), Errno>;

    /// Has what the page cache holds of a block device written back; tells when it is.
    fn write_back(&self, device: u32) -> Receiver<Result<(), Errno>>;
}

/// A device whose requests can be fetched.
pub(crate) trait CharDevice: Debug + Send + Sync {
    /// Gets at one of its queues, on the thread that will serve it, with that thread's queue.
    fn open_queue(&self, index: u16, depth: u16, io: &mut Queue) -> Result<Box<dyn QueuePort>, Error>;
}

/// One hardware queue. Everything happens on the thread that opened it.
pub(crate) trait QueuePort: Debug {
    /// Asks for the first request of a tag, whose data go to and come from `buffer` from now on. Completes as `token`, and so
    /// do all commits of the tag.
    fn fetch(&mut self, io: &mut Queue, tag: u16, buffer: Data, token: Token) -> Result<(), Errno>;

    /// Ends the request of a tag and asks for the next.
    fn commit(&mut self, io: &mut Queue, tag: u16, result: i32) -> Result<(), NetFull>;

    /// What the completion of a fetch or commit means.
    fn delivered(&mut self, io: &mut Queue, tag: u16, result: Result<u32, OpError>) -> Result<Delivery, Errno>;

    /// Lets go of the device.
    fn close(self: Box<Self>, io: &mut Queue);
}

/// What came for a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// A request.
    Request(Descriptor),
    /// The device stops: nothing more will come.
    Aborted,
}
