//! The binary as its users see it: words, exit codes, texts and JSON. Each test starts the real program in a folder of
//! its own.

mod bad_input;
mod help;
mod images;
mod machine;
mod run;
mod serving;
