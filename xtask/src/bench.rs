//! `cargo xtask bench`.
use crate::Result;
use clap::Args as ClapArgs;
/// args
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {}
pub(crate) fn run(_args: &Args) -> Result {
    Err("x".into())
}
