//! What control clients can reach of a server, whatever its frontend.

use std::time::Duration;

use iomgr_core::policy::Governor;

use crate::error::{Error, ErrorKind};
use crate::server::{DiskExport, Served, Status, Stopper};

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

    /// Can there be more disks?
    fn check_attach(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Serves one more disk.
    fn attach(&self, export: DiskExport) -> Result<(), Error>;

    /// Serves the disk of that name no more; clients have until `timeout` to take their replies.
    fn detach(&self, name: &str, timeout: Duration) -> Result<(), Error>;

    /// Another manager is current, or it has other parameters.
    fn manager_changed(&self) {}

    /// May it end as one that is not needed any more? If so, it will.
    fn check_stop(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Makes the block device go away, unless somebody has it open.
    fn stop_idle(&self) -> Result<(), Error> {
        Err(Error::new(ErrorKind::Unsupported, "this server serves no block device"))
    }

    /// From now on the end leaves the block device to the next server.
    fn hand_over(&self) -> Result<(), Error> {
        Err(Error::new(ErrorKind::Unsupported, "this server serves no block device"))
    }

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
