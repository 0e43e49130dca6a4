//! VHD disk images: codecs, map and crash-safe allocation, without doing I/O itself.
//!
//! Fixed and dynamic images are opened, created, checked and (their footers) repaired. Differencing images are
//! recognised and refused. `Storage` of `iomgr-core` is what the blocking parts go through: [`create()`],
//! [`Image::open`], [`Allocator::close`]. The data path does no I/O at all: a [`Map`] says where sectors lie, an
//! [`Allocator`] names the I/O that changes it.
//!
//! ```text
//!   layout            bytes ↔ values
//!   image, structure  trust rules, checked frame, BAT
//!   map, bitmap       lookups, shared by all queue threads
//!   alloc             the one machine that changes the map
//!   check, repair     all that is wrong with an image; its footers put right
//! ```
#![forbid(unsafe_code)]

mod alloc;
mod bitmap;
mod check;
mod create;
mod error;
mod finding;
mod footers;
mod image;
mod info;
pub mod layout;
mod map;
mod repair;
mod shape;
mod structure;
mod table;

pub use alloc::{Allocator, AllocatorOptions, Event, Fence, Full, Step, StepAction, StepId};
pub use bitmap::BitmapCache;
pub use check::{Report, Stats, Verdict, check};
pub use create::{CreateOptions, DEFAULT_BLOCK_BYTES, Kind, create};
pub use error::{Context, Error, ErrorKind};
pub use finding::{Finding, Severity};
pub use footers::State;
pub use image::{FixedData, Image, OpenOptions, Parts};
pub use info::{Info, info};
pub use map::{BitmapRef, Extent, Map};
pub use repair::{Action, repair};
pub use shape::{MAX_BLOCK_BYTES, MAX_BLOCKS, MAX_DYNAMIC_BYTES, MIN_BLOCK_BYTES, Shape};
