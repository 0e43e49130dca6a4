//! The real engines on real files and sockets. Every test runs on io_uring, on io_uring without anything that can be
//! masked, and on the synchronous engine.

mod disk;
mod net;
mod rig;
