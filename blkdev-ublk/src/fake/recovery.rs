//! Servers that die or leave, and those that come after them, as the driver that is played sees it.

use std::sync::Arc;

use iomgr_core::Errno;

use super::{Device, Shared, Stage};
use crate::Features;
use crate::abi::{DeviceState, Params};

impl Device {
    fn has(&self, feature: Features) -> bool {
        self.info.features.contains(feature)
    }

    /// Do requests wait while there is no server?
    fn queues_io(&self) -> bool {
        self.has(Features::USER_RECOVERY) && !self.has(Features::USER_RECOVERY_FAIL_IO)
    }

    /// Nobody has the character device open any more: what its server had is taken back.
    pub(super) fn released(&mut self) {
        self.is_open = false;
        if self.info.state != DeviceState::Live && !self.is_recovering {
            return;
        }
        let (waits, reissues) = (self.queues_io(), self.has(Features::USER_RECOVERY_REISSUE));
        for tag in &mut self.tags {
            let outstanding = match &tag.stage {
                // It did not get to the server.
                Stage::Sent(request, bytes) if waits => Some((*request, bytes.clone())),
                Stage::Served(request) if waits && reissues => Some((*request, tag.bytes.clone())),
                Stage::Sent(..) | Stage::Served(_) => {
                    tag.kept = Some(Err(Errno::IO.raw_os_error()));
                    None
                }
                Stage::Answered(answer) => {
                    tag.kept = Some(answer.clone());
                    None
                }
                Stage::Idle | Stage::Fetched | Stage::Aborted { .. } => None,
            };
            tag.requeued = outstanding.or(tag.requeued.take());
            tag.stage = Stage::Idle;
        }
        self.info.state = match (self.has(Features::USER_RECOVERY), waits) {
            (true, true) => DeviceState::Quiesced,
            (true, false) => DeviceState::FailIo,
            (false, _) => DeviceState::Dead,
        };
        self.is_recovering = false;
    }

    /// Everything of the old server is forgotten; what it did not end is kept.
    fn forget_server(&mut self) {
        for tag in &mut self.tags {
            tag.server = None;
            tag.event.take();
            tag.stage = Stage::Idle;
        }
        self.queues_ready = 0;
        self.is_canceling = false;
        self.is_recovering = true;
    }

    /// What waited goes to the new server.
    fn resend(&mut self) {
        for tag in &mut self.tags {
            if let Some((request, bytes)) = tag.requeued.take() {
                tag.bytes.clone_from(&bytes);
                tag.stage = Stage::Sent(request, bytes);
                tag.signal();
            }
        }
    }

    /// What waits for a server that will not come fails.
    pub(super) fn fail_requeued(&mut self) {
        for tag in &mut self.tags {
            if tag.requeued.take().is_some() {
                tag.kept = Some(Err(Errno::IO.raw_os_error()));
            }
        }
    }
}

impl Shared {
    pub(super) fn start_recovery(&self, id: u32) -> Result<(), Errno> {
        let mut state = self.lock();
        let (busy, replaced_by) = (state.habits.busy_recoveries, state.habits.replaced_by);
        state.habits.busy_recoveries = busy.saturating_sub(1);
        let device = state.device(id)?;
        if !device.has(Features::USER_RECOVERY) || device.queues_ready == 0 {
            return Err(Errno::INVAL);
        }
        let is_left = matches!(device.info.state, DeviceState::Quiesced | DeviceState::FailIo);
        if device.is_open || !is_left || busy > 0 {
            device.info.mark = replaced_by.unwrap_or(device.info.mark);
            return Err(Errno::BUSY);
        }
        device.forget_server();
        Ok(())
    }

    pub(super) fn end_recovery(&self, id: u32, pid: u64) -> Result<(), Errno> {
        self.wait(|state| {
            let tags = &state.devices[&id].tags;
            tags.iter().all(|tag| tag.stage == Stage::Fetched).then_some(())
        });
        let mut state = self.lock();
        let device = state.device(id)?;
        if !matches!(device.info.state, DeviceState::Quiesced | DeviceState::FailIo) {
            return Err(Errno::BUSY);
        }
        device.info.server_pid = i32::try_from(pid).unwrap();
        device.info.state = DeviceState::Live;
        device.is_recovering = false;
        device.resend();
        drop(state);
        self.notify();
        Ok(())
    }

    /// No more requests, and idle tags come back; those that are served stay with the server for ever.
    pub(super) fn quiesce(&self, id: u32) -> Result<(), Errno> {
        let mut state = self.lock();
        let is_late = state.habits.quiesces_late;
        let device = state.device(id)?;
        if !device.has(Features::QUIESCE) {
            return Err(Errno::OPNOTSUPP);
        }
        if is_late {
            return Err(Errno::BUSY);
        }
        device.is_canceling = true;
        for tag in &mut device.tags {
            if tag.stage == Stage::Fetched {
                tag.stage = Stage::Aborted { told: false };
                tag.signal();
            }
        }
        drop(state);
        self.notify();
        Ok(())
    }

    pub(super) fn try_stop(self: &Arc<Self>, id: u32) -> Result<(), Errno> {
        let mut state = self.lock();
        if !state.habits.features.contains(Features::SAFE_STOP_DEV) {
            return Err(Errno::OPNOTSUPP);
        }
        let device = state.device(id)?;
        if device.users > 0 {
            return Err(Errno::BUSY);
        }
        // Whoever closed it last has written that back.
        device.is_dirty = false;
        drop(state);
        self.stop(id)
    }

    pub(super) fn update_size(&self, id: u32, sectors: u64) -> Result<(), Errno> {
        let mut state = self.lock();
        if !state.habits.features.contains(Features::UPDATE_SIZE) {
            return Err(Errno::OPNOTSUPP);
        }
        let params: &mut Params = state.device(id)?.params.as_mut().ok_or(Errno::INVAL)?;
        params.size.0 = sectors;
        Ok(())
    }
}
