//! The control device of the driver that is played.

use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, bounded};
use iomgr_core::{Data, DataHome, Errno};
use tqueue::EventWake;

use super::{Device, Shared, Stage, State, Tag};
use crate::abi::{ControlOp, Descriptor, DeviceInfo, DeviceState, Params};
use crate::driver::{ControlCall, ControlPort};
use crate::{Features, IoOp};

/// The control device.
#[derive(Debug)]
pub(crate) struct FakeControl(pub(super) Arc<Shared>);

impl ControlPort for FakeControl {
    fn run(&mut self, call: ControlCall, structure: &mut [u8]) -> Result<(), Errno> {
        let ControlCall {
            op,
            device,
            data,
            by_path,
            ..
        } = call;
        let shared = &self.0;
        shared.lock().log.push(op);
        if !matches!(op, ControlOp::Features | ControlOp::Add) {
            shared.lock().permit(op, device, by_path)?;
        }
        match op {
            ControlOp::Features => {
                structure.copy_from_slice(&shared.lock().habits.features.bits().to_ne_bytes());
                Ok(())
            }
            ControlOp::Affinity => shared.lock().affinity(device, data, structure),
            ControlOp::Add => shared.lock().add(device, structure),
            ControlOp::SetParams => shared.lock().set_params(device, structure),
            ControlOp::Params => {
                let params = shared.lock().device(device)?.params.clone().ok_or(Errno::INVAL)?;
                structure.copy_from_slice(&params.emit());
                Ok(())
            }
            ControlOp::DeviceInfo => {
                structure.copy_from_slice(&shared.lock().device(device)?.info.emit());
                Ok(())
            }
            ControlOp::Start => shared.start(device, data),
            ControlOp::Stop => shared.stop(device),
            ControlOp::Delete => shared.delete(device),
            ControlOp::StartRecovery => shared.start_recovery(device),
            ControlOp::EndRecovery => shared.end_recovery(device, data),
            ControlOp::Quiesce => shared.quiesce(device),
            ControlOp::TryStop => shared.try_stop(device),
            ControlOp::UpdateSize => shared.update_size(device, data),
        }
    }

    fn write_back(&self, device: u32) -> Receiver<Result<(), Errno>> {
        let (written, receiver) = bounded(1);
        let shared = Arc::clone(&self.0);
        thread::spawn(move || {
            shared.write_back(device);
            let _nobody = written.send(Ok(()));
        });
        receiver
    }
}

impl State {
    /// As `ublk_ctrl_uring_cmd_permission` does.
    fn permit(&mut self, op: ControlOp, id: u32, by_path: bool) -> Result<(), Errno> {
        let (is_root, is_node_ours) = (self.habits.is_root, self.habits.udev_looks == 0);
        let knows_try_stop = self.habits.features.contains(Features::SAFE_STOP_DEV);
        let is_unprivileged = self.device(id)?.info.features.contains(Features::UNPRIVILEGED_DEV);
        match (is_unprivileged, by_path) {
            (false, false) if is_root => Ok(()),
            (false, false) => Err(Errno::PERM),
            (false, true) => Err(Errno::FAULT),
            (true, false) => Err(Errno::INVAL),
            // Whose permission is asked for a command must be known.
            (true, true) if op == ControlOp::TryStop && !knows_try_stop => Err(Errno::INVAL),
            (true, true) if is_root || is_node_ours => Ok(()),
            (true, true) => Err(Errno::ACCESS),
        }
    }

    fn add(&mut self, id: u32, structure: &mut [u8]) -> Result<(), Errno> {
        let mut info = DeviceInfo::parse(structure);
        if info.id != id {
            return Err(Errno::INVAL);
        }
        if self.devices.len() >= self.habits.devices_max {
            return Err(Errno::ACCESS);
        }
        if id == DeviceInfo::ANY_ID {
            info.id = (0..).find(|id| !self.devices.contains_key(id)).unwrap();
        } else if self.devices.contains_key(&id) {
            return Err(Errno::EXIST);
        }
        if self.habits.is_root {
            info.features -= Features::UNPRIVILEGED_DEV;
        } else if !info.features.contains(Features::UNPRIVILEGED_DEV) {
            return Err(Errno::PERM);
        } else {
            info.features -= Features::USER_RECOVERY | Features::USER_RECOVERY_REISSUE;
        }
        info.features = info.features & self.habits.features | self.habits.forced;
        info.queues = info.queues.min(self.habits.queues_max);
        info.depth = info.depth.min(self.habits.depth_max);
        info.buffer_bytes = info.buffer_bytes.min(self.habits.buffer_bytes_max);
        structure.copy_from_slice(&info.emit());
        let tag = |_| Tag {
            server: None,
            event: EventWake::new().unwrap(),
            stage: Stage::Idle,
            bytes: Vec::new(),
            requeued: None,
            kept: None,
        };
        let device = Device {
            params: None,
            was_stopped: false,
            queues_ready: 0,
            is_recovering: false,
            is_canceling: false,
            is_dirty: true,
            users: 0,
            is_open: false,
            references: 0,
            tags: (0..info.queues * info.depth).map(tag).collect(),
            info,
        };
        self.devices.insert(device.info.id, device);
        Ok(())
    }

    fn affinity(&mut self, id: u32, queue: u64, structure: &mut [u8]) -> Result<(), Errno> {
        if self.habits.hides_processors {
            return Err(Errno::OPNOTSUPP);
        }
        let device = self.device(id)?;
        if queue >= device.info.queues.into() || !structure.len().is_multiple_of(8) {
            return Err(Errno::INVAL);
        }
        let processors = self.habits.processors.get(usize::try_from(queue).unwrap());
        structure[..8].copy_from_slice(&processors.unwrap_or(&u64::MAX).to_ne_bytes());
        Ok(())
    }

    /// As `ublk_validate_params` does.
    fn set_params(&mut self, id: u32, structure: &[u8]) -> Result<(), Errno> {
        let ignores_discard = self.habits.ignores_discard;
        let device = self.device(id)?;
        let mut params = Params::parse(structure);
        let logical = params.logical_block_shift;
        if !(9..=12).contains(&logical) || params.physical_block_shift < logical {
            return Err(Errno::INVAL);
        }
        if params.max_sectors > device.info.buffer_bytes >> 9 {
            return Err(Errno::INVAL);
        }
        if params.discard.is_some_and(|discard| discard.granularity_bytes == 0) {
            return Err(Errno::INVAL);
        }
        if ignores_discard {
            params.discard = None;
        }
        device.params = Some(params);
        Ok(())
    }
}

impl Shared {
    /// Waits for the tags, shows the block device, and reads the partition table.
    fn start(&self, id: u32, pid: u64) -> Result<(), Errno> {
        let mut state = self.lock();
        if state.device(id)?.was_stopped {
            state.accuse("a device that was stopped is started again");
            return Err(Errno::INVAL);
        }
        drop(state);
        if pid != u64::from(std::process::id()) {
            return Err(Errno::INVAL);
        }
        self.wait(|state| {
            let tags = &state.devices[&id].tags;
            tags.iter().all(|tag| tag.stage == Stage::Fetched).then_some(())
        });
        let mut state = self.lock();
        let device = state.device(id)?;
        device.params.as_ref().ok_or(Errno::INVAL)?;
        device.info.state = DeviceState::Live;
        drop(state);
        let scan = Descriptor {
            op_flags: IoOp::Read as u32,
            sectors: 8,
            start_sector: 0,
        };
        let tag = self.send(id, None, scan, &[]);
        // What is in the table, and whether it can be read, does not matter.
        let _table = self.answer(id, tag);
        Ok(())
    }

    /// Writes back what the page cache has.
    fn write_back(&self, id: u32) {
        let dirty = Descriptor {
            op_flags: IoOp::Write as u32,
            sectors: 1,
            start_sector: 0,
        };
        let tag = self.send(id, None, dirty, &[0x5a; 512]);
        let _written = self.answer(id, tag);
        if let Ok(device) = self.lock().device(id) {
            device.is_dirty = false;
        }
    }

    /// Writes back what the page cache has, unless the device outlives its server; waits for what is in flight, then aborts
    /// the tags.
    pub(super) fn stop(&self, id: u32) -> Result<(), Errno> {
        let mut state = self.lock();
        let device = state.device(id)?;
        let (is_live, is_dirty) = (device.info.state == DeviceState::Live, device.is_dirty);
        let fails_at_once = device.info.features.contains(Features::USER_RECOVERY);
        device.fail_requeued();
        if is_live && is_dirty && fails_at_once {
            state.accuse("what the page cache held is lost");
        }
        drop(state);
        self.notify();
        if is_live && is_dirty && !fails_at_once {
            self.write_back(id);
        }
        self.wait(|state| {
            let device = state.devices.get_mut(&id)?;
            let is_quiet = |tag: &Tag| !matches!(tag.stage, Stage::Sent(..) | Stage::Served(_));
            device.tags.iter().all(is_quiet).then(|| device.abort())
        });
        self.notify();
        Ok(())
    }

    /// The kernel would wait for the last reference; who deletes while it holds one itself would wait for ever.
    fn delete(&self, id: u32) -> Result<(), Errno> {
        let mut state = self.lock();
        if state.device(id)?.references > 0 {
            state.accuse("a device is deleted by who has it open");
            return Err(Errno::TIMEDOUT);
        }
        state.devices.remove(&id);
        Ok(())
    }

    /// Hands a request to the server, on the next tag that is fetched: of that queue, if one is named.
    pub(super) fn send(&self, id: u32, queue: Option<u16>, descriptor: Descriptor, bytes: &[u8]) -> usize {
        self.wait(|state| {
            let device = state.device(id).unwrap();
            if device.is_canceling || device.info.state != DeviceState::Live {
                return None;
            }
            let mut place = queue.map_or(0..device.tags.len(), |queue| device.place(queue));
            let at = place.find(|&at| device.tags[at].stage == Stage::Fetched)?;
            device.tags[at].bytes = bytes.to_vec();
            device.tags[at].stage = Stage::Sent(descriptor, bytes.to_vec());
            device.tags[at].signal();
            Some(at)
        })
    }

    /// Waits for a request's end.
    pub(super) fn answer(&self, id: u32, tag: usize) -> Result<Vec<u8>, i32> {
        let answer = self.wait(|state| {
            let tag = &mut state.device(id).unwrap().tags[tag];
            if let Some(kept) = tag.kept.take() {
                return Some(kept);
            }
            let Stage::Answered(answer) = tag.stage.clone() else {
                return None;
            };
            tag.stage = Stage::Fetched;
            Some(answer)
        });
        self.notify();
        answer
    }
}

impl Device {
    fn abort(&mut self) {
        self.info.state = DeviceState::Dead;
        self.was_stopped = true;
        for tag in &mut self.tags {
            if tag.stage != Stage::Idle {
                tag.stage = Stage::Aborted { told: false };
                tag.signal();
            }
        }
    }

    /// Can a tag be fetched with this buffer?
    pub(super) fn takes(&self, tag: u16, buffer: Data) -> bool {
        match self.info.is_zero_copy() {
            true => buffer.home == DataHome::Registered(tag.into()),
            false => buffer.len >= self.info.buffer_bytes && !self.info.features.contains(Features::USER_COPY),
        }
    }
}
