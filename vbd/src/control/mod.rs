//! The control socket: JSON lines, one request and one or more answers each, versioned.
//!
//! ```text
//! → {"v":1,"verb":"manager-set","manager":{"policy":{"name":"limit","max":8}}}
//! ← {"v":1,"ok":true,"manager":{…}}
//! → {"v":1,"verb":"stop"}
//! ← {"v":1,"ok":true,"stopping":true}
//! ← {"v":1,"ok":true,"stopped":true}                      when everything is flushed and closed
//! ← {"v":1,"ok":false,"kind":"not-found","error":"…"}     whenever something is wrong
//! ```
//!
//! ```text
//!  line ─► request ─► session ─┬─ governing: the manager and its parameters ─┐
//!                              ├─ sample: what was done between two looks   ─┼─► service, which each server implements
//!                              └─ disks: pause, resume, attach, detach      ─┘
//! ```
//!
//! # Contract
//! - A wish to stop counts, whether or not its client stays for the answers.
//! - What outlives the server here are threads of silent clients, for a minute, and they hold no disk.
//! - A client that holds a lease may be silent; the lease ends with its connection.
//!
//! Answers may gain fields within a version; what has no meaning for a client is to be ignored. A request that holds what has
//! no meaning for the server is refused.

mod answer;
mod client;
mod disks;
mod distinct;
mod farewell;
mod governing;
mod hooks;
mod policies;
mod request;
mod sample;
mod server;
mod service;
mod session;

pub use answer::ControlAnswer;
pub use client::ControlClient;
pub use hooks::{GenerationStatus, HookStatus, ManagerStatus, NgStatus, WaitStatus};
pub use policies::{ParameterInfo, PolicyInfo, policies};
pub use request::{
    AttachRequest, ControlRequest, DetachRequest, ManagerSet, ManagerUnset, Nothing, PauseRequest, ResumeRequest,
    Seconds, StatsRequest, Verb,
};
pub use sample::{DiskSample, Sample};
pub(crate) use server::Control;
pub(crate) use service::Service;

/// The version spoken here.
const VERSION: u32 = 1;
