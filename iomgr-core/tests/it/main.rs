//! The crate's tests through its public interface.

mod support;

mod epoch;
mod registry;
mod requests;
