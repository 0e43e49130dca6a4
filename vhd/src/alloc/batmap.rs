//! The batmap: emptied before a session's first change, so that it never claims what is not; see [`close`](super::close)
//! for its being made anew.

use iomgr_core::Errno;

use super::step::{Job, StepAction};
use super::{Allocator, STEP_BYTES_MAX};
use crate::layout::{BATMAP_HEADER_BYTES, BatmapRepr};
use crate::structure::Batmap;

/// Emptying a batmap that has bits, before the first change of the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BatmapClear {
    /// The map's bytes from here on are still to be written.
    Map(u64),
    /// Then the header, with the checksum of an empty map.
    Header,
    Done,
}

impl Allocator {
    pub(super) fn batmap(&self) -> Option<(u64, &BatmapRepr)> {
        match &self.frame.batmap {
            Batmap::Valid { header_at, header, .. } => Some((*header_at, header)),
            _ => None,
        }
    }

    pub(super) fn batmap_action(&mut self) -> Option<(Job, StepAction)> {
        // One at a time, and only when there is something to change.
        let busy = self
            .steps
            .any(|job| matches!(job, Job::BatmapClear | Job::BatmapHeader));
        if busy || self.tasks.is_idle() {
            return None;
        }
        let (header_at, header) = self.batmap().expect("only a valid batmap is emptied");
        match self.batmap_clear {
            BatmapClear::Map(from) => {
                let len = (u64::from(header.map_sectors) * 512 - from).min(STEP_BYTES_MAX);
                let len = usize::try_from(len).expect("at most 64 KiB");
                Some((
                    Job::BatmapClear,
                    StepAction::Write {
                        offset: header.map_offset + from,
                        len,
                    },
                ))
            }
            _ => Some((
                Job::BatmapHeader,
                StepAction::Write {
                    offset: header_at,
                    len: BATMAP_HEADER_BYTES,
                },
            )),
        }
    }

    pub(super) fn fill_batmap_header(&self, bytes: &mut [u8]) {
        let (_, header) = self.batmap().expect("only a valid batmap is emptied");
        bytes.copy_from_slice(
            &BatmapRepr {
                checksum: !0,
                ..header.clone()
            }
            .emit(),
        );
    }

    /// The batmap is a hint, and set bits stay right unless blocks are freed: a failure is no reason to stop.
    pub(super) fn batmap_step_done(&mut self, job: Job, result: Result<(), Errno>) {
        let (_, header) = self.batmap().expect("only a valid batmap is emptied");
        let len = u64::from(header.map_sectors) * 512;
        self.batmap_clear = match (job, self.batmap_clear) {
            (Job::BatmapClear, BatmapClear::Map(from)) if result.is_ok() && from + STEP_BYTES_MAX < len => {
                BatmapClear::Map(from + STEP_BYTES_MAX)
            }
            (Job::BatmapClear, _) if result.is_ok() => BatmapClear::Header,
            _ => BatmapClear::Done,
        };
    }
}
