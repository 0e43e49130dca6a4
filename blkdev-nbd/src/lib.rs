//! NBD frontend.

#![forbid(unsafe_code)]

mod config;
mod error;
mod export;
pub mod proto;
mod server;
#[cfg(any(test, feature = "test-utils"))]
pub mod test_utils;
mod worker;

pub use config::{ConnectionLimits, ServerConfig};
pub use error::{Error, ErrorKind};
pub use export::Export;
pub use server::{Server, ServerStats};
