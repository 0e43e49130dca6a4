//! What control clients can reach of a server, whatever its frontend, and what is done with it.

use iomgr_core::policy::Governor;

use super::request::Verb;
use super::sample::Looks;
use super::{ControlAnswer, ManagerStatus, governing, policies};
use crate::error::{Error, ErrorKind};
use crate::server::{Served, Status, Stopper};

/// What clients can reach.
pub(crate) trait Service: Send + Sync {
    /// How the server and its disks are.
    fn status(&self) -> Status;

    /// The disks that are served now, in the order in which they came.
    fn disks(&self) -> Vec<Served>;

    /// Who governs the requests.
    fn governor(&self) -> &Governor;

    /// To ask for the end.
    fn stopper(&self) -> Stopper;

    /// The disk of that name.
    fn find(&self, name: &str) -> Result<Served, Error> {
        let disks = self.disks();
        let names: Vec<_> = disks.iter().map(Served::name).collect();
        let found = disks.into_iter().find(|disk| disk.name() == name);
        found.ok_or_else(|| {
            let what = format!("no disk here is called {name:?}; there are {}", names.join(", "));
            Error::new(ErrorKind::NotFound, what)
        })
    }
}

/// What a connection has that lasts from one request to the next.
#[derive(Debug, Default)]
pub(super) struct Session {
    looks: Looks,
}

impl Session {
    /// Does what a client asks, and answers. (`stop` is answered when the server has ended, by who has ended it.)
    pub(super) fn answer(&mut self, service: &dyn Service, verb: Verb) -> Result<ControlAnswer, Error> {
        let mut answer = ControlAnswer::ok();
        match verb {
            Verb::Status(_) => answer.status = Some(service.status()),
            Verb::Stop(_) => answer.stopping = true,
            Verb::List(_) => answer.disks = Some(service.disks().iter().map(Served::entry).collect()),
            Verb::Stats(of) => answer.stats = Some(self.looks.sample(service, of.disk.as_deref())?),
            Verb::ManagerShow(_) => answer.manager = Some(ManagerStatus::of(service.governor())),
            Verb::ManagerSet(wish) => {
                governing::set(service.governor(), wish)?;
                answer.manager = Some(ManagerStatus::of(service.governor()));
            }
            Verb::ManagerUnset(which) => {
                governing::unset(service.governor(), which.name.as_deref())?;
                answer.manager = Some(ManagerStatus::of(service.governor()));
            }
            Verb::ManagerList(_) => answer.managers = Some(policies()),
        }
        Ok(answer)
    }
}
