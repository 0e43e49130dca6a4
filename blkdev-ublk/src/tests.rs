//! The traps of the driver, each a test against the driver that [`fake`](crate::fake) plays.

mod hand_over;
mod life;
mod queues;
mod recovery;
mod refusals;
mod requests;
mod rig;
mod unprivileged;
mod watched;
