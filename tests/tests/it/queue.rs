//! Group `queue`: the queue of operations on devices and file systems that fail it.

mod filters;
mod guilty;
mod retry;
mod stall;
