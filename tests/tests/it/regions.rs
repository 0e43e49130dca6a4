//! Group `regions`: I/O to regions, `dmio`, on real devices that stop to answer.

mod cancel;
mod ghost;
mod memory;
mod pause;
mod rig;
mod states;
mod teardown;
mod verb;
mod vhd;
