//! NBD frontend.

pub mod proto;
