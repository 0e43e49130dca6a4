//! The server, asked by a client of our own over a real socket, and by other people's clients where they are installed.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod attach;
mod backlog;
mod chaos;
mod client;
mod clients;
mod commands;
mod hostile;
mod lifecycle;
mod listeners;
mod managers;
mod memory;
mod protocol;
mod server;
mod structured;
mod timeouts;
