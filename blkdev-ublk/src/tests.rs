//! The traps of the driver, each a test against the driver that [`fake`](crate::fake) plays.

mod life;
mod queues;
mod refusals;
mod requests;
mod rig;
mod watched;
