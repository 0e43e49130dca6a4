//! Short stories, for people to read: what the rules come to.

mod choices;
mod ends;
mod reads;
mod room;
mod writes;
