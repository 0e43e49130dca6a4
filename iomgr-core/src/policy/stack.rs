//! `limit` below another policy, as an overload valve: what the policy lets go must find room as well.
//!
//! Room is looked for before the policy is asked, and taken only after it said go, so that the policy's grant is as good as
//! used. If somebody was quicker in between, the policy gets its grant back: that one is in flight, and its end wakes who
//! waits. (To take a place first, and give it back when the policy says no, would hold up others for something that never
//! was in flight, and nobody would wake them.)

use std::sync::Arc;

use super::Policy;
use super::limit::Limit;
use crate::Timestamp;
use crate::manager::{DeviceInfo, Head, Manager, Refusal, Verdict};

/// A policy and the valve below it, as one manager, which has the policy's name.
#[derive(Debug)]
pub(super) struct Stack {
    top: Arc<dyn Policy>,
    valve: Arc<Limit>,
}

impl Stack {
    pub(super) fn new(top: Arc<dyn Policy>, valve: Arc<Limit>) -> Self {
        Self { top, valve }
    }
}

impl Manager for Stack {
    fn name(&self) -> &str {
        self.top.name()
    }

    fn dev_start(&self, device: &DeviceInfo) -> Result<(), Refusal> {
        self.top.dev_start(device)?;
        self.valve.dev_start(device)
    }

    fn waiting_request(&self, device: &DeviceInfo, now: Timestamp) -> Verdict {
        self.top.waiting_request(device, now)
    }

    fn allow_request(&self, device: &DeviceInfo, head: &Head, now: Timestamp) -> Verdict {
        if let Err(wait) = self.valve.look(device, now) {
            return Verdict::No(wait);
        }
        if let Verdict::No(wait) = self.top.allow_request(device, head, now) {
            self.valve.leave(device);
            return Verdict::No(wait);
        }
        if let Err(wait) = self.valve.take(device) {
            self.top.oo_abort_request(device, head, now);
            return Verdict::No(wait);
        }
        Verdict::Go
    }

    fn alloc_request(&self, device: &DeviceInfo, head: &Head, now: Timestamp) {
        self.top.alloc_request(device, head, now);
    }

    fn oo_abort_request(&self, device: &DeviceInfo, head: &Head, now: Timestamp) {
        self.top.oo_abort_request(device, head, now);
        self.valve.give_back(device);
    }

    fn free_request(&self, device: &DeviceInfo, head: &Head, now: Timestamp) {
        self.top.free_request(device, head, now);
        self.valve.give_back(device);
    }

    fn dev_stop(&self, device: &DeviceInfo) {
        self.top.dev_stop(device);
        self.valve.dev_stop(device);
    }
}
