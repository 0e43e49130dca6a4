//! One client's connection: does what it asks, and has what lasts from one request to the next.
//!
//! # Contract
//! - A lease is the connection's: when it ends, however it ends, the disk resumes. A lease holds neither disk nor server.

use std::collections::HashMap;

use super::request::{ResumeRequest, Verb};
use super::sample::Looks;
use super::{ControlAnswer, ManagerStatus, Service, disks, governing, policies};
use crate::error::{Error, ErrorKind};
use crate::pause::Lease;
use crate::server::Served;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Session {
    looks: Looks,
    /// By disk.
    leases: HashMap<String, Lease>,
}

impl Session {
    /// Does what a client asks, and answers. (`stop` is answered when the server has ended, by who has ended it.)
    pub(super) fn answer(&mut self, service: &dyn Service, verb: Verb) -> Result<ControlAnswer, Error> {
        let mut answer = ControlAnswer::ok();
        match verb {
            Verb::Status(_) => answer.status = Some(service.status()),
            Verb::Stop(_) => {
                service.check_stop()?;
                answer.stopping = true;
            }
            Verb::StopIdle(_) => {
                service.stop_idle()?;
                answer.stopping = true;
            }
            Verb::HandOver(_) => {
                service.hand_over()?;
                answer.stopping = true;
            }
            Verb::List(_) => answer.disks = Some(service.disks().iter().map(Served::entry).collect()),
            Verb::Stats(of) => answer.stats = Some(self.looks.sample(service, of.disk.as_deref())?),
            Verb::ManagerShow(_) => answer.manager = Some(ManagerStatus::of(service.governor())),
            Verb::ManagerSet(wish) => {
                governing::set(service.governor(), wish)?;
                service.manager_changed();
                answer.manager = Some(ManagerStatus::of(service.governor()));
            }
            Verb::ManagerUnset(which) => {
                governing::unset(service.governor(), which.name.as_deref())?;
                service.manager_changed();
                answer.manager = Some(ManagerStatus::of(service.governor()));
            }
            Verb::ManagerList(_) => answer.managers = Some(policies()),
            Verb::Pause(wish) => {
                let lease = disks::pause(service, &wish)?;
                // One that is left of an earlier pause is over.
                self.leases.remove(&wish.disk);
                self.leases.extend(lease.map(|lease| (wish.disk.clone(), lease)));
                answer.disk = Some(service.find(&wish.disk)?.entry());
            }
            Verb::Resume(wish) => {
                self.resume(service, &wish)?;
                answer.disk = Some(service.find(&wish.disk)?.entry());
            }
            Verb::Attach(wish) => answer.disk = Some(disks::attach(service, wish)?),
            Verb::Detach(which) => disks::detach(service, &which)?,
        }
        Ok(answer)
    }

    /// Who has a lease resumes from that pause only, and learns it if there was another one meanwhile.
    fn resume(&mut self, service: &dyn Service, wish: &ResumeRequest) -> Result<(), Error> {
        let resumed = disks::resume(service, wish, self.leases.get(&wish.disk));
        if resumed
            .as_ref()
            .err()
            .is_none_or(|error| error.kind() == ErrorKind::State)
        {
            self.leases.remove(&wish.disk);
        }
        resumed
    }

    /// Does it hold a lease of a disk that is paused? Then its silence is what its client wants.
    pub(super) fn holds_a_lease(&self, service: &dyn Service) -> bool {
        let disks = service.disks();
        let is_leased = |disk: &Served| disk.target.info().paused.is_some_and(|pause| pause.leased);
        disks
            .iter()
            .any(|disk| self.leases.contains_key(&disk.name()) && is_leased(disk))
    }
}
