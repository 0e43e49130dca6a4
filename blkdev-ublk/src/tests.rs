//! The traps of the driver, each a test against the driver that [`fake`](crate::fake) plays.

mod file_device;
mod hand_over;
mod life;
mod queues;
mod recovery;
mod refusals;
mod requests;
mod rig;
mod unprivileged;
mod watched;
mod zero_copy;
